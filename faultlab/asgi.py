"""The lifespan of an ASGI app as an async context manager."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

AsgiMessage = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[AsgiMessage]], Callable[[AsgiMessage], Awaitable[None]]],
    Awaitable[None],
]

CANCEL_TIMEOUT = 5.0  # time for the clean-up of an app that was cancelled
FAILURE_GRACE = 0.1  # time for an app that reported a failure to raise the error behind it
_POLL_INTERVAL = 0.01


class LifespanFailedError(Exception):
    """The app reported a failed startup or shutdown, ended without a report, or did not end by its cancellation."""


@asynccontextmanager
async def lifespan_of(app: App) -> AsyncGenerator[dict[str, Any]]:
    """Enter and exit the lifespan of `app`, and yield its state. Cancelling the caller cancels the app.

    Raises:
        LifespanFailedError: the app failed to start or to stop, or raised another error when it was cancelled.
    """
    received: asyncio.Queue[AsgiMessage] = asyncio.Queue()
    sent: asyncio.Queue[AsgiMessage] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def run() -> None:
        await app(scope, received.get, sent.put)

    task = asyncio.create_task(run(), name="lifespan")
    try:
        await _exchange(task, received, sent, "lifespan.startup")
        yield state
        await _exchange(task, received, sent, "lifespan.shutdown")
    except asyncio.CancelledError:
        await _cancel(task, sent)
        if not task.cancelled() and _caused_by_cancellation(error := task.exception()):
            raise LifespanFailedError(f"the lifespan was cancelled and raised another error: {error!r}") from None
        raise
    finally:
        await _cancel(task, sent)


async def get(app: App, path: str, state: dict[str, Any]) -> int:
    """Send a GET request to an app whose lifespan is active, and return the status of the response."""
    received, status = False, 0

    async def receive() -> AsgiMessage:
        nonlocal received
        if received:
            await asyncio.Event().wait()  # there are no further messages
        received = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: AsgiMessage) -> None:
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


async def _cancel(task: "asyncio.Task[None]", sent: "asyncio.Queue[AsgiMessage]") -> None:
    """Cancel the app and wait until it has ended.

    Raises:
        LifespanFailedError: the app swallowed the cancellation, or did not end.
    """
    swallowed = False
    deadline = asyncio.get_running_loop().time() + CANCEL_TIMEOUT
    while not sent.empty():
        sent.get_nowait()  # sent before the cancellation
    task.cancel()
    while not task.done() and asyncio.get_running_loop().time() < deadline:
        await asyncio.wait({task}, timeout=_POLL_INTERVAL)
        if not sent.empty() and sent.get_nowait()["type"].endswith(".complete"):
            swallowed = True
            task.cancel()
    if not task.done():
        raise LifespanFailedError(f"the lifespan was cancelled and has not ended after {CANCEL_TIMEOUT:.0f} s")
    if not task.cancelled():
        task.exception()  # mark it as retrieved: `_exchange` or the caller reports it
    if swallowed:
        raise LifespanFailedError("the lifespan swallowed its cancellation and continued")


def _caused_by_cancellation(error: BaseException | None) -> bool:
    """Return whether the error was raised while a cancellation was handled, and is not an independent failure."""
    while error is not None and not isinstance(error, asyncio.CancelledError):
        error = error.__context__
    return error is not None


async def _exchange(
    task: "asyncio.Task[None]",
    received: "asyncio.Queue[AsgiMessage]",
    sent: "asyncio.Queue[AsgiMessage]",
    message_type: str,
) -> None:
    """Send a message to the app and wait for its report.

    Raises:
        LifespanFailedError: the app reported a failure, or ended.
    """
    received.put_nowait({"type": message_type})
    report = asyncio.create_task(sent.get())
    try:
        await asyncio.wait({task, report}, return_when=asyncio.FIRST_COMPLETED)
        if not report.done() or report.result()["type"] != f"{message_type}.complete":
            reason = report.result().get("message") if report.done() else "the app ended without a report"
            # An app that reports a failure usually raises as well, and the error is clearer than the message.
            await asyncio.wait({task}, timeout=FAILURE_GRACE)
            if task.done():
                if task.cancelled():
                    reason = "the app raised CancelledError"
                elif (error := task.exception()) is not None:
                    reason = repr(error)
            raise LifespanFailedError(f"{message_type}: {reason}")
    finally:
        report.cancel()
