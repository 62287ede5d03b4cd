import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from litestar.testing import TestClient
from serving_fakes import FakeModel, engine, load_fake, service, write_bundle
from structlog.testing import capture_logs

from tamis.artifact import publish
from tamis.serving.app import create
from tamis.serving.engine import Engine, StandardLimits
from tamis.serving.reload import BundleWatch, warm_up
from tamis.serving.service import Fleet, Service
from tamis.serving.wire import RecommendRequest
from tamis.serving.workers import watch_bundles
from tamis.state.memory import Memory
from tamis.types import Query


class Swaps:
    """Remembers what was swapped in and how many were refused."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.refusals = 0

    def refuse(self) -> None:
        self.refusals += 1

    @property
    def names(self) -> list[str]:
        return [made.model.name for made in self.engines]


def watch(root: Path, swaps: Swaps) -> BundleWatch:
    return BundleWatch(root, load_fake(Memory()), swaps.engines.append, swaps.refuse, 0.01)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def damage(path: Path) -> None:
    with (path / "fake" / "model.json").open("r+b") as file:
        file.write(b"X")


@pytest.fixture
def swaps() -> Swaps:
    return Swaps()


def test_a_folder_without_a_bundle_is_waited_for(tmp_path: Path, swaps: Swaps) -> None:
    made = watch(tmp_path / "bundles", swaps)
    assert not made.first()
    assert not made.check()
    bundle = write_bundle(tmp_path / "bundles")
    assert not made.check()
    publish(bundle)
    assert made.check()
    assert swaps.names == [bundle.name]
    assert not made.check()


def test_each_newly_published_bundle_is_swapped_in_once(tmp_path: Path, swaps: Swaps) -> None:
    made, names = watch(tmp_path, swaps), []
    for _ in range(3):
        bundle = write_bundle(tmp_path)
        publish(bundle)
        names.append(bundle.name)
        made.check()
        made.check()
    assert swaps.names == names


@pytest.mark.parametrize("spoil", ["changed", "missing", "foreign", "useless"])
def test_a_bad_bundle_is_refused_logged_and_the_old_one_stays(tmp_path: Path, swaps: Swaps, spoil: str) -> None:
    made, good = watch(tmp_path, swaps), write_bundle(tmp_path)
    publish(good)
    made.check()
    bad = write_bundle(tmp_path, works=spoil != "useless")
    if spoil == "changed":
        damage(bad.path)
    elif spoil == "missing":
        (bad.path / "fake" / "model.json").unlink()
    elif spoil == "foreign":
        (bad.path / "stranger.npy").write_bytes(b"")
    publish(bad)
    with capture_logs() as logs:
        assert not made.check()
        assert not made.check()
    assert swaps.names == [good.name]
    assert swaps.refusals == 1
    assert [(entry["event"], entry["bundle"]) for entry in logs] == [("bundle refused", bad.name)]
    publish(good)
    better = write_bundle(tmp_path)
    publish(better)
    assert made.check()


def test_a_worker_that_starts_on_a_bad_bundle_serves_the_newest_good_one(tmp_path: Path, swaps: Swaps) -> None:
    good = write_bundle(tmp_path)
    bad = write_bundle(tmp_path)
    while bad.name < good.name:  # names within one second are in random order
        bad = write_bundle(tmp_path)
    publish(good)
    held_back = write_bundle(tmp_path)  # by the gate: it must not serve, however new it is
    damage(bad.path)
    publish(bad)
    assert watch(tmp_path, swaps).first()
    assert swaps.names == [good.name]
    assert held_back.path.is_dir()


def test_a_folder_of_bad_bundles_serves_nothing(tmp_path: Path, swaps: Swaps) -> None:
    bad = write_bundle(tmp_path)
    damage(bad.path)
    publish(bad)
    assert not watch(tmp_path, swaps).first()


def test_a_worker_without_any_bundle_tries_a_refused_one_again(tmp_path: Path) -> None:
    publish(write_bundle(tmp_path))
    swaps, works = Swaps(), threading.Event()

    def load(path: Path) -> Engine:
        if not works.is_set():
            raise MemoryError
        return load_fake(Memory())(path)  # type: ignore[no-any-return]

    made = BundleWatch(tmp_path, load, swaps.engines.append, swaps.refuse, 0.01)
    made.start()
    until(lambda: swaps.refusals >= 2)
    works.set()
    until(lambda: len(swaps.engines) == 1)
    made.stop()


def test_warming_up_asks_for_real_users_and_leaves_no_trace() -> None:
    state = Memory()
    made = engine(FakeModel(), state)
    warm_up(made)
    assert state.log() == []
    assert not state.user("u0").known


def test_warming_up_meets_a_new_item_and_new_events_on_a_state_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    model = FakeModel()
    run = model.funnel.run

    def noted(query: Query, *arguments: Any, **named: Any) -> Any:
        asked.append((len(query.catalog) - query.catalog.base, len(query.history)))
        return run(query, *arguments, **named)

    monkeypatch.setattr(model.funnel, "run", noted)
    warm_up(engine(model, state := Memory()))
    assert max(asked) == (1, 11), asked  # one item newer than the bundle, and all that was done
    assert state.item_version() == 0


def test_warming_up_keeps_to_a_small_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    model = FakeModel()
    run = model.funnel.run

    def noted(query: Query, *arguments: Any, **named: Any) -> Any:
        asked.append(query.size)
        return run(query, *arguments, **named)

    monkeypatch.setattr(model.funnel, "run", noted)
    warm_up(Engine(model, Memory(), StandardLimits(most_items=5)))
    assert max(asked) == 5


def test_no_request_fails_while_bundles_are_swapped_and_refused(tmp_path: Path) -> None:
    """Callers in threads ask without a pause while good and bad bundles are published in turn."""
    publish(write_bundle(tmp_path))
    whole, stop = service(threads=2, queue=64), threading.Event()
    following = watch_bundles(whole, tmp_path, load_fake(Memory()), 0.01)
    answers: list[tuple[int, str]] = []

    with TestClient(create(whole, on_shutdown=(following.stop, whole.close))) as client:
        until(lambda: whole.engine is not None)

        def ask() -> None:
            while not stop.is_set():
                response = client.post("/v1/recommend", json={"user_id": "u1", "size": 3})
                answers.append((response.status_code, response.json().get("bundle", "")))

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for caller in callers:
            caller.start()
        names = [whole.bundle()]
        for turn in range(4):
            bad = write_bundle(tmp_path, works=turn % 2 == 1)
            if turn % 2:
                damage(bad.path)
            publish(bad)
            until(lambda bad=bad: following._looked_at == bad.name)  # type: ignore[misc]
            good = write_bundle(tmp_path, items=50 + turn)
            names.append(good.name)
            publish(good)
            until(lambda good=good: whole.bundle() == good.name)  # type: ignore[misc]
            before = len(answers)
            until(lambda before=before: len(answers) > before + 10)  # type: ignore[misc]
        stop.set()
        for caller in callers:
            caller.join()
    assert {status for status, _ in answers} == {200}
    assert {name for _, name in answers} == set(names)


def test_requests_under_way_finish_on_the_engine_they_began_with() -> None:
    whole = service()
    first, second = engine(FakeModel(name="one")), engine(FakeModel(name="two"))
    whole.use(first)
    whole.use(second)
    assert first.recommend(RecommendRequest(user_id="u1")).bundle == "one"
    assert whole.bundle() == "two"
    assert b'tamis_bundle_workers{bundle="one"} 0.0' in whole.meters.text()
    assert b'tamis_bundle_workers{bundle="two"} 1.0' in whole.meters.text()
    whole.close()


def test_a_fleet_is_complete_when_all_its_workers_were_ready(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, workers=2)
    assert not fleet.any_ready()
    fleet.mark(1)
    assert fleet.any_ready()
    assert not fleet.complete()
    fleet.mark(1)
    assert not fleet.complete()
    fleet.mark(2)
    assert fleet.complete()
    (tmp_path / "1").unlink()
    assert fleet.complete()


def test_a_worker_is_ready_only_with_the_whole_fleet(tmp_path: Path) -> None:
    whole: Service = service(fleet=Fleet(tmp_path, workers=2))
    whole.use(engine())
    assert not whole.ready()
    whole.fleet.mark(1)
    whole.fleet.mark(2)
    assert whole.ready()
    whole.close()
