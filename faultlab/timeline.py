"""The timeline of one run: acquisitions, the injection and releases, with times."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ._asyncio_internals import before_each_iteration
from .asgi import App
from .sweep import Run
from .tracking import Acquisition, AcquisitionTracker


@dataclass
class RunTimeline:
    """Observes a run from inside: it looks at all acquisitions in each iteration of the event loop.

    Attributes:
        started_at: by `time.perf_counter`, like all times here.
        injected_at: the time of the first injection, or None.
        ended_at: the last iteration that was observed.
        acquisitions: what the run acquired, in order.
        released: when each of them was released.
        app_refs: keeps the app alive until the run has settled, as a process of its own would.
    """

    started_at: float = field(default_factory=time.perf_counter)
    injected_at: float | None = None
    ended_at: float = 0.0
    acquisitions: list[Acquisition] = field(default_factory=list)
    released: dict[Acquisition, float] = field(default_factory=dict)
    app_refs: list[App] = field(default_factory=list)

    def begin(self, tracker: AcquisitionTracker, run: Run | None, heartbeat: Callable[[], object]) -> None:
        """Observe the running loop until the run has settled. Call it before the app has created any task.

        Args:
            tracker: records the acquisitions.
            run: the run of the sweep, or None without a fault.
            heartbeat: called in each iteration of the event loop.
        """
        (sweep_task,) = asyncio.all_tasks() - {asyncio.current_task()}
        tracker.acquisitions = self.acquisitions

        def observe() -> None:
            heartbeat()
            if not sweep_task.done():
                self._observe(run)
            elif self.app_refs:
                self.app_refs.clear()
                tracker.acquisitions = []  # the shutdown of the event loop is not part of the run

        before_each_iteration(asyncio.get_running_loop(), observe)

    def _observe(self, run: Run | None) -> None:
        self.ended_at = time.perf_counter()
        if self.injected_at is None and run is not None and run.fired:
            self.injected_at = self.ended_at
        for acquisition in self.acquisitions:
            if acquisition not in self.released and not acquisition.is_open():
                self.released[acquisition] = self.ended_at

    def lines(self, injection: str) -> list[str]:
        """Return the events in order, one line each. Tasks that have ended are left out: libraries have many.

        Args:
            injection: the description of the fault and its location.
        """
        shown = [
            acquisition
            for acquisition in self.acquisitions
            if acquisition not in self.released or not acquisition.description.startswith("task ")
        ]
        events = [
            (one.acquired_at, f"acquired    {one.description}, at {one.location.own or one.location.library}")
            for one in shown
        ]
        events += [(self.released[one], f"released    {one.description}") for one in shown if one in self.released]
        if self.injected_at is not None and injection:
            events.append((self.injected_at, injection))
        events += [(self.ended_at, f"still open  {one.description}") for one in shown if one not in self.released]
        events.sort(key=lambda event: event[0])
        return [f"{(at - self.started_at) * 1000:8.1f} ms  {text}" for at, text in events]
