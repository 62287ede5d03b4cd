"""The OpenAPI description, made from the same types and the same table that the server runs on."""

from typing import Any, Final

import msgspec

from tamis import __version__
from tamis.serving.routes import ROUTES, Route
from tamis.serving.wire import STATUS, ErrorReply, StatusReply

_JSON: Final = "application/json"
_PROBES: Final = (("/healthz", "Whether the process lives"), ("/readyz", "Whether every worker has a warm bundle"))


def openapi() -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    types = [kind for route in ROUTES for kind in (route.request, route.reply) if kind is not None]
    schemas, parts = msgspec.json.schema_components(
        [*types, ErrorReply, StatusReply], ref_template="#/components/schemas/{name}"
    )
    left = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        body = next(left) if route.request is not None else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, body, next(left))
    failed, status = next(left), next(left)
    for path, summary in _PROBES:
        answers = {"200": _answer("as it should be", status), "503": _answer("not ready", failed)}
        paths[path] = {"get": {"summary": summary, "responses": answers}}
    text = {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths["/metrics"] = {"get": {"summary": "Metrics of all workers", "responses": {"200": text}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "tamis", "version": __version__},
        "paths": paths,
        "components": {"schemas": parts},
    }


def _operation(route: Route, body: Any, reply: Any) -> dict[str, Any]:
    codes = sorted({str(status) for _, status, _ in STATUS})
    failed = {"$ref": "#/components/schemas/ErrorReply"}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {"200": _answer("done", reply)} | {code: _answer("refused or failed", failed) for code in codes},
    }
    parameters: list[dict[str, Any]] = []
    if "{id}" in route.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    parameters += [{"name": name, "in": "query", "schema": {"type": "integer"}} for name in route.query]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return operation


def _answer(description: str, schema: Any) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}
