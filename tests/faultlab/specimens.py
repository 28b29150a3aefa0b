"""Apps with lifespans as one finds them: some give everything back, some do not, and the lab has to tell which."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI

held: list[socket.socket] = []


async def connect() -> socket.socket:
    """Something that takes a few steps, and holds a socket from the first on."""
    sock = socket.socket()
    held.append(sock)  # so that the garbage collector does not close it for us
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    except BaseException:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def connection() -> AsyncGenerator[socket.socket]:
    sock = await connect()
    try:
        yield sock
    finally:
        sock.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def connection_that_says_goodbye() -> AsyncGenerator[socket.socket]:
    """It closes in `finally`, and still not always: a cancellation ends the `await` before the close."""
    sock = await connect()
    try:
        yield sock
    finally:
        await asyncio.sleep(0)
        sock.close()


@asynccontextmanager
async def as_the_tutorial_has_it(_app: FastAPI) -> AsyncGenerator[None]:
    """FastAPI's own page: load, yield, clear. It holds nothing that could leak."""
    models = {"answer": lambda question: question}
    yield
    models.clear()


@asynccontextmanager
async def on_an_exit_stack(_app: FastAPI) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connection())
        await stack.enter_async_context(connection())
        yield


@asynccontextmanager
async def with_a_goodbye(_app: FastAPI) -> AsyncGenerator[None]:
    async with connection_that_says_goodbye():
        yield


@asynccontextmanager
async def without_finally(_app: FastAPI) -> AsyncGenerator[None]:
    """The bare tutorial with two connections: the first stays open when the second does not come up."""
    first = await connect()
    second = await connect()
    yield
    second.close()
    await asyncio.sleep(0)
    first.close()


@asynccontextmanager
async def that_swallows(_app: FastAPI) -> AsyncGenerator[None]:
    """Whatever happens while it connects, it serves."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    yield


tutorial = FastAPI(lifespan=as_the_tutorial_has_it)
exit_stack = FastAPI(lifespan=on_an_exit_stack)
goodbye = FastAPI(lifespan=with_a_goodbye)
leaking = FastAPI(lifespan=without_finally)
swallowing = FastAPI(lifespan=that_swallows)


def made() -> FastAPI:
    return FastAPI(lifespan=on_an_exit_stack)
