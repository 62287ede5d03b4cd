"""The REST transport: bytes → struct → engine behind a gate → bytes. Every failure has the same body."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

import msgspec
import structlog
from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.status_codes import HTTP_413_REQUEST_ENTITY_TOO_LARGE

from tamis.errors import NotReady, TooLarge
from tamis.serving.prom import CONTENT_TYPE
from tamis.serving.routes import ROUTES, Call, Route
from tamis.serving.schema import openapi
from tamis.serving.service import Service
from tamis.serving.wire import ErrorBody, ErrorReply, StatusReply, failure

log = structlog.get_logger()

_encode: Final = msgspec.json.Encoder().encode
_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}

AnyRequest = Request[Any, Any, Any]


def create(service: Service, on_shutdown: Sequence[Callable[[], None]] = ()) -> Litestar:
    """The ASGI application over a service. on_shutdown: called in order when the server stops."""
    return Litestar(
        route_handlers=[*(_endpoint(service, route) for route in ROUTES), *_probes(service)],
        exception_handlers={Exception: _outside},
        request_max_body_size=service.most_body_bytes,
        on_shutdown=list(on_shutdown),
        openapi_config=None,
        logging_config=None,
    )


def _endpoint(service: Service, route: Route) -> HTTPRouteHandler:
    async def endpoint(request: AnyRequest) -> Response[bytes]:
        began = perf_counter()
        gate = service.compute if route.ranks else service.store
        try:
            body = await _body(request, service.most_body_bytes) if route.request is not None else b""
            call = Call(body, request.path_params.get("id", ""), request.query_params.dict() if route.query else {})
            reply = await service.call(gate, route.prepare(service, call))
            response = _json(200, reply)
        except Exception as error:
            response = _failed(error)
        service.meters.request(route.name, response.status_code or 200, perf_counter() - began)
        return response

    return HTTPRouteHandler(_litestar_path(route.path), http_method=route.method, status_code=200)(endpoint)  # type: ignore[arg-type]


def _litestar_path(path: str) -> str:
    return path.replace("{id}", "{id:str}")


async def _body(request: AnyRequest, most_bytes: int) -> bytes:
    try:
        return await request.body()
    except HTTPException as error:
        if error.status_code == HTTP_413_REQUEST_ENTITY_TOO_LARGE:
            raise TooLarge(f"the body is larger than {most_bytes} bytes") from None
        raise


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
    headers = None if wait_seconds is None else {"Retry-After": str(int(wait_seconds))}
    return _json(status, body, headers)


def _outside(request: AnyRequest, error: Exception) -> Response[bytes]:
    """What went wrong before a route was reached: no such path, no such method, a body that was cut off."""
    if not isinstance(error, HTTPException) or error.status_code >= 500:
        return _failed(error)
    code = _CODES.get(error.status_code, "bad_request")
    message = f"{request.method} {request.url.path}: {error.detail or code}"
    return _json(error.status_code, ErrorReply(ErrorBody(code, message)), dict(error.headers or {}))
