"""Mutants of `gateway/lifecycle`: small changes that break the core. A test in `tests/lifecycle` must fail for each.

mutmut generates some 600 mutants: it changes operators, values and arguments. The mutants listed here are a selection
of what it does not do: remove a statement or a condition, shorten a set, change a property.
Each names the file, the old text, the new text and the effect.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A change to one file of the core.

    Attributes:
        file: the file in `gateway/lifecycle`.
        old: text that occurs once in the file.
        new: the text that replaces it.
        effect: the mutant's behaviour. It is also the mutant's name.
    """

    file: str
    old: str
    new: str
    effect: str


CANCELLATION, ENTRY, HEALTH = "cancellation.py", "entry.py", "health.py"
JOURNAL, STACK, TIMELINE = "journal.py", "stack.py", "timeline.py"

STACK_ENTER = [
    Mutant(STACK, "if not isinstance(error, Exception):", "if False:", "a cancellation becomes a start error"),
    Mutant(STACK, "self._teardown.errors += entry.errors", "pass", "errors of the rollback are lost"),
    Mutant(STACK, "max(0, min(start_timeout, remaining))", "max(0, remaining)", "an entry has no start timeout"),
    Mutant(STACK, "max(0, min(start_timeout, remaining))", "max(0, start_timeout)", "the startup has no deadline"),
    Mutant(STACK, "min(stop_timeout, self._teardown.shutdown_timeout)", "stop_timeout", "a rollback has no deadline"),
    Mutant(STACK, " if entry.is_active]", "]", "a crashed entry is listed as entered"),
]

STACK_PHASES = [
    Mutant(STACK, "self.phase is Phase.STARTED and not", "not", "the stack is ready during startup and shutdown"),
    Mutant(STACK, " and not self.failure.done()", "", "the stack is ready although an entry has crashed"),
    Mutant(STACK, "        if self.failure.done():", "        if False:", "a startup with a crashed entry succeeds"),
    Mutant(STACK, "self._teardown.start_clock()", "pass", "the shutdown has no deadline"),
    Mutant(STACK, "reversed(self.entries)", "self.entries", "a forced shutdown aborts the first entry first"),
]

STACK_EXIT = [
    Mutant(STACK, "self.begin_shutdown()\n        raised", "raised", "exiting the stack does not begin the shutdown"),
    Mutant(STACK, "StartError | asyncio.CancelledError)", "StartError)", "a failing callback hides a cancellation"),
    Mutant(
        STACK, "errors, teardown.errors = teardown.errors, []", "errors = teardown.errors", "errors are raised twice"
    ),
    Mutant(STACK, "return suppressed", "return True", "the error of the body is suppressed"),
    Mutant(
        STACK,
        "await finish_despite_cancellation(entry.exit(timeout))",
        "await entry.exit(timeout)",
        "a cancellation interrupts an exit",
    ),
    Mutant(
        STACK,
        "max(MIN_STOP_TIMEOUT, min(entry.stop_timeout, remaining))",
        "min(entry.stop_timeout, remaining)",
        "entries have no time to exit after the shutdown deadline",
    ),
]

ENTRY_ENTER = [
    Mutant(
        ENTRY,
        "value:\n                raise_if_cancelled()",
        "value:\n",
        "a start goes on after a swallowed cancellation",
    ),
    Mutant(ENTRY, "await self._release_requested.wait()", "await asyncio.sleep(0)", "an entry exits immediately"),
    Mutant(ENTRY, "owner.exception()", "pass", "asyncio logs a start error as never retrieved"),
    Mutant(ENTRY, " and not self._owner.done()", "", "a crashed entry counts as active"),
    Mutant(
        ENTRY, "self._abort_requested, self._failure}", "self._abort_requested}", "a crash does not end the startup"
    ),
    Mutant(ENTRY, "return self.errors.pop()", "return self.errors[-1]", "a forced start is reported twice"),
    Mutant(ENTRY, "if self.is_active:", "if False:", "an entry that was just entered is not exited"),
]

ENTRY_EXIT = [
    Mutant(ENTRY, "self._owner.cancel()  # one", "pass  # one", "an aborted exit is cancelled once only"),
    Mutant(ENTRY, "if self.crashed:\n            return", "", "a crashed entry is exited again"),
    Mutant(ENTRY, "{self._owner, self._abort_requested}", "{self._owner}", "a forced exit waits for its timeout"),
    Mutant(ENTRY, "self._owner.cancel()\n        self._call", "self._call", "an abort does not cancel the owner task"),
    Mutant(ENTRY, "self._call_abort()  # the", "pass  # the", "connections opened during the abort stay open"),
    Mutant(ENTRY, "(Exception, asyncio.CancelledError)", "Exception", "a cancelled abort ends the teardown"),
    Mutant(CANCELLATION, "task.result()\n", "pass\n", "the error of a finished coroutine is lost"),
]

RECORDS = [
    Mutant(JOURNAL, "self._clock() - self._start", "self._clock()", "the journal does not start at zero"),
    Mutant(JOURNAL, "iter(tuple(self._events))", "iter(self._events)", "an iterator returns events added after it"),
    Mutant(JOURNAL, "traceback.print_exc()", "raise", "a failing listener ends the teardown"),
]

HEALTH_CHECKS = [
    Mutant(HEALTH, "task.cancel()\n", "pass\n", "checks go on after their caller was cancelled"),
    Mutant(HEALTH, "_stuck_checks.update(stuck)", "pass", "a stuck check is garbage collected while it runs"),
    Mutant(HEALTH, "if current_task_cancelled():", "if True:", "a check that cancels itself cancels the others"),
]

TIMELINE_BARS = [
    Mutant(TIMELINE, "EventType.ABORTED, ", "", "the bar of an aborted entry goes on to the end"),
    Mutant(TIMELINE, "max(int(entered * scale), first + 1)", "int(entered * scale)", "a short step is invisible"),
]

MUTANT_GROUPS = [
    STACK_ENTER,
    STACK_PHASES,
    STACK_EXIT,
    ENTRY_ENTER,
    ENTRY_EXIT,
    RECORDS,
    HEALTH_CHECKS,
    TIMELINE_BARS,
]

# Mutants by mutmut that no test can kill, because they change nothing that can be observed.
EQUIVALENT_MUTANTS = [
    Mutant(
        STACK,
        "if isinstance(error, StartTimeoutError) and remaining < start_timeout:",
        "if isinstance(error, StartTimeoutError) and remaining <= start_timeout:",
        "none: if both timeouts end at the same moment, the message may name either",
    ),
    Mutant(
        STACK,
        "self._shutdown_deadline = math.inf",
        "self._shutdown_deadline = None",
        "none: `start_clock` sets the deadline before the first exit",
    ),
    Mutant(
        STACK,
        "suppressed = bool(await super().__aexit__(exc_type, exc, traceback))",
        "suppressed = bool(await super().__aexit__(None, exc, traceback))",
        "none: since Python 3.12 `contextlib` takes the type from the error",
    ),
    Mutant(
        STACK,
        "suppressed = bool(await super().__aexit__(exc_type, exc, traceback))",
        "suppressed = bool(await super().__aexit__(exc_type, exc, None))",
        "none: since Python 3.12 `contextlib` takes the traceback from the error",
    ),
    Mutant(
        STACK,
        "suppressed = bool(await super().__aexit__(exc_type, exc, traceback))",
        "suppressed = bool(await super().__aexit__(exc_type, exc, ))",
        "none: since Python 3.12 `contextlib` takes the traceback from the error",
    ),
    Mutant(
        TIMELINE,
        "scale = width / end if end > 0 else 0",
        "scale = width / end if end > 0 else 1",
        "none: if the end is zero, all times are zero",
    ),
]
