"""The process runner: startup, body, shutdown and the exit status, with real signals and a fake watchdog."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from gateway.lifecycle import LifecycleStack, StartError, TeardownError
from gateway.process.exit_status import ExitStatus
from gateway.process.runner import ProcessResult, ProcessRunner
from gateway.process.signals import FORCE_TIMEOUT, stop_signals
from tests.lifecycle.fakes import Hook, cancel_self, enter, enter_worker, event_sequence, hang, noop, raise_error

SHUTDOWN_TIMEOUT = 30.0


@pytest.fixture(autouse=True)
def exit_deadlines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, int]]]:
    """Keep the test process alive: record the deadlines of the watchdog instead, and restore the signal handlers."""
    deadlines: list[tuple[float, int]] = []

    class FakeWatchdog:
        def exit_within(self, seconds: float, status: int) -> None:
            deadlines.append((seconds, status))

    monkeypatch.setattr("gateway.process.signals.Watchdog", FakeWatchdog)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield deadlines
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Program:
    """A lifespan of one resource and one worker, and a body that waits for the shutdown.

    Attributes:
        stack: the stack of the lifespan.
        crash: set it to crash the worker.
    """

    def __init__(self, *, on_enter: Hook = noop, on_exit: Hook = noop, in_body: Hook = noop) -> None:
        """Run nothing yet.

        Args:
            on_enter: called when the resource is entered.
            on_exit: called when the resource exits.
            in_body: called at the beginning of the body.
        """
        self.stack: LifecycleStack | None = None
        self.crash = asyncio.Event()
        self._on_enter = on_enter
        self._on_exit = on_exit
        self._in_body = in_body

    @asynccontextmanager
    async def _lifespan(self) -> AsyncGenerator[None]:
        async with LifecycleStack() as stack:
            self.stack = stack
            await enter_worker(stack, self.crash)
            await enter(stack, "resource", on_enter=self._on_enter, on_exit=self._on_exit)
            stack.mark_started()
            yield

    async def _body(self, process: ProcessRunner) -> None:
        await self._in_body()
        await process.wait_for_shutdown()

    async def run(self) -> ProcessResult:
        runner = ProcessRunner(
            self._lifespan(), self._body, get_stack=lambda: self.stack, shutdown_timeout=SHUTDOWN_TIMEOUT
        )
        return await runner.run()

    @property
    def events(self) -> list[str]:
        return event_sequence(self.stack.journal) if self.stack else []


async def send_sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


async def send_sigterm_and_hang() -> None:
    signal.raise_signal(signal.SIGTERM)
    await hang()


@pytest.mark.parametrize("number", stop_signals())
async def test_signal_stops_the_body(number: signal.Signals) -> None:
    """A stop signal ends the body, everything is released, and the status is 0."""

    async def send_signal() -> None:
        signal.raise_signal(number)

    program = Program(in_body=send_signal)
    result = await program.run()

    assert result == (ExitStatus.OK, None)
    assert program.events[-6:] == [
        "stopping",
        "exiting resource",
        "exited resource",
        "exiting worker",
        "exited worker",
        "stopped",
    ]


async def test_repeated_hangup_forces_nothing() -> None:
    """A terminal that is closed may send SIGHUP more than once; that does not force the shutdown."""

    async def hang_up_twice() -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)

    program = Program(in_body=hang_up_twice)

    assert await program.run() == (ExitStatus.OK, None)
    assert program.events[-1] == "stopped"


async def test_ignored_hangup_stays_ignored() -> None:
    """If SIGHUP is ignored, as under `nohup`, it stays ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ignored: list[bool] = []

    async def check_and_stop() -> None:
        ignored.append(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    await Program(in_body=check_and_stop).run()

    assert ignored == [True]


async def test_signal_cancels_the_startup() -> None:
    """A stop signal during the startup cancels it, and everything is released."""
    program = Program(on_enter=send_sigterm_and_hang)
    result = await program.run()

    assert result == (ExitStatus.START_FAILED, None)
    assert program.events[-5:] == [
        "enter cancelled resource",
        "stopping",
        "exiting worker",
        "exited worker",
        "stopped",
    ]


async def test_failed_startup() -> None:
    """If the startup fails, the body does not run, and the result has the error."""
    body_calls: list[None] = []

    async def record_call() -> None:
        body_calls.append(None)

    status, error = await Program(on_enter=raise_error, in_body=record_call).run()

    assert status == ExitStatus.START_FAILED
    assert isinstance(error, StartError)
    assert body_calls == []


async def test_crash_stops_the_body() -> None:
    """If an entry crashes, the body ends without a signal, and the status is 1."""

    async def crash() -> None:
        program.crash.set()

    program = Program(in_body=crash)
    result = await program.run()

    assert result == (ExitStatus.CRASHED, None)
    assert program.events[-5:] == ["crashed worker", "stopping", "exiting resource", "exited resource", "stopped"]


async def test_crash_during_the_shutdown() -> None:
    """If an entry crashes while another one exits, the status is 1, too."""

    async def crash() -> None:
        program.crash.set()
        assert program.stack is not None
        await asyncio.wait({program.stack.failure})

    program = Program(in_body=send_sigterm, on_exit=crash)
    result = await program.run()

    assert result.status == ExitStatus.CRASHED


async def test_failed_release() -> None:
    """If an entry fails to exit, the status is 4, and the result has the error."""
    status, error = await Program(in_body=send_sigterm, on_exit=raise_error).run()

    assert status == ExitStatus.UNCLEAN
    assert isinstance(error, TeardownError)


async def test_second_signal_aborts() -> None:
    """A second signal aborts the entries that are left, and the status is 130."""
    program = Program(in_body=send_sigterm, on_exit=send_sigterm_and_hang)
    result = await program.run()

    assert result.status == ExitStatus.FORCED
    assert program.events[-5:] == ["stopping", "exiting resource", "aborted resource", "aborted worker", "stopped"]


async def test_error_of_the_body_is_raised() -> None:
    """An error of the body is a bug: it is raised after everything has been released."""
    program = Program(in_body=raise_error)

    with pytest.raises(ValueError, match="broken"):
        await program.run()
    assert program.events[-4:] == ["exited resource", "exiting worker", "exited worker", "stopped"]


async def test_cancelled_body_is_no_clean_stop() -> None:
    """A body that a library cancels has not ended its work: the cancellation is raised, after everything was released."""
    program = Program(in_body=cancel_self)

    with pytest.raises(asyncio.CancelledError):
        await program.run()
    assert program.events[-4:] == ["exited resource", "exiting worker", "exited worker", "stopped"]


async def test_error_of_the_body_keeps_its_cause() -> None:
    """The error of the body has its own cause, and a note on the error of the shutdown."""

    async def raise_with_cause() -> None:
        raise RuntimeError("body") from ValueError("cause")

    with pytest.raises(RuntimeError, match="body") as caught:
        await Program(in_body=raise_with_cause, on_exit=raise_error).run()

    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "cause"
    assert caught.value.__notes__ == ["the shutdown was not clean: ValueError: broken"]


async def test_signals_set_exit_deadlines(exit_deadlines: list[tuple[float, int]]) -> None:
    """The first signal sets the shutdown timeout with status 4, each later one half a second with status 130."""

    async def send_three_signals() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)

    await Program(in_body=send_three_signals).run()

    forced = (FORCE_TIMEOUT, ExitStatus.FORCED)
    assert exit_deadlines == [(SHUTDOWN_TIMEOUT, ExitStatus.UNCLEAN), forced, forced]


async def test_signals_are_ignored_after_the_run(exit_deadlines: list[tuple[float, int]]) -> None:
    """After the run the status is settled, and a signal changes nothing."""
    await Program(in_body=send_sigterm).run()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert exit_deadlines == [(SHUTDOWN_TIMEOUT, ExitStatus.UNCLEAN)]
