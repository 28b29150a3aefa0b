"""Who may write: whoever has a key. Without any key set, whoever is on this machine, as long as nobody else can connect."""

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
    description="One of GATEWAY_API_KEYS. Not needed where none is set and the gateway listens on loopback.",
)


async def require_api_key(
    settings: SettingsDependency,
    on_loopback: OnLoopback,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Let the request pass, or answer with a problem."""
    if not settings.api_keys:
        if on_loopback:
            return
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            "Others than this machine can reach the gateway, and it has no keys, so nobody may write. Set "
            'GATEWAY_API_KEYS to a JSON list of keys, such as ["one"], or serve it on loopback with `gateway serve`.',
        )
    if given is None or not _is_one_of(given.credentials, [key.get_secret_value() for key in settings.api_keys]):
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "Send a key of this gateway in the header `Authorization: Bearer KEY`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _is_one_of(given: str, keys: list[str]) -> bool:
    """Compare with all of them, in a time that does not tell how near one came."""
    return sum([secrets.compare_digest(given.encode(), key.encode()) for key in keys]) > 0


KeyRequired = Depends(require_api_key)
