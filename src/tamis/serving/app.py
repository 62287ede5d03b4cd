"""The REST transport: bytes → struct → engine behind a gate → bytes. Every failure has the same body."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
import structlog
from litestar import Litestar, Request, Response, get
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE
from litestar.types import ASGIApp, Receive, Scope, Send

from tamis.errors import NotReady, RequestError, StateError, TooLarge
from tamis.serving.prom import CONTENT_TYPE
from tamis.serving.routes import ROUTES, Call, Route
from tamis.serving.schema import openapi
from tamis.serving.service import Service
from tamis.serving.wire import ErrorBody, ErrorReply, StatusReply, failure

log = structlog.get_logger()

_encode: Final = msgspec.json.Encoder().encode
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_BODY_SECONDS: Final = 10.0  # a caller who sends more slowly keeps one of the connections from everybody else

AnyRequest = Request[Any, Any, Any]


def create(service: Service, on_shutdown: Sequence[Callable[[], None]] = ()) -> Litestar:
    """The ASGI application over a service. on_shutdown: called in order when the server stops."""
    app = Litestar(
        route_handlers=[*(_endpoint(service, route) for route in ROUTES), *_probes(service)],
        exception_handlers={Exception: _outside},
        request_max_body_size=service.most_body_bytes,
        on_shutdown=list(on_shutdown),
        openapi_config=None,
        logging_config=None,
    )
    app.asgi_handler = _by_path_as_sent(app.asgi_handler)
    return app


def _by_path_as_sent(inner: ASGIApp) -> ASGIApp:
    """Routes by the path before it is decoded, so that a "%2F" stays inside its id; `_id` decodes."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            scope["path"] = scope["raw_path"].partition(b"?")[0].decode("latin-1")  # some put the query into it
        await inner(scope, receive, send)

    return outer


def _endpoint(service: Service, route: Route) -> HTTPRouteHandler:
    async def endpoint(request: AnyRequest) -> Response[bytes]:
        began = perf_counter()
        gate = service.compute if route.ranks else service.store
        try:
            body = await _body(request, service.most_body_bytes) if route.request is not None else b""
            call = Call(body, _id(request), request.query_params.dict() if route.query else {})
            reply = await service.call(gate, route.prepare(service, call))
            response = _json(200, reply)
        except Exception as error:
            response = _failed(error)
        service.meters.request(route.name, response.status_code or 200, perf_counter() - began)
        return response

    return HTTPRouteHandler(_litestar_path(route.path), http_method=route.method, status_code=200)(endpoint)  # type: ignore[arg-type]


def _litestar_path(path: str) -> str:
    return path.replace("{id}", "{id:str}")


def _id(request: AnyRequest) -> str:
    """The id in the path, "" when the route has none. Raises RequestError for bytes that are no UTF-8."""
    try:
        return unquote_to_bytes(request.path_params.get("id", "").encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the id in the path is not UTF-8", "id") from None


async def _body(request: AnyRequest, most_bytes: int) -> bytes:
    """The whole body. Raises TooLarge, or RequestError when it did not arrive whole or in time."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.body()
    except TimeoutError:
        raise RequestError(f"the body did not arrive within {_BODY_SECONDS:g} s") from None
    except HTTPException as error:
        if error.status_code == HTTP_413_REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge(f"the body is larger than {most_bytes} bytes") from None
        raise RequestError("the body was cut off") from None  # the caller hung up, or its chunks are malformed


def _probes(service: Service) -> list[HTTPRouteHandler]:
    description = _encode(openapi())

    @get("/healthz")
    async def healthz() -> Response[bytes]:
        return _json(200, StatusReply("alive", service.engine.model.name if service.engine else ""))

    @get("/readyz")
    async def readyz() -> Response[bytes]:
        if not service.ready():
            return _failed(NotReady("not every worker has a bundle that is loaded and warm"))
        return _json(200, StatusReply("ready", service.bundle()))

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        return Response(service.meters.text(), media_type=CONTENT_TYPE)

    @get("/schema")
    async def schema() -> Response[bytes]:
        return Response(description, media_type="application/json")

    return [healthz, readyz, metrics, schema]


def _json(status: int, reply: Any, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(_encode(reply), status_code=status, media_type="application/json", headers=headers)


def _failed(error: Exception) -> Response[bytes]:
    status, body, wait_seconds = failure(error)
    if status == 500:
        log.error("call failed", exc_info=error)
    elif isinstance(error, StateError):
        log.error("state unavailable", error=str(error))
    headers = {} if wait_seconds is None else {"Retry-After": str(int(wait_seconds))}
    if isinstance(error, TooLarge):  # the rest of the body is not read, so nothing can follow it
        headers["Connection"] = "close"
    return _json(status, body, headers)


def _outside(request: AnyRequest, error: Exception) -> Response[bytes]:
    """What went wrong before a route was reached: no such path, no such method, a body that was cut off."""
    if not isinstance(error, HTTPException) or error.status_code >= 500:
        return _failed(error)
    code = _CODES.get(error.status_code, "bad_request")
    message = f"{request.method} {request.url.path}: {error.detail or code}"
    return _json(error.status_code, ErrorReply(ErrorBody(code, message)), dict(error.headers or {}))
