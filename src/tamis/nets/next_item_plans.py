"""What the nets that tell the next item are to look like and what they are trained on: plain values, no torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.data.picks import ranges
from tamis.errors import ConfigError
from tamis.nets.plans import TrainingPlan


@dataclass(frozen=True, slots=True)
class SequentialPlan:
    """The shape of a sequential net and its loss. Raises ConfigError for what cannot be.

    vector_size: width of an item's vector and of what goes from block to block.   blocks: of attention and
    feed-forward.   attention_heads: of each block.   hidden_size: width inside the feed-forward.
    length: entries of a history that are looked at, the newest.
    dropout: share of numbers set to 0 in training, in steps of 1/256.
    temperature: cosines are divided by it in training.   negatives: see `nets.softmax`.
    judge_k, judge_users: after each epoch NDCG@judge_k of the first held-out entry of about so many users is measured.
    """

    training: TrainingPlan
    vector_size: int = 64
    blocks: int = 2
    attention_heads: int = 2
    hidden_size: int = 128
    length: int = 200
    dropout: float = 0.2
    temperature: float = 0.07
    negatives: int = 8192
    judge_k: int = 10
    judge_users: int = 3000

    def __post_init__(self) -> None:
        if self.vector_size % self.attention_heads:
            raise ConfigError(
                f"vector_size {self.vector_size} and {self.attention_heads} attention_heads: wanted a multiple of them"
            )


@dataclass(frozen=True, slots=True)
class Sequences:
    """What each of u users did, oldest first, user after user, in rows of a list of `count` items.

    items: [e] rows.   starts: [u + 1] where each user's entries begin.
    learnt: [u] where those end that may be learnt from; the user's entries from there on are held out to judge by.
    """

    items: NDArray[np.int64]
    starts: NDArray[np.int64]
    learnt: NDArray[np.int64]
    count: int

    @property
    def targets(self) -> NDArray[np.int64]:
        """Places of the entries that are learnt and have one before them, ascending."""
        return ranges(self.starts[:-1] + 1, np.maximum(self.learnt - self.starts[:-1] - 1, 0))


@dataclass(frozen=True, slots=True)
class YoutubePlan:
    """The shape of a YouTube-DNN and its loss.

    positives: actions that make a row an example.   embedding_size: width of one embedding.
    user_layers: widths of the hidden layers.   vector_size: width of the vectors that meet.
    user_examples: most of one user, 0 = all.   temperature: cosines are divided by it in training.
    negatives: see `nets.softmax`.   judge_k, judge_requests: after each epoch recall@judge_k of about so many held-out
    requests is measured.
    """

    training: TrainingPlan
    positives: tuple[str, ...]
    embedding_size: int = 32
    user_layers: tuple[int, ...] = (256, 128)
    vector_size: int = 64
    user_examples: int = 100
    temperature: float = 0.07
    negatives: int = 8192
    judge_k: int = 100
    judge_requests: int = 2000
