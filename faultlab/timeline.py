"""The story of one case: what was acquired, what struck, what was released and what was not, with times."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from faultlab.asgi import App
from faultlab.sweep import Run
from faultlab.tracking import Acquisition, AcquisitionTracker


@dataclass
class RunTimeline:
    """It is told from within: the event loop looks once in each of its iterations."""

    began: float = field(default_factory=time.perf_counter)
    struck: float | None = None
    ended: float = 0.0
    acquisitions: list[Acquisition] = field(default_factory=list)
    released: dict[Acquisition, float] = field(default_factory=dict)
    kept: list[App] = field(default_factory=list)
    """What is examined, until the case has settled: in a process of its own it would not be forgotten before, either."""

    def begin(self, case: Run, memory: AcquisitionTracker, alive: Callable[[], object]) -> None:
        """Look from now on, until the case has settled. No task of the app's may be there yet.

        Args:
            case: the fault.
            memory: what is acquired from now on.
            alive: called in each iteration of the event loop.
        """
        loop = asyncio.get_running_loop()
        iterate = getattr(loop, "_run_once", None)
        if iterate is None:
            return
        memory.latest = self.acquisitions  # what comes from now on is of this case
        (lab,) = asyncio.all_tasks() - {asyncio.current_task()}

        def look_and_iterate() -> None:
            alive()
            if not lab.done():
                self._look(case)
            elif self.kept:
                self.kept.clear()
                memory.latest = []  # what the event loop does when it is closed is no part of this
            iterate()

        vars(loop)["_run_once"] = look_and_iterate

    def _look(self, case: Run) -> None:
        self.ended = time.perf_counter()
        if self.struck is None and case.fired:
            self.struck = self.ended
        for acquisition in self.acquisitions:
            if acquisition not in self.released and not acquisition.is_held():
                self.released[acquisition] = self.ended

    def lines(self, strike: str) -> list[str]:
        """All of it in order. Tasks that came and went are left out: a library has many.

        Args:
            strike: what struck, and where.
        """
        told = [one for one in self.acquisitions if one not in self.released or not one.what.startswith("task ")]
        events = [(one.at, f"acquired    {one.what}, at {one.place.own or one.place.library}") for one in told]
        events += [(self.released[one], f"released    {one.what}") for one in told if one in self.released]
        if self.struck is not None and strike:
            events.append((self.struck, strike))
        events += [(self.ended, f"still held  {one.what}") for one in told if one not in self.released]
        events.sort(key=lambda event: event[0])
        return [f"{(at - self.began) * 1000:8.1f} ms  {text}" for at, text in events]
