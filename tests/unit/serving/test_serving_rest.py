import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient
from serving_fakes import NOW, Broken, FakeModel, Slow, engine, funnel, service
from structlog.testing import capture_logs

from tamis.errors import StateError
from tamis.funnel import Funnel, Stage
from tamis.serving import app
from tamis.serving.app import create
from tamis.serving.engine import Engine
from tamis.state.memory import Memory

Client = TestClient[Litestar]


@pytest.fixture
def client() -> Iterator[Client]:
    with serving(engine()) as made:
        yield made


def serving(made: Engine | None, **options: Any) -> Client:
    whole = service(**options)
    if made is not None:
        whole.use(made)
    return TestClient(create(whole, on_shutdown=(whole.close,)), raise_server_exceptions=True)


def error_of(response: Any) -> dict[str, str]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    assert "Traceback" not in response.text
    assert response.headers["content-type"].startswith("application/json")
    return body["error"]


def shown(client: Client, user: str = "u1", **more: Any) -> list[str]:
    response = client.post("/v1/recommend", json={"user_id": user, **more})
    assert response.status_code == 200
    return [item["item_id"] for item in response.json()["items"]]


def event(item: str, action: str = "click", **more: Any) -> dict[str, Any]:
    return {"user_id": "u1", "item_id": item, "action": action, **more}


# ---- recommend ---------------------------------------------------------------------------------------------------


def test_recommend_answers_with_exactly_the_promised_fields(client: Client) -> None:
    body = client.post(
        "/v1/recommend", json={"user_id": "u1", "size": 2, "context": {"lat": 45.7, "city": "Lyon"}}
    ).json()
    assert set(body) == {"request_id", "user_id", "bundle", "degraded", "arms", "items"}
    assert set(body["items"][0]) == {"item_id", "score", "channel", "reason"}
    assert body["degraded"] is False
    assert len(body["items"]) == 2


def test_explain_adds_the_trace(client: Client) -> None:
    body = client.post("/v1/recommend", json={"user_id": "u1", "explain": True}).json()
    assert {"stage", "step", "rows_in", "rows_out", "milliseconds", "status"} <= set(body["trace"][0])
    assert body["items"][0]["found_by"] == ["newest", "popular"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b"{", ""),
        (b"\xff\xfe", ""),
        (b"[1, 2]", ""),
        (b"{}", "user_id"),
        (b'{"user_id": 1}', "user_id"),
        (b'{"user_id": "u", "size": "many"}', "size"),
        (b'{"user_id": "u", "size": -1}', "size"),
        (b'{"user_id": "u", "size": 1000000000000000000000}', "size"),
        (b'{"user_id": "u", "size": 201}', "size"),
        (b'{"user_id": "u", "sizes": 1}', "sizes"),
        (b'{"user_id": "u", "exclude": "i1"}', "exclude"),
        (b'{"user_id": "u", "context": [1]}', "context"),
        (b'{"user_id": "u", "context": {"lat": "x"}}', "context.lat"),
        (b'{"user_id": "u", "explain": "yes"}', "explain"),
        (b'{"user_id": "%s"}' % ("é" * 200).encode(), "user_id"),
    ],
)
def test_a_bad_request_is_400_and_names_the_field(client: Client, body: bytes, field: str) -> None:
    response = client.post("/v1/recommend", content=body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["field"]) == ("bad_request", field)
    assert error["message"]


def test_an_oversized_body_is_413_with_and_without_a_content_length(client: Client) -> None:
    big = b'{"user_id": "' + b"a" * (1 << 20) + b'"}'
    assert error_of(client.post("/v1/recommend", content=big))["code"] == "too_large"
    response = client.post("/v1/events", content=(big[start : start + 65536] for start in range(0, len(big), 65536)))
    assert response.status_code == 413
    assert "1048576 bytes" in error_of(response)["message"]
    assert response.headers["connection"] == "close"  # else the rest of the body would be the next request


def test_unknown_user_and_empty_catalogue_are_answered(client: Client) -> None:
    assert shown(client, "nobody", size=1) == ["i0"]
    with serving(engine(FakeModel(items=0))) as empty:
        assert shown(empty) == []


def test_a_degraded_page_says_so() -> None:
    with serving(engine(FakeModel(funnel=funnel({"away": Broken()})))) as client:
        body = client.post("/v1/recommend", json={"user_id": "u1", "size": 1}).json()
    assert body["degraded"] is True
    assert len(body["items"]) == 1


# ---- events ------------------------------------------------------------------------------------------------------


def test_a_click_and_an_impression_change_the_next_answer(client: Client) -> None:
    assert shown(client, size=1) == ["i0"]
    reply = client.post("/v1/events", json=event("i40", position=3, request_id="r", scene="feed", value=1.5))
    assert (reply.status_code, reply.json()) == (200, {"accepted": 1, "duplicates": 0, "rejected": []})
    assert shown(client, size=1) == ["i41"]
    client.post("/v1/events", json=[event("i41", "impression"), event("i42", "impression")])
    assert shown(client, size=1) == ["i43"]


def test_a_repeated_event_id_counts_once(client: Client) -> None:
    once = event("i1", event_id="e1", time=NOW)
    assert client.post("/v1/events", json=[once, once]).json() == {"accepted": 1, "duplicates": 1, "rejected": []}
    assert client.post("/v1/events", json=once).json() == {"accepted": 0, "duplicates": 1, "rejected": []}


def test_a_list_with_bad_events_takes_the_good_ones(client: Client) -> None:
    reply = client.post("/v1/events", json=[event("i1"), event("i1", "stare"), event("x"), {"user_id": 1}, 7])
    assert reply.status_code == 200
    body = reply.json()
    assert body["accepted"] == 1
    assert [row["index"] for row in body["rejected"]] == [1, 2, 3, 4]
    assert all(row["error"] for row in body["rejected"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (event("i1", "stare"), "action"),
        (event("unknown"), "item_id"),
        (event("i1", time=1e13), "time"),
        (event("i1", time="now"), "time"),
        ({"item_id": "i1", "action": "click"}, "user_id"),
        (event("i1", likes=1), "likes"),
    ],
)
def test_a_single_bad_event_is_400(client: Client, body: Any, field: str) -> None:
    response = client.post("/v1/events", json=body)
    assert response.status_code == 400
    assert error_of(response)["field"] == field


def test_too_many_events_in_one_call_are_400(client: Client) -> None:
    response = client.post("/v1/events", json=[event("i1")] * 1001)
    assert response.status_code == 400
    assert "at most 1000" in error_of(response)["message"]


def test_a_state_that_cannot_write_is_503_and_nothing_is_acknowledged() -> None:
    class Full(Memory):
        def apply(self, events: Any) -> list[bool]:
            raise StateError("no space left")

    with capture_logs() as logs, serving(engine(state=Full())) as client:
        response = client.post("/v1/events", json=event("i1"))
    assert response.status_code == 503
    assert error_of(response)["code"] == "state_unavailable"
    assert ("state unavailable", "no space left") in [(entry["event"], entry.get("error")) for entry in logs]


# ---- items and users ---------------------------------------------------------------------------------------------


def test_an_item_put_comes_out_of_the_newest_channel_in_the_next_answer(client: Client) -> None:
    item = {
        "author": "a", "category": "c", "keywords": ["k"], "text": "t", "vector": [0.1, 0.2, 0.3], "city": "Lyon",
        "latitude": 45.7, "longitude": 4.8, "duration_seconds": 12.5, "publish_time": NOW, "quality": 0.5,
    }  # fmt: skip
    reply = client.put("/v1/items/new%20one", json=item)
    assert reply.status_code == 200
    assert reply.json() == {"item_id": "new one", **item}
    assert client.get("/v1/items/new%20one").json() == {"item_id": "new one", **item}
    page = client.post("/v1/recommend", json={"user_id": "u1", "size": 1}).json()
    assert [(row["item_id"], row["channel"]) for row in page["items"]] == [("new one", "newest")]
    assert client.delete("/v1/items/new%20one").json() == {"id": "new one", "deleted": True}
    assert shown(client, size=1) == ["i0"]
    assert client.get("/v1/items/new%20one").status_code == 404
    assert client.delete("/v1/items/new%20one").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b"[]", ""),
        (b'{"latitude": 100}', "latitude"),
        (b'{"vector": [1]}', "vector"),
        (b'{"lat": 1}', "lat"),
    ],
)
def test_a_bad_item_is_400(client: Client, body: bytes, field: str) -> None:
    response = client.put("/v1/items/x", content=body)
    assert response.status_code == 400
    assert error_of(response)["field"] == field
    assert client.get("/v1/items/x").status_code == 404


def test_an_id_that_is_too_long_is_400_wherever_it_stands(client: Client) -> None:
    long = "x" * 257
    assert client.put(f"/v1/items/{long}", json={}).status_code == 400
    assert client.get(f"/v1/items/{long}").status_code == 400
    assert client.put(f"/v1/users/{long}", json={}).status_code == 400
    assert error_of(client.get(f"/v1/users/{long}"))["field"] == "user_id"


@pytest.mark.parametrize(
    ("sent", "id"),
    [("a%2Fb", "a/b"), ("..%2F..%2Fx", "../../x"), ("%E4%BD%A0", "你"), ("%2525", "%25"), ("a+b", "a+b")],
)
def test_any_id_can_stand_in_a_path_percent_encoded(client: Client, sent: str, id: str) -> None:
    assert client.put(f"/v1/items/{sent}", json={}).json()["item_id"] == id
    assert client.get(f"/v1/items/{sent}").json()["item_id"] == id
    assert client.post("/v1/events", json=event(id)).json()["accepted"] == 1
    assert client.delete(f"/v1/items/{sent}").json() == {"id": id, "deleted": True}
    assert client.put(f"/v1/users/{sent}", json={}).json()["user_id"] == id


@pytest.mark.parametrize("sent", ["%ff", "%ED%A0%80"])
def test_an_id_in_a_path_that_is_no_utf8_is_400(client: Client, sent: str) -> None:
    assert error_of(client.put(f"/v1/items/{sent}", json={}))["field"] == "id"
    assert client.get(f"/v1/users/{sent}").status_code == 400


def test_a_profile_put_while_its_user_is_deleted_is_no_failure() -> None:
    class Raced(Memory):
        def put_user(self, user_id: str, profile: Any) -> None:
            super().put_user(user_id, profile)
            self.delete_user(user_id)

    with serving(engine(state=Raced())) as client:
        reply = client.put("/v1/users/u9", json={"age": 3})
    assert (reply.status_code, reply.json()["profile"]) == (200, {})


def test_a_user_is_put_read_and_forgotten(client: Client) -> None:
    assert client.get("/v1/users/zoë").status_code == 404
    reply = client.put("/v1/users/zoë", json={"gender": "f", "age": 31, "tags": ["a", "b"]})
    assert reply.status_code == 200
    assert client.get("/v1/users/zoë").json() == {
        "user_id": "zoë", "profile": {"gender": "f", "age": 31, "tags": ["a", "b"]}, "counts": {}, "recent": [],
    }  # fmt: skip
    assert client.delete("/v1/users/zoë").json() == {"id": "zoë", "deleted": True}
    assert client.delete("/v1/users/zoë").status_code == 404


def test_a_profile_must_be_an_object_of_plain_values(client: Client) -> None:
    for body in (b"", b"[]", b'{"age": {"years": 3}}', b"3"):
        assert client.put("/v1/users/u1", content=body).status_code == 400


# ---- similar and rank --------------------------------------------------------------------------------------------


def test_similar_items(client: Client) -> None:
    body = client.get("/v1/items/i5/similar?size=2").json()
    assert body["item_id"] == "i5"
    assert [row["item_id"] for row in body["items"]] == ["i6", "i7"]
    assert len(client.get("/v1/items/i5/similar").json()["items"]) == 20
    assert error_of(client.get("/v1/items/x/similar"))["code"] == "not_found"
    for size in ("x", "0", "201", "-1", "1.5"):
        response = client.get(f"/v1/items/i5/similar?size={size}")
        assert response.status_code == 400
        assert error_of(response)["field"] == "size"


def test_rank_orders_the_callers_items(client: Client) -> None:
    body = client.post("/v1/rank", json={"user_id": "u1", "item_ids": ["i9", "i3", "x"]}).json()
    assert [row["item_id"] for row in body["items"]] == ["i3", "i9"]
    assert body["missing"] == ["x"]
    assert client.post("/v1/rank", json={"user_id": "u1", "item_ids": []}).status_code == 400
    assert client.post("/v1/rank", json={"user_id": "u1", "item_ids": [1]}).status_code == 400


# ---- the server itself -------------------------------------------------------------------------------------------


def test_without_a_bundle_the_server_lives_is_not_ready_and_refuses() -> None:
    with serving(None) as client:
        assert client.get("/healthz").json() == {"status": "alive", "bundle": ""}
        assert error_of(client.get("/readyz"))["code"] == "not_ready"
        response = client.post("/v1/recommend", json={"user_id": "u1"})
        assert response.status_code == 503
        assert error_of(response)["code"] == "not_ready"
        assert "being loaded" in error_of(response)["message"]


def test_with_a_bundle_it_is_ready(client: Client) -> None:
    assert client.get("/readyz").json() == {"status": "ready", "bundle": "one"}
    assert client.get("/healthz").json() == {"status": "alive", "bundle": "one"}


def test_a_path_or_method_that_does_not_exist_has_the_same_error_body(client: Client) -> None:
    response = client.get("/v1/nothing")
    assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
    response = client.get("/v1/recommend")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")


def answer_to(messages: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """(status, body) of a call to recommend whose caller sends these messages, and then nothing more."""
    whole, sent = service(), []
    whole.use(engine())
    path = "/v1/recommend"
    scope: Any = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [], "root_path": "", "state": {}, "client": None, "server": None, "extensions": {},
    }  # fmt: skip

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(create(whole)(scope, receive, send))
    whole.close()
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_caller_who_hangs_up_while_he_sends_is_no_failure_of_the_server() -> None:
    part = {"type": "http.request", "body": b'{"user', "more_body": True}
    with capture_logs() as logs:
        status, body = answer_to([part, {"type": "http.disconnect"}])
    assert (status, body["error"]["message"]) == (400, "the body was cut off")
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_a_body_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_BODY_SECONDS", 0.02)
    status, body = answer_to([{"type": "http.request", "body": b'{"user', "more_body": True}])
    assert (status, body["error"]["message"]) == (400, "the body did not arrive within 0.02 s")


def test_overload_is_429_with_a_time_to_come_back() -> None:
    whole = service(threads=1, queue=0)
    whole.use(engine())
    whole.compute.admitted = 5
    with TestClient(create(whole, on_shutdown=(whole.close,))) as client:
        response = client.post("/v1/recommend", json={"user_id": "u1"})
    assert response.status_code == 429
    assert error_of(response)["code"] == "overloaded"
    assert int(response.headers["retry-after"]) >= 1


def test_an_answer_that_is_not_ready_in_time_is_504() -> None:
    slow = Funnel([Stage("recall", dict(funnel().stages[0].steps), 10), Stage("rank", {"slow": Slow(300)}, 10)])
    with serving(engine(FakeModel(funnel=slow)), deadline_ms=30.0) as client:
        response = client.post("/v1/recommend", json={"user_id": "u1"})
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"


def test_a_bug_is_500_without_its_words_and_the_log_has_them() -> None:
    class Bug:
        def score(self, query: Any, items: Any) -> Any:
            raise ZeroDivisionError("the secret of the house")

    broken = Funnel([funnel().stages[0], Stage("rank", {"bug": Bug()}, 10)])
    with capture_logs() as logs, serving(engine(FakeModel(funnel=broken))) as client:
        response = client.post("/v1/recommend", json={"user_id": "u1"})
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal"
    assert "secret" not in response.text
    (entry,) = [entry for entry in logs if entry["event"] == "call failed"]
    assert isinstance(entry["exc_info"], ZeroDivisionError)


def test_metrics_count_calls_pages_and_events(client: Client) -> None:
    shown(client)
    client.post("/v1/recommend", content=b"{")
    client.post("/v1/events", json=[event("i1"), event("x")])
    text = client.get("/metrics").text
    for line in (
        'tamis_requests_total{route="recommend",status="200"} 1.0',
        'tamis_requests_total{route="recommend",status="400"} 1.0',
        'tamis_stage_seconds_count{stage="recall"} 1.0',
        'tamis_events_total{outcome="accepted"} 1.0',
        'tamis_events_total{outcome="rejected"} 1.0',
        'tamis_bundle_workers{bundle="one"} 1.0',
    ):
        assert line in text


def test_served_pages_are_logged_with_their_request_id() -> None:
    with capture_logs() as logs, serving(engine()) as client:
        request_id = client.post("/v1/recommend", json={"user_id": "u1", "size": 2}).json()["request_id"]
    (entry,) = [entry for entry in logs if entry["event"] == "served"]
    assert (entry["request_id"], entry["user_id"], entry["items"], entry["bundle"]) == (request_id, "u1", 2, "one")


def test_the_schema_describes_every_call_with_its_types(client: Client) -> None:
    document = client.get("/schema").json()
    assert document["openapi"].startswith("3.1")
    calls = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert {
        ("post", "/v1/recommend"), ("post", "/v1/events"), ("put", "/v1/items/{id}"), ("get", "/v1/items/{id}"),
        ("delete", "/v1/items/{id}"), ("put", "/v1/users/{id}"), ("get", "/v1/users/{id}"),
        ("delete", "/v1/users/{id}"), ("get", "/v1/items/{id}/similar"), ("post", "/v1/rank"),
        ("get", "/healthz"), ("get", "/readyz"), ("get", "/metrics"),
    } == calls  # fmt: skip
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])
    recommend = document["components"]["schemas"]["RecommendRequest"]
    assert recommend["properties"]["size"]["minimum"] == 1
    assert recommend["additionalProperties"] is False
