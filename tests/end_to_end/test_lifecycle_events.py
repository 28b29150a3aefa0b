"""The journal and the state of a real gateway as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from http import HTTPStatus
from signal import SIGTERM
from typing import Any, cast

import httpx
import pytest
from structlog.testing import capture_logs

from faultlab import ResourceSnapshot
from gateway.api.health import EVENTS_PATH
from gateway.api.lifecycle_events import MAX_STREAMS
from gateway.devstack.stack import Devstack
from gateway.lifecycle import EventType, LifecycleEvent
from gateway.process.exit_status import ExitStatus
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import (
    OPERATOR,
    RunningGateway,
    assert_complete_problem,
    assert_no_process_leaks,
    assert_no_server_leaks,
    running_gateway,
)
from tests.serving.running_server import running_server
from tests.support.entries import ENTRIES, server_for
from tests.support.event_stream import StreamEvent, event_stream
from tests.support.waiting import TIMEOUT, wait_until

OPERATOR_KEYS = '["operator:the-key-of-an-operator"]'
VISIBLE = 3.0  # seconds until a change is visible: two, and one for a busy machine

Condition = Callable[[StreamEvent], bool]


@pytest.fixture
async def url(gateway: RunningGateway) -> AsyncIterator[str]:
    """The URL of the stream of a gateway in this process."""
    async with running_server(gateway.app) as server:
        yield f"http://127.0.0.1:{server.port}{EVENTS_PATH}"


async def read_until(events: AsyncIterator[StreamEvent], condition: Condition) -> list[StreamEvent]:
    """Return the events up to the first one that meets the condition."""
    found: list[StreamEvent] = []
    async with asyncio.timeout(TIMEOUT):
        async for event in events:
            found.append(event)
            if condition(event):
                return found
    raise AssertionError(f"the stream ended after {found[-3:]}")


async def read_to_end(url: str, opened: asyncio.Event) -> list[StreamEvent]:
    """Return all events of a stream. Set `opened` once it has sent the health checks."""
    found = []
    async with event_stream(url, OPERATOR) as events, asyncio.timeout(TIMEOUT):
        async for event in events:
            found.append(event)
            if has_checks(event):
                opened.set()
    return found


def is_state(event: StreamEvent) -> bool:
    return event.name == "state"


def has_checks(event: StreamEvent) -> bool:
    return is_state(event) and all(entry["check"] is not None for entry in event.data["entries"])


def entry_of(event: StreamEvent, name: str) -> dict[str, Any]:
    """Return the state of an entry in a `state` event."""
    return next(entry for entry in event.data["entries"] if entry["name"] == name)


def check_is(name: str, status: str) -> Condition:
    def condition(event: StreamEvent) -> bool:
        return has_checks(event) and entry_of(event, name)["check"]["status"] == status

    return condition


class TestEvents:
    async def test_journal_and_state(self, gateway: RunningGateway, url: str) -> None:
        """The journal so far comes first, as in `/lifecycle`. Then comes the state, at once and again with the health checks."""
        journal = (await gateway.client.get("/lifecycle")).json()
        async with event_stream(url, OPERATOR) as events:
            received = await read_until(events, has_checks)

        items = [event.data for event in received if event.name == "journal"]
        names = [event.name for event in received]
        state = received[-1].data
        assert items == journal["items"]
        assert names[: len(items) + 1] == ["journal"] * len(items) + ["state"]
        assert [(entry["name"], entry["state"]) for entry in state["entries"]] == [(name, "active") for name in ENTRIES]
        assert all(entry["took_ms"] is not None and entry["last_error"] is None for entry in state["entries"])
        assert (state["phase"], state["status"], state["began_at"]) == ("started", "ok", journal["began_at"])
        assert state["now_ms"] >= items[-1]["at_ms"]
        assert state["outbox"].keys() == {"waiting", "failing", "parked", "oldest_age_s"}
        assert state["stop"] == {"drain_s": 0, "graceful_s": 2, "shutdown_timeout_s": 30}

    async def test_resumed_stream(self, url: str) -> None:
        """A client that has some events gets those after them. One with an id of another process gets all."""
        async with event_stream(url, OPERATOR) as events:
            everything = await read_until(events, is_state)
        ids = [event.id for event in everything[:-1]]
        received = {}
        for last_id in (ids[4], ids[-1], "1-4", "nonsense", ids[0] + "9" * 5000):
            async with event_stream(url, OPERATOR | {"Last-Event-ID": last_id}) as events:
                resumed = await read_until(events, is_state)
            received[last_id] = [event.id for event in resumed[:-1]]

        assert len(set(ids)) == len(ids) > 2 * len(ENTRIES)
        assert list(received.values()) == [ids[5:], [], ids, ids, ids]

    async def test_states_are_frequent(self, url: str) -> None:
        """The state comes at least each second."""
        async with event_stream(url, OPERATOR) as events:
            first = (await read_until(events, is_state))[-1].data["now_ms"]
            states = await read_until(events, lambda event: is_state(event) and event.data["now_ms"] > first + 2500)

        assert len(states) >= 3

    @pytest.mark.parametrize("name", ["redis", "database"])
    async def test_server_outage(self, url: str, servers: Devstack, name: str) -> None:
        """The failed check of a server that stops is visible within two seconds, and so is its recovery. Its last error stays."""
        async with event_stream(url, OPERATOR) as events:
            await read_until(events, has_checks)
            with server_for(name, servers).suspended():
                stopped_at = time.monotonic()
                failed = (await read_until(events, check_is(name, "failed")))[-1]
                failure_time = time.monotonic() - stopped_at
            resumed_at = time.monotonic()
            recovered = (await read_until(events, check_is(name, "ok")))[-1]
            recovery_time = time.monotonic() - resumed_at

        error = entry_of(failed, name)["last_error"]
        assert failed.data["status"] == "degraded"
        assert error["error"] == entry_of(failed, name)["check"]["remark"]
        assert 0 < error["at_ms"] <= failed.data["now_ms"]
        assert entry_of(recovered, name)["last_error"] is not None
        assert (failed.data["outbox"] is None) == (name == "database")
        assert failure_time < VISIBLE
        assert recovery_time < VISIBLE


class TestConnections:
    async def test_operators_only(self, url: str) -> None:
        """A client without an operator's key gets a problem."""
        async with httpx.AsyncClient() as client:
            refused = await client.get(url)

        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")

    async def test_invalid_parameter(self, url: str) -> None:
        """Another value of `until` gets a problem."""
        async with httpx.AsyncClient(headers=OPERATOR) as client:
            refused = await client.get(url, params={"until": "started"})

        assert (refused.status_code, refused.json()["errors"][0]["parameter"]) == (422, "until")

    async def test_head(self, url: str) -> None:
        """HEAD has the headers of GET, and ends: its connection gets the next request."""
        async with httpx.AsyncClient(headers=OPERATOR, timeout=TIMEOUT) as client:
            head = await client.head(url)
            again = await client.head(url)

        assert (head.status_code, head.headers["Cache-Control"], head.content) == (200, "no-store", b"")
        assert again.status_code == 200
        assert head.headers["Content-Type"].startswith("text/event-stream")

    async def test_limit(self, gateway: RunningGateway, url: str) -> None:
        """A client gets a problem while as many streams are open as the limit, and a stream after one of them is closed."""
        app = cast("StatefulApp", gateway.app)._app
        app.state.stream_slots = asyncio.Semaphore(2)  # type: ignore[attr-defined]
        async with httpx.AsyncClient(headers=OPERATOR) as client, event_stream(url, OPERATOR):
            async with event_stream(url, OPERATOR):
                refused = await client.get(url)

            async def is_accepted() -> bool:
                return (await client.head(url)).status_code == HTTPStatus.OK

            await wait_until(is_accepted, "a stream is accepted")

        assert_complete_problem(refused, 503)
        assert MAX_STREAMS == 100

    async def test_disconnected_clients(self, gateway: RunningGateway, url: str) -> None:
        """The streams of clients that have disconnected end, and leave no task, no listener and no error in the log."""
        await gateway.client.get("/readyz")  # opens the connections of the health checks
        before = ResourceSnapshot.take()
        with capture_logs() as logs:
            async with httpx.AsyncClient(timeout=TIMEOUT) as client, AsyncExitStack() as streams:
                for _ in range(20):
                    events = await streams.enter_async_context(event_stream(url, OPERATOR, client=client))
                    await anext(events)
            await assert_no_process_leaks(before)

        assert len(gateway.services.journal.listeners) == 1
        assert logs == []


class TestStop:
    async def test_drain_and_teardown(self, start: StartProcess, servers: Devstack, instance: str) -> None:
        """By default, a stream ends when the drain begins. With `until=stopped`, it shows the teardown in reverse order, and delays nothing.

        The other stop settings would be exceeded if the shutdown waited for a stream.
        """
        process = start(
            "serve",
            "--port",
            "0",
            GATEWAY_OPERATOR_KEYS=OPERATOR_KEYS,
            GATEWAY_DRAIN_SECONDS="0.5",
            GATEWAY_GRACEFUL_SECONDS="20",
        )
        url = await process.url() + EVENTS_PATH
        opened, watched = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            short = group.create_task(read_to_end(url, opened))
            long = group.create_task(read_to_end(url + "?until=stopped", watched))
            await opened.wait()
            await watched.wait()
            stopped_at = time.monotonic()
            process.send_signal(SIGTERM)
            await asyncio.wait({short})
            drain_announced_after = time.monotonic() - stopped_at
        status = await process.exit_status()
        stop_time = time.monotonic() - stopped_at

        end, last = short.result()[-1], long.result()[-1]
        journal = [event.data for event in long.result() if event.name == "journal"]
        stopping = next(index for index, event in enumerate(journal) if event["event"] == "stopping")
        assert (end.name, end.data, end.retry) == ("draining", {"drain_s": 0.5, "graceful_s": 20}, "1000")
        assert [event["name"] for event in journal[stopping:] if event["event"] == "exited"] == list(reversed(ENTRIES))
        assert journal[-1]["event"] == "stopped"
        assert (status, last.name, last.data) == (ExitStatus.OK, "stopped", {"exit_status": 0})
        assert drain_announced_after < 5
        assert stop_time < 20
        await assert_no_server_leaks(servers, instance)
        assert '"level": "error"' not in process.output

    async def test_forced_stop(self, start: StartProcess) -> None:
        """A second signal drops the streams, without an error in the log."""
        process = start("serve", "--port", "0", GATEWAY_OPERATOR_KEYS=OPERATOR_KEYS, GATEWAY_DRAIN_SECONDS="15")
        url = await process.url() + EVENTS_PATH
        async with event_stream(f"{url}?until=stopped", OPERATOR) as events:
            await read_until(events, has_checks)
            process.send_signal(SIGTERM)
            await read_until(events, lambda event: event.name == "draining")
            process.send_signal(SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):
                await read_until(events, lambda event: event.name == "stopped")

        assert await process.exit_status() == ExitStatus.FORCED
        assert "Traceback" not in process.output

    async def test_checks_in_progress(self, settings: Settings, servers: Devstack) -> None:
        """The teardown begins after the health checks that a stream has started, because they use the resources."""
        checks_ended: list[bool] = []

        def on_event(event: LifecycleEvent) -> None:
            if event.type is EventType.EXITING:
                checks_ended.append(report.done())

        with ExitStack() as outage:
            async with running_gateway(settings) as gateway:
                outage.enter_context(servers.redis.suspended())
                report = asyncio.create_task(gateway.services.readiness.report())
                await asyncio.sleep(0)
                gateway.services.journal.listeners.append(on_event)

        assert checks_ended == [True] * len(ENTRIES)

    async def test_other_server(self, run: StartProcess) -> None:
        """Under plain uvicorn, which waits for all responses before it exits the lifespan, each stream ends when the stop begins."""
        arguments = ("-m", "uvicorn", "--factory", "gateway.app:create_app", "--port", "0")
        process = run(*arguments, GATEWAY_OPERATOR_KEYS=OPERATOR_KEYS)
        await process.wait_for_output("Uvicorn running on ")
        url = process.output.split("Uvicorn running on ")[1].split()[0] + EVENTS_PATH
        opened = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            stream = group.create_task(read_to_end(url + "?until=stopped", opened))
            await opened.wait()
            process.send_signal(SIGTERM)
        await process.exit_status()

        assert stream.result()[-1].name == "draining"
        assert "Application shutdown complete" in process.output
