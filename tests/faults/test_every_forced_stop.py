"""A stop that is forced, as by a second signal, at every point in time: whatever is still held is let go at once.

In `gateway serve` the process ends half a second later, whatever hangs. Here it lives on, and so shows what it still holds: nothing.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import pytest

from faultlab import Call, Outcome, Run
from gateway.devstack.stack import Devstack
from gateway.lifecycle import EventType, ForcedShutdownError, StartError, TeardownError
from tests.faults.points import DEADLINE, EVERYWHERE, Lives, Where, prove
from tests.faults.recording import Record

pytestmark = [pytest.mark.usefixtures("census"), pytest.mark.long]


_ENDS = {EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED}


@dataclass
class Forced(Lives):
    """Lives whose stop is forced."""

    at_hand: list[str] = field(default_factory=list)
    """What is being entered, is held or is being released when that happens, the latest first."""
    aborted: list[list[str]] = field(default_factory=list)
    """What it aborts, in order, in one life after the other."""

    @property
    def fault(self) -> Call:
        return Call(self.force, "the stop is forced")

    def force(self) -> None:
        last = {event.name: event.type for event in self.journal}
        entries = self.app.state.stack.entries
        self.at_hand = [entry.name for entry in reversed(entries) if last[entry.name] not in _ENDS]
        self.app.state.stack.abort()

    def assert_over(self, case: Run) -> None:
        """All that was at hand is aborted, the latest first; what was released before has exited by itself."""
        if not case.fired:
            super().assert_over(case)
            return
        last = {event.name: event.type for event in self.journal}
        aborted = [event.name for event in self.journal if event.type is EventType.ABORTED]
        # The one at work may have come to its end in that very instant, and whoever waits for it not know it yet.
        done = [name for name in self.at_hand[:1] if name not in aborted]
        assert aborted == self.at_hand[len(done) :]
        entered = [event.name for event in self.journal if event.type is EventType.ENTERED]
        before = [name for name in reversed(entered) if name not in self.at_hand]
        exited = [event.name for event in self.journal if event.type is EventType.EXITED]
        assert exited == [*before, *(name for name in done if name in entered)]
        assert EventType.ABANDONED not in last.values()
        assert last[None] is EventType.STOPPED
        self.aborted.append([str(name) for name in aborted])


@dataclass
class RolledBack(Forced):
    """Lives whose start is cancelled, as by a first signal, and whose rollback is then forced to end."""

    @property
    def fault(self) -> Call:
        return Call(self.force, "the rollback of a cancelled start is forced")

    async def struck(self, case: Run, life: AbstractAsyncContextManager[object]) -> None:
        start = asyncio.create_task(life.__aenter__())
        await asyncio.sleep(0)  # it has begun
        async with asyncio.timeout(DEADLINE):
            while self.at_work() != "model":  # noqa: ASYNC110 - the last that takes more than an instant
                await asyncio.sleep(0)
        start.cancel()
        with case.armed(self.at_work):
            await asyncio.wait({start})
        assert start.cancelled()


@EVERYWHERE
def test_a_start_that_is_forced_to_end_aborts_what_it_holds(servers: Devstack, record: Record, where: Where) -> None:
    lives = Forced(servers, "startup")
    for outcome, aborted in zip(prove(lives, record, lives.fault, where), lives.aborted, strict=True):
        assert_reported(outcome, aborted)
        if isinstance(outcome.error, StartError):
            assert outcome.activity in {outcome.error.name, "all"}
        else:
            assert outcome.activity in {"briefs", "all"}, "it has started before anybody could be told"


@EVERYWHERE
def test_a_rollback_that_is_forced_to_end_aborts_what_is_left_and_stays_cancelled(
    servers: Devstack, record: Record, where: Where
) -> None:
    lives = RolledBack(servers, "teardown")
    assert [outcome.error for outcome in prove(lives, record, lives.fault, where) if outcome.error] == []


@EVERYWHERE
def test_a_teardown_that_is_forced_to_end_aborts_what_is_left_and_tells_all_of_it(
    servers: Devstack, record: Record, where: Where
) -> None:
    lives = Forced(servers, "teardown")
    for outcome, aborted in zip(prove(lives, record, lives.fault, where), lives.aborted, strict=True):
        assert_reported(outcome, aborted)
        assert not isinstance(outcome.error, StartError)


def assert_reported(outcome: Outcome, aborted: list[str]) -> None:
    """The error says that the stop was forced, for each that was aborted."""
    errors: list[BaseException | None] = []
    group = outcome.error
    if isinstance(group, StartError):
        errors, group = [group.__cause__], group.teardown
    if group is not None:
        assert isinstance(group, TeardownError)
        errors += group.exceptions
    assert [type(error) for error in errors] == [ForcedShutdownError] * len(aborted), outcome
