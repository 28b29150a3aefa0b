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

from gateway.briefs.models import Reason
from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.dependencies import DatabaseUnavailableError, NotStartedError
from gateway.resources.database_errors import explain

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20  # in one response
MAX_NAME_LENGTH = 100  # of an unknown field in an error; the client chooses it

_ADVICE = {
    HTTPStatus.NOT_FOUND: "No such path. See /docs.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path does not support this method. The Allow header lists the methods that it supports.",
    HTTPStatus.BAD_REQUEST: "The body is not valid JSON. Correct it and send it again.",
}

ExceptionHandler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


class FieldError(BaseModel):
    """One invalid field of a request."""

    where: str = Field(description="The field, such as `query.limit`")
    message: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="The reason, and what to do about it")
    errors: list[FieldError] | None = Field(
        None, description=f"The invalid fields of the request, at most {MAX_ERRORS}"
    )


class ProblemError(Exception):
    """Raised by a route that responds with a problem."""

    def __init__(self, status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument of a route that responds with problems of these statuses, for the OpenAPI."""
    return {
        status.value: {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def schemas() -> dict[str, Any]:
    """Return the OpenAPI components that `problem_responses` refers to."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Problem": schema}


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldError] | None = None,
) -> JSONResponse:
    body = Problem(title=status.phrase, status=status, detail=detail, errors=errors)
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, MEDIA_TYPE)


async def _on_problem(_request: Request, error: ProblemError) -> JSONResponse:
    return problem(error.status, error.detail, headers=error.headers)


async def _on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    """Handle the framework's own errors: an unknown path, a method that a path does not support, a malformed body."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return problem(status, _ADVICE.get(status, str(error.detail)), headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes that have this path. Starlette returns those of the first one only."""
    routes = request.app.router.routes
    methods = {
        method.value
        for method in HTTPMethod
        if any(route.matches({**request.scope, "method": method.value})[0] is Match.FULL for route in routes)
    }
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [
        FieldError(where=".".join(map(_shortened, details["loc"])), message=str(details["msg"]))
        for details in error.errors()[:MAX_ERRORS]
    ]
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "Correct the fields listed in `errors` and send the request again.",
        errors=errors,
    )


def _shortened(name: str | int) -> str:
    text = str(name)
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[:MAX_NAME_LENGTH]}…"


async def _on_unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Handle errors of the database. Their causes are the errors of its client libraries."""
    reason = error.reason if isinstance(error, PlaceUnavailableError) else None
    brackets = "" if reason in (None, Reason.OVERLOADED) else f" ({reason})"
    detail = f"{explain(error.__cause__)}{brackets}. Try again in a second."
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})


async def _on_not_started(_request: Request, _error: Exception) -> JSONResponse:
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The gateway has not started. Try again in a second.")


async def _on_internal_error(request: Request, _error: Exception) -> JSONResponse:
    """Handle all other errors. `request_id.py` logs them."""
    detail = f"Internal error. Please report it with request id {request.scope['request_id']}."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)


EXCEPTION_HANDLERS: dict[int | type[Exception], ExceptionHandler] = {
    ProblemError: _on_problem,
    HTTPException: _on_http_exception,
    RequestValidationError: _on_invalid_request,
    DatabaseUnavailableError: _on_unavailable,
    PlaceUnavailableError: _on_unavailable,
    NotStartedError: _on_not_started,
    Exception: _on_internal_error,
}
