"""The lifespan of any ASGI app, as an async context manager."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


END_WITHIN = 5.0
"""Seconds that an app may take for its clean-up once it was cancelled."""


class LifespanFailedError(Exception):
    """The app said that its startup or its shutdown failed, or it ended without a word."""


@asynccontextmanager
async def lifespan_of(app: App) -> AsyncGenerator[dict[str, Any]]:
    """Enter and leave the lifespan of `app`, and yield its state. A cancellation of whoever waits here is the app's.

    Raises:
        LifespanFailedError: the app failed to start or to stop, or made another error of a cancellation.
    """
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def run() -> None:
        await app(scope, received.get, sent.put)

    life = asyncio.create_task(run(), name="lifespan")
    try:
        await _ask(life, received, sent, "lifespan.startup")
        yield state
        await _ask(life, received, sent, "lifespan.shutdown")
    except asyncio.CancelledError:
        await _end(life, sent)
        if not life.cancelled() and _comes_of_a_cancellation(error := life.exception()):
            raise LifespanFailedError(f"it was cancelled, and ended with another error: {error!r}") from None
        raise
    finally:
        await _end(life, sent)


async def get(app: App, path: str, state: dict[str, Any]) -> int:
    """Ask an app whose lifespan is entered for something, and return the status of the answer."""
    asked, status = False, 0

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # nothing more comes
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": state.copy(),
    }
    await app(scope, receive, send)
    return status


async def _end(life: "asyncio.Task[None]", sent: "asyncio.Queue[Message]") -> None:
    """End the app, if it has not ended.

    Raises:
        LifespanFailedError: it answered as if nobody had cancelled it, or does not end at all.
    """
    swallowed = False
    deadline = asyncio.get_running_loop().time() + END_WITHIN
    while not sent.empty():
        sent.get_nowait()  # said before it was cancelled
    life.cancel()
    while not life.done() and asyncio.get_running_loop().time() < deadline:
        await asyncio.wait({life}, timeout=0.01)
        if not sent.empty() and sent.get_nowait()["type"].endswith(".complete"):
            swallowed = True
            life.cancel()
    if not life.done():
        raise LifespanFailedError(f"it was cancelled, and has not ended after {END_WITHIN:.0f} s")
    if not life.cancelled():
        life.exception()  # it was told already, or is about to be
    if swallowed:
        raise LifespanFailedError("it was cancelled, and went on as if it had not been")


def _comes_of_a_cancellation(error: BaseException | None) -> bool:
    """Whether it was raised while a cancellation was handled: else it is a failure of its own."""
    while error is not None and not isinstance(error, asyncio.CancelledError):
        error = error.__context__
    return error is not None


async def _ask(
    life: "asyncio.Task[None]", received: "asyncio.Queue[Message]", sent: "asyncio.Queue[Message]", what: str
) -> None:
    received.put_nowait({"type": what})
    answering = asyncio.create_task(sent.get())
    try:
        await asyncio.wait({life, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done() or answering.result()["type"] != f"{what}.complete":
            why = answering.result().get("message") if answering.done() else "it ended without an answer"
            await asyncio.wait({life}, timeout=0.1)  # who says that it failed raises, too, as a rule: that tells more
            if life.done() and not life.cancelled() and (error := life.exception()) is not None:
                why = repr(error)
            raise LifespanFailedError(f"{what}: {why}")
    finally:
        answering.cancel()
