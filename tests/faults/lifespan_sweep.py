"""The lifespan as the code under test of a sweep: one run for each injection point, each followed by a restart."""

import asyncio
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from itertools import count

from fastapi import FastAPI

from faultlab import Outcome, Run
from gateway.app import create_app
from gateway.lifecycle import EventType, LifecycleStack
from gateway.lifespan import lifespan
from gateway.settings import Settings
from tests.faults.lifespan_run import LifespanRun, enter_and_exit, journal_of
from tests.support.entries import SweptPhase

CANCEL_TIMEOUT = 10.0  # for a startup to reach the entry at which it is cancelled

_RELEASED = {EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED}
_numbers = count(1)


class LifespanSweep:
    """Runs the lifespan with a fault in one phase; `run` is the current or last run."""

    def __init__(self, settings: Settings, phase: SweptPhase) -> None:
        """Prepare the runs. Each connects under a name of its own: the instance name and a number."""
        self.run = LifespanRun()
        self._settings = settings
        self._phase = phase
        self._app = FastAPI()

    @property
    def stack(self) -> LifecycleStack:
        """The stack of the current run."""
        stack: LifecycleStack = self._app.state.stack
        return stack

    async def run_with_fault(self, run: Run) -> None:
        """Run the lifespan once. The fault is injected into the phase of this sweep."""
        self._new_app()
        self.run = LifespanRun()
        manager = lifespan(self._app)
        armed = run.armed(self._on_injection)
        try:
            match self._phase:
                case "startup":
                    with armed:
                        await manager.__aenter__()
                    await manager.__aexit__(None, None, None)
                case "teardown":
                    await manager.__aenter__()
                    with armed:
                        await manager.__aexit__(None, None, None)
                case "rollback":
                    await self._roll_back(manager, armed)
        finally:
            self.run.journal = journal_of(self._app)

    async def _roll_back(
        self, manager: AbstractAsyncContextManager[object], armed: AbstractContextManager[None]
    ) -> None:
        """Cancel the startup while the model is loaded, the last step that takes more than an instant."""
        startup = asyncio.create_task(manager.__aenter__())
        await asyncio.sleep(0)
        async with asyncio.timeout(CANCEL_TIMEOUT):
            while self._active_entry() != "model":  # noqa: ASYNC110 - an iteration of the loop is the unit here
                await asyncio.sleep(0)
        startup.cancel()
        with armed:
            await asyncio.wait({startup})
        if not startup.cancelled():
            startup.result()
        self.run.outcome = "cancelled" if startup.cancelled() else "finished"

    def _on_injection(self) -> str:
        self.run.injected_at = self.stack.journal.now
        last = {event.name: event.type for event in self.stack.journal}
        entries = [entry.name for entry in reversed(self.stack.entries)]
        self.run.open_at_injection = [name for name in entries if last[name] not in _RELEASED]
        return self._active_entry()

    def _active_entry(self) -> str:
        """Return the entry that is being entered or released, or "all" if none is."""
        (*_, last) = self.stack.journal
        return last.name if last.name is not None and last.type in {EventType.ENTERING, EventType.EXITING} else "all"

    async def restart(self, _run: Run) -> None:
        """Run the lifespan once more, without a fault."""
        self._new_app()
        await enter_and_exit(self._app)
        self.run.restart = LifespanRun(journal=journal_of(self._app))

    def finish(self, outcome: Outcome) -> LifespanRun:
        """Return the last run, with what the lab found out about it."""
        self.run.point = f"point {outcome.at}, {outcome.location}"
        self.run.active_entry = outcome.activity
        self.run.add(outcome)
        return self.run

    def _new_app(self) -> None:
        instance = f"{self._settings.instance}{next(_numbers)}"
        self._app = create_app(self._settings.model_copy(update={"instance": instance}))
