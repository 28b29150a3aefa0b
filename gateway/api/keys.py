"""Authorization of writes: a client needs an API key. Without any key configured, only programs on this machine may write."""

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from structlog.contextvars import bind_contextvars

from gateway.api.local_requests import sign_of_foreign_origin
from gateway.api.problems import ProblemError
from gateway.dependencies import OnLoopback, SettingsDependency
from gateway.settings.api_keys import find_api_key

_bearer = HTTPBearer(
    scheme_name="key",
    auto_error=False,
    description="The secret of one of GATEWAY_API_KEYS. If none is set, a gateway that listens on loopback accepts the requests of "
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
) -> str:
    """Return the reporter: the name of the API key, or the empty text if writing needs none. Log lines of the request have it.

    Raises:
        ProblemError: the key is missing or wrong (401). Or the gateway has no keys, and other machines can reach it, or the
            request comes from another machine or site (403).
    """
    if not settings.api_keys:
        if not on_loopback:
            raise _forbidden("other machines may reach it", "run `gateway serve` on a loopback address")
        if sign := sign_of_foreign_origin(request):
            raise _forbidden(f"{sign} shows that the request is not from this machine", _SEND_LOCALLY)
        return ""
    key = None if credentials is None else find_api_key(credentials.credentials, settings.api_keys)
    if key is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "Send the secret of an API key of this gateway in the header `Authorization: Bearer SECRET`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    bind_contextvars(reporter=key.name)
    return key.name


def _forbidden(reason: str, alternative: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.FORBIDDEN,
        f"Writing is disabled: this gateway has no API keys, and {reason}. Set GATEWAY_API_KEYS to a JSON list of keys, "
        f'such as ["alice:SECRET"], or {alternative}.',
    )


KeyRequired = Depends(require_api_key)
Reporter = Annotated[str, KeyRequired]
