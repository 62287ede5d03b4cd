"""What indexes are tuned by: users of all kinds, as they were last."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_world import Toy

from tamis.config import convert
from tamis.data.picks import evenly
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.recall.sequential import Sequential, SequentialConfig
from tamis.recall.tuning import last_requests, request_vectors
from tamis.recall.two_tower import TwoTower, TwoTowerConfig
from tamis.recall.youtube_dnn import YoutubeDnn, YoutubeDnnConfig

SMALL = {"epochs": 1, "vector_size": 8, "index": {"kind": "ivf", "recall_queries": 30}}


class Samples(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.user)


def test_the_last_request_of_some_users_of_all_numbers() -> None:
    user = np.array([4, 0, 4, 2, 0, 9, 2, 7], np.int32)
    requests: Any = Samples(user=user)
    assert last_requests(requests, 10).tolist() == [2, 4, 5, 6, 7]
    assert last_requests(requests, 2).tolist() == [2, 4]  # of users 4 and 0: of five every second or third
    assert last_requests(Samples(user=user[:0]), 3).tolist() == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "most"), [(0, 3), (2, 3), (3, 3), (7, 3), (399, 200), (1000, 7)])
def test_evenly_is_never_more_and_reaches_the_last_part(count: int, most: int) -> None:
    taken = evenly(np.arange(count), most)
    assert len(taken) == min(count, most)
    assert (np.diff(taken) > 0).all()
    if count:
        assert taken[0] == 0
        assert count - taken[-1] <= -(-count // most)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(TwoTower, TwoTowerConfig), (YoutubeDnn, YoutubeDnnConfig), (Sequential, SequentialConfig)],
)
def test_an_index_is_tuned_by_vectors_of_users(toy: Toy, kind: Any, config: Any, monkeypatch: Any) -> None:
    asked = []
    build = Vectors.build

    def spy(vectors: Any, how: VectorsConfig, k: int, queries: Any, seed: int) -> Vectors:
        asked.append((vectors, queries))
        return build(vectors, how, k, queries, seed)

    monkeypatch.setattr(Vectors, "build", staticmethod(spy))
    kind.fit(convert(SMALL, config), toy.inputs, 1)
    vectors, queries = asked[0]
    assert 0 < len(queries) <= 30
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    assert (vectors @ queries.T).max() < 1 - 1e-6  # no item's vector


def test_without_requests_there_are_no_vectors() -> None:
    assert request_vectors(SimpleNamespace(train=Samples(user=np.empty(0))), None, 5) is None  # type: ignore[arg-type]
