"""Vectors like those of requests, by which an index of items is tuned and its recall measured.

A vector of a user lies elsewhere than those of items: what finds 99 % around items may find 92 % around users. And
users are not alike: those with the highest numbers came last and did least, so some of all are taken.
"""

import numpy as np
from numpy.typing import NDArray

from tamis.data.picks import evenly
from tamis.data.samples import Samples
from tamis.features.inputs import Inputs
from tamis.nets.session import Session


def last_requests(samples: Samples, most: int) -> NDArray[np.int64]:
    """[≤ most] positions, ascending, of the last requests of some users at equal distances by their numbers."""
    _, back = np.unique(np.asarray(samples.user)[::-1], return_index=True)
    return np.sort(len(samples) - 1 - evenly(back, most))


def request_vectors(inputs: Inputs, user_net: Session, most: int) -> NDArray[np.float32] | None:
    """[q, d] what an exported user side (output `vector`) makes of such requests of the training; None without any."""
    if not len(inputs.train):
        return None
    batch = inputs.batch(inputs.train, last_requests(inputs.train, most))
    vectors: NDArray[np.float32] = user_net.answer(batch)["vector"]
    return vectors.reshape(-1, vectors.shape[-1])
