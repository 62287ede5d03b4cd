"""What a net is to look like and how it is trained: plain values, so that parts can name them without torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

P = TypeVar("P")
Precision = Literal["float32", "mixed"]
Device = Literal["auto", "cpu", "cuda"]
Cross = Literal["fm", "dcn", "dcn_v2", "gdcn", "senet", "bilinear", "senet_bilinear", "final_mlp"]
BilinearWeights = Literal["all", "each", "interaction"]
BilinearForm = Literal["inner", "hadamard"]
Mixture = Literal["mmoe", "ple"]
EmbeddingSteps = Literal["touched", "all"]
Normalization = Literal["none", "batch"]
PersonalGating = Literal["none", "lhuc", "ppnet"]
HowToSearch = Literal["none", "hard", "soft"]
Position = Literal["none", "feature", "tower"]
CrossPlace = Literal["under", "beside"]


def plan_of(kind: type[P], config: Any, **others: Any) -> P:
    """A plan (one of the dataclasses of `nets`) filled from the settings of a step that are called like its fields.

    others: fields that the step has no setting for. What neither names keeps the plan's default.
    """
    names = [field.name for field in fields(kind) if field.name not in others]  # type: ignore[arg-type]
    return kind(**{name: getattr(config, name) for name in names if hasattr(config, name)}, **others)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How `loop.train` trains.

    epochs: most passes over the training requests.   batch_size: rows (not requests) per step, whole requests only.
    learning_rate: Adam's, for everything but the embeddings.   embedding_learning_rate: of the fused table's rows.
    wide_learning_rate: of the rows of first-order tables, single numbers that have further to go and are not pulled.
    l2: pull of the embedding rows that move towards zero.   decay_to: learning rates fall linearly to this share.
    embedding_steps: which rows move at a step, those that the batch touched or all; the latter costs a pass over the
    whole table each time, and a rare id is pulled as often as a frequent one.
    patience: epochs without a better validation score before stopping; 0 = never stop early, keep the last.
    unknown_share: share of rows that are trained with the id taken away, so that new users and items are understood.
    precision: of matrix products, see `nets.products`.
    device: where, see `nets.device.chosen`.
    threads: of torch.   prefetch: gather the next batch while this one is computed.
    in_order: requests as they come, not shuffled anew for each epoch.
    """

    epochs: int = 1
    batch_size: int = 2048
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 1e-3
    wide_learning_rate: float = 1e-2
    l2: float = 0.0
    embedding_steps: EmbeddingSteps = "touched"
    decay_to: float = 1.0
    patience: int = 1
    unknown_share: float = 0.0
    precision: Precision = "float32"
    device: Device = "auto"
    threads: int = 2
    prefetch: bool = True
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class MultitaskShape:
    """How the fine ranker's net looks.

    embedding_size, attention_hidden: multiples of 4.   attention: see `nets.sequence`.
    embedding_spread: standard deviation of a new embedding; what a rare id keeps of it is noise.
    search: attention over what each candidate finds in the long history too (`features.search`), besides that over the
    newest entries.   search_field: item feature whose equals hard search finds.   search_entries: most for a candidate.
    experts: nets that the tasks share, 1 = a shared bottom.   expert_hidden, tower_hidden: widths of their layers.
    mixture: how the tasks share them; "ple" gives each task `head_experts` of its own too, in `extraction_levels`.
    personal_gates: see `nets.personal`.   personal_hidden: width of the hidden layer of each gate net.
    crosses: see `nets.crosses`.   cross_place: what they say joins the candidate's side, which experts, gates and
    `wide` read ("under"), or goes to the heads by a straight line of its own ("beside").
    cross_depth: layers of dcn, dcn_v2 and gdcn.   cross_rank: of the matrices of the last two, 0 = full ones.
    cross_experts: low-rank maps mixed in each layer.   senet_reduction: fields per number of SENet's inner layer.
    bilinear_weights, bilinear_form: see `crosses.bilinear`.
    stream_hidden: layers of each stream of final_mlp.   stream_heads: of their fusion, a divisor of the last layer.
    gate_dropout: share of gate weights masked in training, against gates that pick a single expert.
    dropout: share of the experts' hidden units left out in training, where few rows would be learnt by heart.
    normalization: of the experts' hidden layers in training, see `nets.normalize`.
    wide: beside the towers, a straight line from the inputs to every head, and a weight of its own for each head and
    code of the item.
    powers: squares and roots of all numbers besides them, see `embed.Standardize`.
    position: how the place of a training row is used, see `nets.position`.
    """

    embedding_size: int = 16
    embedding_spread: float = 0.01
    attention: Literal["din", "dot", "mean"] = "din"
    attention_hidden: int = 36
    search: HowToSearch = "none"
    search_field: str = "category"
    search_entries: int = 32
    experts: int = 4
    expert_hidden: tuple[int, ...] = (128, 64)
    tower_hidden: tuple[int, ...] = (32,)
    gate_dropout: float = 0.1
    dropout: float = 0.0
    normalization: Normalization = "none"
    mixture: Mixture = "mmoe"
    head_experts: int = 1
    extraction_levels: int = 2
    personal_gates: PersonalGating = "none"
    personal_hidden: int = 32
    crosses: tuple[Cross, ...] = ()
    cross_place: CrossPlace = "under"
    cross_depth: int = 2
    cross_rank: int = 0
    cross_experts: int = 1
    senet_reduction: int = 3
    bilinear_weights: BilinearWeights = "each"
    bilinear_form: BilinearForm = "inner"
    stream_hidden: tuple[int, ...] = (128, 64)
    stream_heads: int = 4
    wide: bool = True
    powers: bool = False
    position: Position = "none"
