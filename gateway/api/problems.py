"""Errors as RFC 9457 problem details: one shape for all of them, and it says what to do."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPMethod, HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.dependencies import DatabaseUnavailableError, NotStartedError

MEDIA_TYPE = "application/problem+json"

MOST_MISTAKES = 20
"""How many are listed: a request could have a hundred thousand."""

_ADVICE = {
    HTTPStatus.NOT_FOUND: "There is nothing at this path. What there is, /docs tells.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This path does not take this method. The header Allow has those that it takes.",
    HTTPStatus.BAD_REQUEST: "The body cannot be read as JSON. Correct it, and send it again.",
}

ExceptionHandler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


class Mistake(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="The place in the request, such as `query.limit`")
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="What went wrong here, and what to do about it")
    mistakes: list[Mistake] | None = Field(None, description="All that is wrong with the request")


class ProblemError(Exception):
    """Raised by routes to answer with a problem."""

    def __init__(self, status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with these problems, for the OpenAPI."""
    return {
        status.value: {
            "description": status.phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def schemas() -> dict[str, Any]:
    """The components of the OpenAPI that `documented` refers to."""
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Problem": schema}


def problem(
    status: HTTPStatus, detail: str, *, headers: Mapping[str, str] | None = None, mistakes: list[Mistake] | None = None
) -> JSONResponse:
    body = Problem(title=status.phrase, status=status, detail=detail, mistakes=mistakes)
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, MEDIA_TYPE)


async def _on_problem(_request: Request, error: ProblemError) -> JSONResponse:
    return problem(error.status, error.detail, headers=error.headers)


async def _on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
    """Of the framework: an unknown path, a method that a path does not have, a body that is too large."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods_of(request))
    return problem(status, _ADVICE.get(status, str(error.detail)), headers=headers)


def _methods_of(request: Request) -> list[str]:
    """The methods that the path of a request takes. Starlette tells those of the first route only that has the path."""
    routes = request.app.router.routes
    return [
        method.value
        for method in HTTPMethod
        if any(route.matches({**request.scope, "method": method.value})[0] is Match.FULL for route in routes)
    ]


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> JSONResponse:
    mistakes = [
        Mistake(where=".".join(map(str, mistake["loc"])), message=str(mistake["msg"]))
        for mistake in error.errors()[:MOST_MISTAKES]
    ]
    detail = "Correct what is listed in `mistakes`, and send it again."
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, mistakes=mistakes)


async def _on_unavailable(_request: Request, error: Exception) -> JSONResponse:
    reason = f" ({error.reason})" if isinstance(error, PlaceUnavailableError) else ""
    detail = f"The database did not answer{reason}. Try again in a moment."
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "1"})


async def _on_not_started(_request: Request, _error: Exception) -> JSONResponse:
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "The gateway has not started. Try again in a moment.")


async def _on_mistake_of_ours(request: Request, _error: Exception) -> JSONResponse:
    """Of anything else; `request_id.py` logs it."""
    detail = f"This is a mistake of ours. Tell us the request id, {request.scope['request_id']}."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)


HANDLERS: dict[int | type[Exception], ExceptionHandler] = {
    ProblemError: _on_problem,
    HTTPException: _on_http_exception,
    RequestValidationError: _on_invalid_request,
    DatabaseUnavailableError: _on_unavailable,
    PlaceUnavailableError: _on_unavailable,
    NotStartedError: _on_not_started,
    Exception: _on_mistake_of_ours,
}
"""How the app answers each error."""
