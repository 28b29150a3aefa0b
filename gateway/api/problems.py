"""Errors as RFC 9457 problem details: one shape for all of them, with advice for the client."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPMethod, HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway.api import problem_types
from gateway.api.field_errors import MAX_ERRORS, FieldError, field_errors, is_malformed_json
from gateway.api.problem_types import ProblemType, default_type
from gateway.api.response_headers import REQUEST_ID, header_references
from gateway.briefs.models import Reason
from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.dependencies import DatabaseUnavailableError, NotStartedError
from gateway.event_loop import OverloadedError
from gateway.resources.database_errors import explain, is_pool_exhausted

MEDIA_TYPE = "application/problem+json"

_ADVICE = {
    HTTPStatus.NOT_FOUND: "No such path. See /docs.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path does not support this method. The Allow header lists the methods that it supports.",
    HTTPStatus.BAD_REQUEST: "The body is not valid JSON. Correct it and send it again.",
}

# The problems of every route.
COMMON = (
    problem_types.INTERNAL_ERROR,
    problem_types.UNAVAILABLE,
    problem_types.OVERLOADED,
    problem_types.TOO_MANY_CONNECTIONS,
)

_HEADERS: dict[str, Callable[[ProblemType], bool]] = {
    "Retry-After": lambda it: it.retry_after is not None,
    "WWW-Authenticate": lambda it: it.status is HTTPStatus.UNAUTHORIZED,
    "Accept": lambda it: it.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "Accept-Encoding": lambda it: it.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}

ExceptionHandler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(
        description="The type, a path on this server, with a page about it. Programs compare its last part.",
        json_schema_extra={"format": "uri-reference"},
    )
    title: str = Field(description="The type in words, always the same")
    status: int
    detail: str = Field(description="The reason, and what to do about it")
    request_id: str | None = Field(None, description="The `X-Request-ID` of the response. The log has it as well.")
    errors: list[FieldError] | None = Field(None, description=f"The invalid parts of the request, at most {MAX_ERRORS}")


class ProblemError(Exception):
    """Raised by a route that responds with a problem.

    Attributes:
        type: the type of the problem. A status stands for its default type.
        detail: the reason, and what to do about it.
        headers: of the response. The type adds `Retry-After`.
    """

    def __init__(
        self, problem_type: ProblemType | HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(problem_type, detail)
        self.type = _resolve(problem_type)
        self.detail = detail
        self.headers = headers


def problem(
    problem_type: ProblemType | HTTPStatus,
    detail: str,
    scope: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldError] | None = None,
) -> JSONResponse:
    """Return the response with a problem.

    Args:
        problem_type: the type. A status stands for its default type.
        detail: the reason, and what to do about it.
        scope: the ASGI scope of the request, or one with its `root_path` and `request_id`.
        headers: of the response. The type adds `Retry-After`.
        errors: the invalid parts of the request.
    """
    it = _resolve(problem_type)
    body = Problem(
        type=scope.get("root_path", "").rstrip("/") + it.path,
        title=it.title,
        status=it.status,
        detail=detail,
        request_id=scope.get("request_id"),
        errors=errors,
    )
    all_headers = {"Cache-Control": "no-store", **_retry_after(it), **(headers or {})}
    return JSONResponse(body.model_dump(exclude_none=True), it.status, all_headers, MEDIA_TYPE)


def _resolve(problem_type: ProblemType | HTTPStatus) -> ProblemType:
    return problem_type if isinstance(problem_type, ProblemType) else default_type(problem_type)


def _retry_after(problem_type: ProblemType) -> dict[str, str]:
    return {} if problem_type.retry_after is None else {"Retry-After": str(problem_type.retry_after)}


def problem_responses(*problem_types_or_statuses: ProblemType | HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument of a route that responds with these problems, for the OpenAPI.

    The problems of every route are included if they have one of the statuses.
    """
    expected = [_resolve(each) for each in problem_types_or_statuses]
    statuses = dict.fromkeys(it.status for it in expected)
    with_common = list(dict.fromkeys([*expected, *COMMON]))
    return {status.value: _response([it for it in with_common if it.status == status]) for status in statuses}


def _response(types: list[ProblemType]) -> dict[str, Any]:
    """Return the OpenAPI of the response with one of several problems, which have the same status."""
    names = [name for name, is_sent in _HEADERS.items() if any(map(is_sent, types))]
    examples = {it.slug: {"summary": it.title, "value": _example(it)} for it in types}
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "\n\n".join(f"`{it.slug}`: {it.title}." for it in types),
        "headers": header_references(*names),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def _example(it: ProblemType) -> dict[str, Any]:
    errors = [FieldError(pointer="#/temperature_c", detail="Input should be less than or equal to 70")]
    example = Problem(
        type=it.path,
        title=it.title,
        status=it.status,
        detail=it.explanation,
        request_id=REQUEST_ID,
        errors=errors if it is problem_types.INVALID_REQUEST else None,
    )
    return example.model_dump(exclude_none=True)


def schemas() -> dict[str, Any]:
    """Return the OpenAPI components that `problem_responses` refers to."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Problem": schema}


async def _on_problem(request: Request, error: ProblemError) -> JSONResponse:
    return problem(error.type, error.detail, request.scope, headers=error.headers)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Handle the framework's own errors: an unknown path, a method that a path does not support, a malformed body.

    No route has the method OPTIONS. The response to it lists the methods that the path supports.
    """
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
        if request.method == HTTPMethod.OPTIONS:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    return problem(status, _ADVICE.get(status, str(error.detail)), request.scope, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes that have this path. Starlette returns those of the first one only."""
    routes = request.app.router.routes
    methods = {
        method.value
        for method in HTTPMethod
        if any(route.matches({**request.scope, "method": method.value})[0] is Match.FULL for route in routes)
    }
    return sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))


async def _on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
    """Handle invalid values, and a body that is not JSON. FastAPI raises this error for most of the latter."""
    errors = error.errors()
    if any(is_malformed_json(details) for details in errors):
        detail = _ADVICE[HTTPStatus.BAD_REQUEST]
        return problem(problem_types.MALFORMED_REQUEST, detail, request.scope, errors=field_errors(errors))
    return problem(
        problem_types.INVALID_REQUEST,
        "Correct the fields listed in `errors` and send the request again.",
        request.scope,
        errors=field_errors(errors),
    )


async def _on_unavailable(request: Request, error: Exception) -> JSONResponse:
    """Handle errors of the database. Their causes are the errors of its client libraries."""
    reason = error.reason if isinstance(error, PlaceUnavailableError) else None
    brackets = "" if reason in (None, Reason.OVERLOADED) else f" ({reason})"
    detail = f"{explain(error.__cause__)}{brackets}. Try again in a second."
    is_overloaded = is_pool_exhausted(error.__cause__) or isinstance(error.__cause__, OverloadedError)
    problem_type = problem_types.OVERLOADED if is_overloaded else problem_types.DATABASE_UNAVAILABLE
    return problem(problem_type, detail, request.scope)


async def _on_not_started(request: Request, _error: Exception) -> JSONResponse:
    return problem(problem_types.UNAVAILABLE, "The gateway has not started. Try again in a second.", request.scope)


async def _on_internal_error(request: Request, _error: Exception) -> JSONResponse:
    """Handle all other errors. `request_id.py` logs them."""
    detail = f"Internal error. Please report it with request id {request.scope['request_id']}."
    return problem(problem_types.INTERNAL_ERROR, detail, request.scope)


EXCEPTION_HANDLERS: dict[int | type[Exception], ExceptionHandler] = {
    ProblemError: _on_problem,
    HTTPException: _on_http_exception,
    RequestValidationError: _on_invalid_request,
    DatabaseUnavailableError: _on_unavailable,
    PlaceUnavailableError: _on_unavailable,
    NotStartedError: _on_not_started,
    Exception: _on_internal_error,
}
