"""The journal and the state of the lifespan as server-sent events: what happens now, until the end of the stop."""

import asyncio
import re
import signal
from collections.abc import AsyncGenerator, AsyncIterable
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Literal, Self

from anyio import BrokenResourceError
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from gateway.api.health import EVENTS_PATH, JournalEvent, OperationRoute
from gateway.api.lifecycle_state import lifecycle_state
from gateway.api.operators import OperatorRequired
from gateway.api.problem_types import INVALID_REQUEST, OVERLOADED
from gateway.api.problems import ProblemError, problem_responses
from gateway.concurrency import wait_for_event
from gateway.dependencies import DevServers, ExitStatusDependency, SettingsDependency, StreamSlots, get_services
from gateway.lifecycle import EventType, LifecycleEvent
from gateway.lifespan import Services
from gateway.readiness import ReadinessStatus
from gateway.settings import Settings

MAX_STREAMS = 100
STATE_INTERVAL = 0.5  # seconds; with the timeout of a health check, a server that hangs is visible within two seconds
RECONNECT_DELAY_MS = 1000


class EventRoute(OperationRoute):
    """A route with a stream, whose client may disconnect at any time."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        # If an event waits to be sent, FastAPI closes the stream inside of it before it cancels the task that sends the event.
        try:
            await super().handle(scope, receive, send)
        except* BrokenResourceError:
            pass


router = APIRouter(tags=["operation"], route_class=EventRoute, responses=problem_responses(INVALID_REQUEST))


class LifecycleWatch:
    """Follows the journal of a lifespan, and runs its health checks, for one client.

    It stores no events: the journal has them all, and a client gets the state of the moment when it reads. So a slow client
    costs no memory.

    Attributes:
        services: those of the lifespan.
        readiness: the latest report, or None before the first one.
        types: the types of the events so far.
    """

    def __init__(self, services: Services) -> None:
        """Watch nothing yet."""
        self.services = services
        self.readiness: ReadinessStatus | None = None
        self.types = {event.type for event in services.journal}
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.services.journal.listeners.append(self._on_event)
        self._checks = asyncio.create_task(self._run_checks(), name="health checks for a stream")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.services.journal.listeners.remove(self._on_event)
        self._closed.set()
        await self._checks  # without a cancellation, which may cost a connection of the backends

    async def wait_for_change(self) -> None:
        """Return after an event or health checks, or after `STATE_INTERVAL`."""
        await wait_for_event(self._changed, timeout=STATE_INTERVAL)
        self._changed.clear()

    def _on_event(self, event: LifecycleEvent) -> None:
        self.types.add(event.type)
        self._changed.set()

    async def _run_checks(self) -> None:
        while not self._closed.is_set():
            self.readiness = await self.services.readiness.report()
            self._changed.set()
            await wait_for_event(self._closed, timeout=STATE_INTERVAL)


async def open_watch(request: Request, slots: StreamSlots) -> AsyncGenerator[LifecycleWatch]:
    """Yield a watch until the end of the response.

    Raises:
        ProblemError: too many clients watch the lifespan (503).
    """
    services = get_services(request)
    if slots.locked():
        raise ProblemError(OVERLOADED, f"{MAX_STREAMS} clients watch this gateway already. Try again in a second.")
    async with slots, LifecycleWatch(services) as watch:
        yield watch


@router.get(
    EVENTS_PATH,
    operation_id="watch_lifecycle",
    summary="Journal and state, live",
    response_class=EventSourceResponse,
    dependencies=[OperatorRequired],
    responses=problem_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, OVERLOADED),
)
async def watch_lifecycle(
    watch: Annotated[LifecycleWatch, Depends(open_watch)],
    exit_status: ExitStatusDependency,
    settings: SettingsDependency,
    dev_servers: DevServers,
    *,
    until: Annotated[
        Literal["stopped"] | None,
        Query(
            description="`stopped`: continue to the end of the teardown. Without it, the stream ends when the stop begins.",
            examples=["stopped"],
        ),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="The id of the last event that the client has, to continue after it",
            examples=["1795526442000-3"],
        ),
    ] = None,
) -> AsyncIterable[ServerSentEvent]:
    """The events of the journal, those so far and then each as it happens, and the state of the lifespan, for operators.

    - `journal`: an event, as in `/lifecycle`. Its id is valid for this process.
    - `state`: the entries with their health checks and last errors, and the outbox; at each change, and at least each second.
    - `draining`: the stop has begun.
    - `stopped`: the end of the stop, with the exit status of the process.
    """
    journal = watch.services.journal
    run_id = str(int(journal.started_at.timestamp() * 1000))
    index = _index_after(last_event_id, run_id)
    drain_announced = False
    while True:
        for event in islice(journal, index, None):
            yield ServerSentEvent(event="journal", id=f"{run_id}-{index}", data=JournalEvent.of(event))
            index += 1
        state = lifecycle_state(watch.services, watch.readiness, settings, dev_servers=dev_servers)
        yield ServerSentEvent(event="state", data=state)
        if index < len(journal):
            continue
        is_stopping = EventType.STOPPING in watch.types
        if not drain_announced and (is_stopping or _is_uvicorn_stopping()):
            drain_announced = True
            yield ServerSentEvent(event="draining", data=drain_times(watch, settings), retry=RECONNECT_DELAY_MS)
            if until is None or not is_stopping:
                return
        if EventType.STOPPED in watch.types:
            # All streams share the future, and a client that disconnects cancels only its own wait.
            status = await asyncio.shield(exit_status) if exit_status else None
            yield ServerSentEvent(event="stopped", data={"exit_status": status})
            return
        await watch.wait_for_change()


def _index_after(event_id: str | None, run_id: str) -> int:
    """Return the index of the event after the one with this id, or 0 if the id is not one of this process."""
    found = re.fullmatch(rf"{run_id}-([0-9]{{1,6}})", event_id or "")
    return int(found[1]) + 1 if found else 0


def drain_times(watch: LifecycleWatch, settings: Settings) -> dict[str, float]:
    """Return the seconds until new requests are refused, and those that the requests in flight have after that."""
    drain = 0.0 if EventType.CRASHED in watch.types else settings.drain_seconds
    return {"drain_s": drain, "graceful_s": settings.graceful_seconds}


def _is_uvicorn_stopping() -> bool:
    """Return whether a uvicorn that runs the app without `gateway serve` stops.

    It exits the lifespan only after the last response, so that no event reports the stop to a stream.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))
