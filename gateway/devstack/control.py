"""The actions on the servers of `gateway dev`: suspend, resume, kill and restart."""

import asyncio
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

from pydantic import BaseModel, Field

from gateway.devstack.folder import Reporter, silent
from gateway.devstack.server import DevstackError, Server, ServerStatus

ACTION_TIMEOUT = 60.0  # RabbitMQ starts in 5 s on two idle cores


class Action(StrEnum):
    """An action on a server."""

    SUSPEND = "suspend"
    RESUME = "resume"
    KILL = "kill"
    RESTART = "restart"


_ACTIONS = {
    ServerStatus.RUNNING: [Action.SUSPEND, Action.KILL, Action.RESTART],
    ServerStatus.SUSPENDED: [Action.RESUME, Action.KILL, Action.RESTART],
    ServerStatus.STOPPED: [Action.RESTART],
}


class ServerItem(BaseModel):
    """A private server."""

    name: str
    entry: str = Field(description="The entry of the gateway that uses it")
    status: ServerStatus = Field(description="While the server is being restarted, `stopped`")
    actions: list[Action] = Field(description="Those that fit the status; none while the server is being restarted")


class ControlFailure(StrEnum):
    """The reason why an action was not done."""

    UNKNOWN_SERVER = "unknown server"
    CONFLICT = "conflict"  # it does not fit the status of the server
    UNAVAILABLE = "unavailable"  # it failed, or took too long


class ControlError(Exception):
    """An action was not done.

    Attributes:
        failure: the reason.
        detail: the same in words, and what to do about it.
    """

    def __init__(self, failure: ControlFailure, detail: str) -> None:
        super().__init__(failure, detail)
        self.failure = failure
        self.detail = detail


class ServerControl:
    """Does actions on servers, those on one server one after the other."""

    def __init__(self, servers: Mapping[str, Server], *, report: Reporter = silent) -> None:
        """Do nothing yet.

        Args:
            servers: by name. They are entered.
            report: called with a line for each action.
        """
        self._servers = servers
        self._locks = {name: asyncio.Lock() for name in servers}
        self._report = report

    def list_servers(self) -> list[ServerItem]:
        """Return the status of each server."""
        return [self._item(name) for name in self._servers]

    async def apply(self, name: str, action: Action) -> ServerItem:
        """Do an action, and return the status of the server after it.

        Raises:
            ControlError: there is no such server, the action does not fit its status, or it failed.
        """
        if name not in self._servers:
            raise ControlError(
                ControlFailure.UNKNOWN_SERVER,
                f"There is no server {name!r}. The servers are {', '.join(self._servers)}.",
            )
        server = self._servers[name]
        try:
            async with asyncio.timeout(ACTION_TIMEOUT), self._locks[name]:
                await self._apply(server, action)
        except TimeoutError:
            raise ControlError(
                ControlFailure.UNAVAILABLE,
                f"{server.name}: {action} took more than {ACTION_TIMEOUT:g} s. Restart the server again.",
            ) from None
        except DevstackError as error:
            self._report(str(error))  # with the end of the server's log
            raise ControlError(
                ControlFailure.UNAVAILABLE,
                f"{server.name} did not start. The output of `gateway dev` has the reason.",
            ) from None
        return self._item(name)

    async def _apply(self, server: Server, action: Action) -> None:
        if action not in _ACTIONS[server.status]:
            possible = ", ".join(_ACTIONS[server.status])
            detail = f"{server.name} is {server.status}, so {action} is not possible. Possible actions: {possible}."
            raise ControlError(ControlFailure.CONFLICT, detail)
        match action:
            case Action.SUSPEND:
                server.suspend()
                self._report(f"{server.name}: suspended")
            case Action.RESUME:
                server.resume()
                self._report(f"{server.name}: resumed")
            case Action.KILL:
                server.kill()
                self._report(f"{server.name}: killed")
            case Action.RESTART:
                await self._restart(server)
            case _:
                assert_never(action)

    async def _restart(self, server: Server) -> None:
        started_at = time.monotonic()
        server.kill()
        self._report(f"{server.name}: restarting")
        try:
            await server.start()
        except BaseException:
            server.kill()  # it may still be starting
            raise
        self._report(f"{server.name}: ready again after {time.monotonic() - started_at:.1f} s")

    def _item(self, name: str) -> ServerItem:
        server = self._servers[name]
        if self._locks[name].locked():  # by a restart: the other actions wait for nothing
            return ServerItem(name=name, entry=server.entry, status=ServerStatus.STOPPED, actions=[])
        return ServerItem(name=name, entry=server.entry, status=server.status, actions=_ACTIONS[server.status])
