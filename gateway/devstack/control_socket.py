"""The Unix socket by which the gateway of `gateway dev` reaches the process that owns the servers.

A connection has one request and one reply, each a line of JSON.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from gateway.concurrency import TaskPool
from gateway.devstack.control import (
    ACTION_TIMEOUT,
    Action,
    ControlError,
    ControlFailure,
    ServerControl,
    ServerItem,
)

REPLY_TIMEOUT = ACTION_TIMEOUT + 5


class ControlRequest(BaseModel):
    """An action on one server, or, without both, a request for the status of all."""

    name: str | None = None
    action: Action | None = None


class ControlReply(BaseModel):
    """The servers, or the reason why the action was not done."""

    items: list[ServerItem] = []
    failure: ControlFailure | None = None
    detail: str = ""


@asynccontextmanager
async def serve_control(control: ServerControl, path: Path) -> AsyncIterator[None]:
    """Do the actions that are requested on a Unix socket inside the block. At its end, those in progress are cancelled.

    Only the current user can connect.
    """
    pool = TaskPool()

    def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pool.spawn(_reply(control, reader, writer))

    with socket.socket(socket.AF_UNIX) as listener:
        os.fchmod(listener.fileno(), 0o600)  # Linux creates the file with the mode that the socket has
        with _short_path(path) as short:
            listener.bind(short)
        server = await asyncio.start_unix_server(on_connection, sock=listener)
        try:
            yield
        finally:
            server.close()
            await pool.aclose(drain_timeout=0)


async def _reply(control: ServerControl, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), suppress(ConnectionError, ValidationError):  # the gateway has ended
        request = ControlRequest.model_validate_json(await reader.readline())
        try:
            if request.name is None or request.action is None:
                reply = ControlReply(items=control.list_servers())
            else:
                reply = ControlReply(items=[await control.apply(request.name, request.action)])
        except ControlError as error:
            reply = ControlReply(failure=error.failure, detail=error.detail)
        writer.write(reply.model_dump_json().encode() + b"\n")
        await writer.drain()


class ControlClient:
    """Requests actions from the process that owns the servers."""

    def __init__(self, path: Path) -> None:
        """Connect to nothing yet.

        Args:
            path: that of `serve_control()` in the other process.
        """
        self._path = path

    async def list_servers(self) -> list[ServerItem]:
        """Return the status of each server.

        Raises:
            ControlError: the other process has ended or does not respond.
        """
        return await self._request(ControlRequest())

    async def apply(self, name: str, action: Action) -> ServerItem:
        """Request an action, and return the status of the server after it.

        Raises:
            ControlError: there is no such server, the action does not fit its status, or it failed. Or the other
                process has ended or does not respond.
        """
        [item] = await self._request(ControlRequest(name=name, action=action))
        return item

    async def _request(self, request: ControlRequest) -> list[ServerItem]:
        try:
            async with asyncio.timeout(REPLY_TIMEOUT):
                reply = ControlReply.model_validate_json(await self._exchange(request.model_dump_json().encode()))
        except (OSError, ValidationError):  # a TimeoutError is an OSError; without a reply, the line is empty
            raise ControlError(
                ControlFailure.UNAVAILABLE,
                "`gateway dev` has ended or does not respond. Start it again.",
            ) from None
        if reply.failure is not None:
            raise ControlError(reply.failure, reply.detail)
        return reply.items

    async def _exchange(self, request: bytes) -> bytes:
        with _short_path(self._path) as short:
            reader, writer = await asyncio.open_unix_connection(short)
        with closing(writer):
            writer.write(request + b"\n")
            return await reader.readline()


@contextmanager
def _short_path(path: Path) -> Generator[str]:
    """Yield a path of the same file inside the block. The path of a socket has at most 107 characters."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
