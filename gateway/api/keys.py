"""Authorization of writes: a client needs an API key. Without any key configured, only this machine may write."""

import secrets
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.api.problems import ProblemError
from gateway.dependencies import OnLoopback, SettingsDependency

_bearer = HTTPBearer(
    scheme_name="key",
    auto_error=False,
    description="One of GATEWAY_API_KEYS. Not needed if none is set and the gateway listens on loopback.",
)


async def require_api_key(
    settings: SettingsDependency,
    on_loopback: OnLoopback,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Accept the request, or respond with a problem.

    Raises:
        ProblemError: the key is missing or wrong (401), or the gateway has no keys and is reachable from other machines
            (403).
    """
    if not settings.api_keys:
        if on_loopback:
            return
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "Writing is disabled: this gateway has no API keys, and other machines may reach it. Set GATEWAY_API_KEYS to "
            'a JSON list of keys, such as ["one"], or run `gateway serve` on a loopback address.',
        )
    keys = [key.get_secret_value() for key in settings.api_keys]
    if credentials is None or not _matches_any(credentials.credentials, keys):
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "Send an API key of this gateway in the header `Authorization: Bearer KEY`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _matches_any(candidate: str, keys: list[str]) -> bool:
    """Compare with all keys, in a time that does not depend on where they differ."""
    return sum([secrets.compare_digest(candidate.encode(), key.encode()) for key in keys]) > 0


KeyRequired = Depends(require_api_key)
