"""What each user of the training was interested in last: a table with a row per user, read like one of neighbours."""

import numpy as np
from scipy.sparse import csr_matrix

from tamis.features.inputs import Inputs
from tamis.recall.neighbours import Neighbours
from tamis.types import ACTION_CODE


def last_liked(inputs: Inputs, interest: csr_matrix, most: int) -> Neighbours:
    """The `most` items of each user that he showed interest in last, newest first, and how much.

    interest: [users, items] what `inputs.interest()` gives.
    """
    chosen = np.isin(np.asarray(inputs.events.action), [ACTION_CODE[name] for name in inputs.interest_actions])
    pair = inputs.events.user[chosen].astype(np.int64) * interest.shape[1] + inputs.events.item[chosen]
    age = np.unique(pair[::-1], return_index=True)[1]  # of the pairs in the order of the matrix: 0 = the newest event
    lengths = np.diff(interest.indptr)
    users = np.repeat(np.arange(interest.shape[0]), lengths)
    order = np.lexsort((age, users))
    place = np.arange(len(order)) - np.repeat(interest.indptr[:-1], lengths)
    keep = place < most
    ids = np.full((interest.shape[0], min(most, int(lengths.max(initial=0)))), -1, np.int32)
    weights = np.zeros(ids.shape, np.float32)
    ids[users[keep], place[keep]] = interest.indices[order][keep]
    weights[users[keep], place[keep]] = interest.data[order][keep]
    return Neighbours(ids, weights)
