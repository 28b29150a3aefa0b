"""Authorization of writes: a client needs an API key. Without any key configured, only programs on this machine may write."""

from typing import Any

from fastapi import Request
from fastapi.encoders import jsonable_encoder
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from gateway.api.local_requests import is_from_this_machine, sign_of_foreign_origin
from gateway.api.problem_types import API_KEY_REQUIRED, FORBIDDEN
from gateway.api.problems import ProblemError
from gateway.dependencies import get_settings, is_on_loopback
from gateway.settings.api_keys import find_api_key

_bearer = HTTPBearer(
    scheme_name="api_key",
    auto_error=False,
    description="The secret of an API key of this gateway. Without any key, a gateway that listens on loopback accepts the requests of "
    "programs on its machine without a key: the header Host is `localhost` or a loopback address, Origin, if there is one, "
    "is as well, and no header comes from a proxy (Forwarded, X-Forwarded-*, X-Real-IP, Via).",
)

# The argument `openapi_extra` of a `KeyFirstRoute`.
KEY_REQUIRED: dict[str, Any] = {"security": [{_bearer.scheme_name: []}]}

_SEND_LOCALLY = (
    "send the request with HTTP/1.1 to localhost or a loopback address, without a proxy and not from another site"
)


# A client on another machine does not get the name of a variable.
_FOR_THIS_MACHINE = 'Set GATEWAY_API_KEYS to a JSON list of keys, such as ["alice:SECRET"], or run `gateway serve` on a loopback address.'


async def require_api_key(request: Request) -> str:
    """Return the reporter: the name of the API key, or the empty text if writing needs none. Log lines of the request have it.

    Raises:
        ProblemError: the key is missing or wrong (401). Or the gateway has no keys, and other machines can reach it, or the
            request comes from another machine or site (403).
    """
    api_keys = (await get_settings(request)).api_keys
    if not api_keys:
        if not await is_on_loopback(request):
            advice = _FOR_THIS_MACHINE if is_from_this_machine(request) else "Request a key from its operator."
            raise _forbidden("other machines may reach it", advice)
        if sign := sign_of_foreign_origin(request):
            reason = f"{sign} shows that the request is not from this machine"
            raise _forbidden(reason, f"Request a key from its operator, or {_SEND_LOCALLY}.")
        return ""
    credentials = await _bearer(request)
    key = None if credentials is None else find_api_key(credentials.credentials, api_keys)
    if key is None:
        raise ProblemError(
            API_KEY_REQUIRED,
            "Send the secret of an API key of this gateway in the header `Authorization: Bearer SECRET`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    bind_contextvars(reporter=key.name)
    return key.name


def _forbidden(reason: str, advice: str) -> ProblemError:
    return ProblemError(FORBIDDEN, f"Writing is disabled: this gateway has no API keys, and {reason}. {advice}")


class KeyFirstRoute(APIRoute):
    """A route that verifies the key before anything else. Its OpenAPI needs `KEY_REQUIRED`.

    FastAPI checks the size of the body, reads it and parses it before it calls the dependencies. A dependency would also cost more
    than the verification (docs/performance.md).
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        request.state.reporter = await require_api_key(request)
        await super().handle(scope, receive, send)


def get_reporter(request: Request) -> str:
    """Return the reporter of a request of a `KeyFirstRoute`."""
    reporter: str = request.state.reporter
    return reporter


def security_schemes() -> dict[str, Any]:
    """Return the OpenAPI component that `KEY_REQUIRED` refers to."""
    return {_bearer.scheme_name: jsonable_encoder(_bearer.model, by_alias=True, exclude_none=True)}
