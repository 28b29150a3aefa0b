"""Authorization of writes: a client needs an API key. Without any key configured, only programs on this machine may write."""

import secrets
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.api.local_requests import sign_of_foreign_origin
from gateway.api.problem_types import API_KEY_REQUIRED, FORBIDDEN
from gateway.api.problems import ProblemError
from gateway.dependencies import OnLoopback, SettingsDependency

_bearer = HTTPBearer(
    scheme_name="key",
    auto_error=False,
    description="One of GATEWAY_API_KEYS. If none is set, a gateway that listens on loopback accepts the requests of "
    "programs on its machine without a key: the header Host is `localhost` or a loopback address, Origin, if there is one, "
    "is as well, and no header comes from a proxy (Forwarded, X-Forwarded-*, X-Real-IP, Via).",
)

_SEND_LOCALLY = (
    "send the request with HTTP/1.1 to localhost or a loopback address, without a proxy and not from another site"
)


async def require_api_key(
    request: Request,
    settings: SettingsDependency,
    on_loopback: OnLoopback,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Accept the request, or respond with a problem.

    Raises:
        ProblemError: the key is missing or wrong (401). Or the gateway has no keys, and other machines can reach it, or the
            request comes from another machine or site (403).
    """
    if not settings.api_keys:
        if not on_loopback:
            raise _forbidden("other machines may reach it", "run `gateway serve` on a loopback address")
        if sign := sign_of_foreign_origin(request):
            raise _forbidden(f"{sign} shows that the request is not from this machine", _SEND_LOCALLY)
        return
    keys = [key.get_secret_value() for key in settings.api_keys]
    if credentials is None or not _matches_any(credentials.credentials, keys):
        raise ProblemError(
            API_KEY_REQUIRED,
            "Send an API key of this gateway in the header `Authorization: Bearer KEY`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _forbidden(reason: str, alternative: str) -> ProblemError:
    return ProblemError(
        FORBIDDEN,
        f"Writing is disabled: this gateway has no API keys, and {reason}. Set GATEWAY_API_KEYS to a JSON list of keys, "
        f'such as ["one"], or {alternative}.',
    )


def _matches_any(candidate: str, keys: list[str]) -> bool:
    """Compare with all keys, in a time that does not depend on where they differ."""
    return sum([secrets.compare_digest(candidate.encode(), key.encode()) for key in keys]) > 0


KeyRequired = Depends(require_api_key)
