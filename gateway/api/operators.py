"""Authorization of operators, who may see details of the backends: hosts, ports, depths of queues and errors.

The rules are those for writing (`keys.py`), with keys of their own.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from structlog.contextvars import bind_contextvars

from gateway.api.local_requests import is_from_this_machine, sign_of_foreign_origin
from gateway.api.problems import ProblemError
from gateway.dependencies import OnLoopback, SettingsDependency
from gateway.settings.api_keys import find_api_key

_bearer = HTTPBearer(
    scheme_name="operator_key",
    auto_error=False,
    description="The secret of a key of an operator. A gateway without such keys that listens on loopback accepts the requests of programs on "
    "its machine.",
)

# A client on another machine does not get the name of a variable.
_FOR_THIS_MACHINE = 'Set GATEWAY_OPERATOR_KEYS to a JSON list of keys, such as ["alice:SECRET"].'


async def is_operator(request: Request, settings: SettingsDependency, on_loopback: OnLoopback) -> bool:
    """Return whether the request has an operator's key or, without any key configured, is from this machine.

    Log lines of the request have the name of the key.
    """
    if not settings.operator_keys:
        return on_loopback and sign_of_foreign_origin(request) is None
    # Called here, and not as a dependency: /readyz is for all clients, so its description has no key.
    credentials = await _bearer(request)
    key = None if credentials is None else find_api_key(credentials.credentials, settings.operator_keys)
    if key is None:
        return False
    bind_contextvars(operator=key.name)
    return True


IsOperator = Annotated[bool, Depends(is_operator)]


async def require_operator(
    request: Request,
    settings: SettingsDependency,
    is_operator: IsOperator,
    _credentials: Annotated[object, Depends(_bearer)],
) -> None:
    """Accept the request, or respond with a problem.

    Raises:
        ProblemError: the key is missing or wrong (401), or there are no keys, and the request may be from another machine (403).
    """
    if is_operator:
        return
    if settings.operator_keys:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED,
            "This path is for operators. Send the secret of a key of an operator in the header `Authorization: Bearer SECRET`.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    advice = _FOR_THIS_MACHINE if is_from_this_machine(request) else "Request the details from its operator."
    raise ProblemError(
        HTTPStatus.FORBIDDEN, f"This path is for operators, and this gateway has no keys for them. {advice}"
    )


OperatorRequired = Depends(require_operator)
