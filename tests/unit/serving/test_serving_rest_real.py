"""The REST application over a bundle with real parts: what must never be a 500."""

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from serving_fakes import FakeModel, engine, service

from tamis.artifact import open_bundle
from tamis.assemble import load_model
from tamis.serving.app import create
from tamis.serving.engine import Engine
from tamis.serving.reload import warm_up
from tamis.state.memory import Memory
from tamis.state.protocol import ItemRow, State

Client = TestClient[Litestar]
HUGE = "1" + "0" * 400


def serving(made: Engine) -> Client:
    whole = service(deadline_ms=20_000.0)
    whole.use(made)
    return TestClient(create(whole, on_shutdown=(whole.close,)))


@pytest.fixture
def state() -> State:
    return Memory()


@pytest.fixture
def client(tiny: Any, state: State) -> Iterator[Client]:
    with serving(Engine(load_model(open_bundle(tiny.project.bundles)), state)) as made:
        yield made


def page(client: Client, user: str = "u", **more: Any) -> Any:
    response = client.post("/v1/recommend", json={"user_id": user, **more})
    assert response.status_code == 200, response.text
    return response.json()


def test_an_empty_catalogue_is_answered_in_every_call() -> None:
    made = engine(FakeModel(items=0))
    warm_up(made)
    with serving(made) as client:
        body = page(client, explain=True)
        assert (body["items"], body["degraded"], body["trace"]) == ([], False, [])
        ranked = client.post("/v1/rank", json={"user_id": "u", "item_ids": ["a"]})
        assert (ranked.status_code, ranked.json()["items"], ranked.json()["missing"]) == (200, [], ["a"])
        event = {"user_id": "u", "item_id": "a", "action": "click"}
        for method, path, body in (
            ("POST", "/v1/events", event),
            ("GET", "/v1/items/a", None),
            ("GET", "/v1/items/a/similar", None),
            ("DELETE", "/v1/items/a", None),
        ):
            assert client.request(method, path, json=body).json()["error"]["field"] == "item_id"
        assert client.post("/v1/events", json=[event]).json()["accepted"] == 0
        assert client.put("/v1/items/a", json={}).status_code == 200
        assert [item["item_id"] for item in page(client)["items"]] == ["a"]


def test_a_catalogue_of_which_all_is_taken_down_gives_an_empty_page(client: Client, tiny: Any, state: State) -> None:
    ids = tiny.dataset.items["item_id"].to_list()
    for item in ids:
        state.put_item(ItemRow(item_id=item, closed=True))
    for user in ("nobody", tiny.dataset.user_ids.external(0)):
        body = page(client, user, explain=True)
        assert (body["items"], body["degraded"]) == ([], False)
    assert client.get(f"/v1/items/{ids[0]}/similar").status_code == 404
    ranked = client.post("/v1/rank", json={"user_id": "u", "item_ids": ids[:3]}).json()
    assert (ranked["items"], ranked["missing"]) == ([], ids[:3])
    client.put("/v1/items/first", json={"category": "music"})
    assert [item["item_id"] for item in page(client)["items"]] == ["first"]
    assert client.get("/v1/items/first/similar").status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/users/u", f'{{"age": {HUGE}}}', "age"),
        ("/v1/users/u", f'{{"age": -{HUGE}}}', "age"),
        ("/v1/users/u", '{"age": "old"}', "age"),
        ("/v1/users/u", '{"age": [3]}', "age"),
        ("/v1/users/u", '{"gender": ["m"]}', "gender"),
        ("/v1/users/u", f'{{"other": {HUGE}}}', "profile"),
        ("/v1/items/i", '{"keywords": "music"}', "keywords"),
        ("/v1/items/i", '{"keywords": 5}', "keywords"),
        ("/v1/items/i", f'{{"extra": {{"mood": {HUGE}}}}}', "item"),
        ("/v1/items/i", f'{{"quality": {HUGE}}}', "quality"),
    ],
)
def test_a_value_that_cannot_be_used_is_400_and_names_the_field(
    client: Client, path: str, body: str, field: str
) -> None:
    response = client.put(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["field"] == field
    assert len(response.json()["error"]["message"]) < 200
    assert page(client, "u")["items"]


def test_what_was_stored_before_a_feature_was_declared_does_no_harm(client: Client, state: State) -> None:
    state.put_user("u", {"age": "old", "gender": ["m"], "city": {"name": "x"}, "device": 2**60})
    body = page(client, "u", context={"anything": 1e308, "city": "x" * 100})
    assert len(body["items"]) == 20
    assert not body["degraded"]
