"""The app of `gateway dev`: that of `gateway serve`, and routes that suspend, kill and restart the private servers."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel

from gateway.api.health import OperationRoute
from gateway.api.local_requests import is_from_this_machine, sign_of_foreign_origin
from gateway.api.problem_types import FORBIDDEN, INVALID_REQUEST, UNAVAILABLE, UNKNOWN_PATH, ProblemType
from gateway.api.problems import ProblemError, problem_responses
from gateway.app import create_app
from gateway.devstack.control import Action, ControlError, ControlFailure, ServerItem
from gateway.devstack.control_socket import ControlClient
from gateway.settings import Settings


class UntypedProblem(ProblemType):
    """A problem without a page, which only its status identifies."""

    @property
    def path(self) -> str:
        """The type that RFC 9457 has for it."""
        return "about:blank"


CONFLICT = UntypedProblem(
    "conflict",
    HTTPStatus.CONFLICT,
    "The action does not fit the status of the server",
    "Another request may have changed the status. `GET /dev/servers` lists the actions that fit.",
)

_PROBLEM_TYPES = {
    ControlFailure.UNKNOWN_SERVER: UNKNOWN_PATH,
    ControlFailure.CONFLICT: CONFLICT,
    ControlFailure.UNAVAILABLE: UNAVAILABLE,
}


async def require_same_origin(request: Request) -> None:
    """Accept requests of programs on this machine and of pages of this gateway.

    Raises:
        ProblemError: the request may be from another machine or another site (403).
    """
    if is_from_this_machine(request) and _is_same_origin(request):
        return
    sign = sign_of_foreign_origin(request)
    reason = f" ({sign} shows that this request may be from elsewhere)" if sign else ""
    raise ProblemError(
        FORBIDDEN,
        f"Only programs on this machine and pages of this gateway control its servers{reason}. Send the request directly "
        "to localhost or a loopback address, without a proxy and not from another site.",
    )


def _is_same_origin(request: Request) -> bool:
    """Return whether no page of another origin has sent the request. Another port of this machine is another origin."""
    own = f"{request.url.scheme}://{request.url.netloc}"
    return set(request.headers.getlist("origin")) <= {own} and set(request.headers.getlist("sec-fetch-site")) <= {
        "same-origin",
        "none",  # a person entered the address
    }


async def get_control(request: Request) -> ControlClient:
    control: ControlClient = request.app.state.control
    return control


Control = Annotated[ControlClient, Depends(get_control)]


class ServerList(BaseModel):
    items: list[ServerItem]


router = APIRouter(
    prefix="/dev/servers",
    tags=["development"],
    route_class=OperationRoute,
    dependencies=[Depends(require_same_origin)],
    responses=problem_responses(INVALID_REQUEST, FORBIDDEN, UNAVAILABLE),
)


@router.get("", operation_id="list_servers", summary="Private servers")
async def list_servers(control: Control) -> ServerList:
    """The private servers, with the actions that fit the status of each."""
    try:
        return ServerList(items=await control.list_servers())
    except ControlError as error:
        raise _problem(error) from error


@router.post(
    "/{name}/{action}",
    operation_id="control_server",
    summary="Suspend, resume, kill or restart a private server",
    responses=problem_responses(UNKNOWN_PATH, CONFLICT),
)
async def control_server(name: str, action: Action, control: Control) -> ServerItem:
    """The server after the action. A restart keeps its data and its port, and takes until the server is ready.

    Actions on one server wait for each other.
    """
    try:
        return await control.apply(name, action)
    except ControlError as error:
        raise _problem(error) from error


def _problem(error: ControlError) -> ProblemError:
    return ProblemError(_PROBLEM_TYPES[error.failure], error.detail)


def create_dev_app(settings: Settings, control: ControlClient) -> FastAPI:
    """Create the application of `gateway dev`. It opens nothing before its lifespan is entered.

    Args:
        settings: those of the gateway.
        control: reaches the process that owns the servers.
    """
    app = create_app(settings)
    app.state.control = control
    app.state.dev_servers = True
    app.include_router(router)
    return app
