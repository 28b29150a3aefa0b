"""Mutants of the core: each breaks one line of `gateway/lifecycle`, and the tests of the core have to notice.

A list to read: the file, what it says, what the mutant says instead, and what is broken by that.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One line, broken."""

    file: str
    old: str
    """Occurs once in the file, so that the list stays true to the code."""
    new: str
    breaks: str
    """What the mutant does, in a few words: its name."""


ENTRY, ERRORS, HEALTH = "entry.py", "errors.py", "health.py"
JOURNAL, STACK, TIMELINE = "journal.py", "stack.py", "timeline.py"

STACK_ENTERS = [
    Mutant(STACK, "self.push_async_exit(partial(self._teardown.release, entry))", "pass", "nothing entered is pushed"),
    Mutant(STACK, "self.entries.append(entry)", "pass", "an entry is not among the entries"),
    Mutant(STACK, "self.entries.remove(entry)", "pass", "what failed to start stays among the entries"),
    Mutant(STACK, "(Phase.STOPPING, Phase.STOPPED)", "(Phase.STOPPED,)", "a stack that is stopping enters more"),
    Mutant(STACK, "if name in (entry.name for entry in self.entries):", "if False:", "two entries may have one name"),
    Mutant(STACK, " if entry.held]", "]", "what died counts as entered before"),
    Mutant(STACK, "self.journal.now + startup", "startup", "the startup's deadline counts from the journal's begin"),
    Mutant(STACK, "self._start_by - self.journal.now", "self._start_by", "each entry may take the whole startup"),
    Mutant(STACK, "min(stop, self._teardown.shutdown)", "stop", "giving back is not bounded by the whole stop"),
    Mutant(STACK, "min(stop, self._teardown.shutdown)", "self._teardown.shutdown", "an entry has no stop deadline"),
    Mutant(STACK, "max(0, min(start, left))", "max(0, start)", "the startup as a whole has no deadline"),
    Mutant(STACK, "max(0, min(start, left))", "max(0, left)", "an entry has no start deadline"),
    Mutant(STACK, "max(0, min(start, left))", "min(start, left)", "a deadline is negative"),
    Mutant(STACK, "self._teardown.errors += entry.errors", "pass", "what went wrong while giving back is forgotten"),
    Mutant(STACK, "if not isinstance(error, Exception):", "if False:", "a cancellation becomes a start error"),
    Mutant(
        STACK, 'error.add_note(f"while entering', 'str(f"while entering', "a cancellation does not say where it hit"
    ),
    Mutant(STACK, "and left < start", "", "the whole startup is blamed for the deadline of an entry"),
    Mutant(
        STACK,
        "error.name if isinstance(error, EntryCrashedError) else name",
        "name",
        "the wrong entry is blamed for a death",
    ),
    Mutant(STACK, "else name, error, before)", "else name, error, ())", "a start error does not say what was entered"),
]

STACK_PHASES = [
    Mutant(STACK, "self.phase is Phase.STARTED and not", "not", "it is ready before it started and while it stops"),
    Mutant(STACK, " and not self.death.done()", "", "it is ready on half a stack"),
    Mutant(STACK, "        if self.death.done():", "        if False:", "a startup in which an entry died counts"),
    Mutant(STACK, "self._start_by = math.inf", "pass", "the startup's deadline counts after it"),
    Mutant(STACK, "if self.phase is Phase.STARTING:", "if True:", "a stop asked for during the startup is forgotten"),
    Mutant(STACK, "self.phase = Phase.STARTED", "pass", "it never starts"),
    Mutant(STACK, "self.journal.record(EventType.STARTED)", "pass", "the start is not recorded"),
    Mutant(STACK, "if self.phase in (Phase.STARTING, Phase.STARTED):", "if True:", "a stop begins again and again"),
    Mutant(STACK, "self.phase = Phase.STOPPING", "pass", "it is ready while it stops"),
    Mutant(STACK, "self._teardown.begin()", "pass", "the stop as a whole has no deadline"),
    Mutant(STACK, "self.journal.record(EventType.STOPPING)", "pass", "the begin of the stop is not recorded"),
    Mutant(STACK, "self.begin_shutdown()\n        for", "for", "a stop that is forced has not begun"),
    Mutant(STACK, "reversed(self.entries)", "self.entries", "the first entered is aborted first"),
    Mutant(STACK, 'entry.abort(ForcedShutdownError("the stop was forced"))', "pass", "a forced stop aborts nothing"),
]

STACK_LEAVES = [
    Mutant(STACK, "self.begin_shutdown()\n        leaving", "leaving", "leaving does not begin the stop"),
    Mutant(
        STACK, "__aexit__(exc_type, exc, traceback)", "__aexit__(None, None, None)", "callbacks do not see the error"
    ),
    Mutant(STACK, "suppressed = bool(await", "bool(await", "what a callback suppresses is raised"),
    Mutant(STACK, "StartError | asyncio.CancelledError)", "StartError)", "a close hides a cancellation"),
    Mutant(STACK, "StartError | asyncio.CancelledError)", "asyncio.CancelledError)", "a close hides the start error"),
    Mutant(STACK, " and isinstance(error, Exception):", ":", "the start error hides a cancellation of a callback"),
    Mutant(STACK, "teardown.errors.append(error)", "pass", "the error of an inherited callback is forgotten"),
    Mutant(STACK, "leaving = error", "pass", "the error of an inherited callback does not leave"),
    Mutant(STACK, "self.phase = Phase.STOPPED", "pass", "it never stops"),
    Mutant(STACK, "self.journal.record(EventType.STOPPED)", "pass", "the end of the stop is not recorded"),
    Mutant(STACK, "errors, teardown.errors = teardown.errors, []", "errors = teardown.errors", "errors are told twice"),
    Mutant(
        STACK,
        "cancelled, teardown.cancelled = teardown.cancelled, None",
        "cancelled = teardown.cancelled",
        "a cancellation is delivered twice",
    ),
    Mutant(STACK, "TeardownError.of(errors) if errors else None", "None", "no teardown error ever leaves"),
    Mutant(STACK, "leaving.teardown = unclean", "pass", "the start error has no teardown errors"),
    Mutant(
        STACK, "if leaving is None or suppressed:", "if leaving is None:", "a suppressed error hides the teardown's"
    ),
    Mutant(STACK, 'leaving.add_note("the', 'str("the', "the body's error does not mention the teardown"),
    Mutant(STACK, "if cancelled is not None and not", "if None and not", "a cancellation of who leaves is swallowed"),
    Mutant(
        STACK, " and not isinstance(leaving, asyncio.CancelledError):", ":", "the second cancellation hides the first"
    ),
    Mutant(STACK, "raise cancelled from leaving", "raise cancelled", "a cancellation hides the teardown errors"),
    Mutant(STACK, "if leaving is not None and leaving is not exc:", "if None:", "nothing leaves but the body's error"),
    Mutant(STACK, "return suppressed", "return True", "the error of the body is swallowed"),
    Mutant(STACK, "vars(popped).update(", "dict(", "pop_all hands over no entries"),
    Mutant(STACK, "vars(self).update(", "dict(", "pop_all keeps what it handed over"),
]

STACK_RELEASES = [
    Mutant(STACK, "self._journal.now + self.shutdown", "self.shutdown", "the stop's deadline counts from the start"),
    Mutant(STACK, "self._stop_by - self._journal.now", "self._stop_by", "each exit may take the whole stop"),
    Mutant(STACK, "max(MOMENT, min(entry.stop_timeout, left))", "entry.stop_timeout", "the stop has no deadline"),
    Mutant(STACK, "max(MOMENT, min(entry.stop_timeout, left))", "left", "an exit has no deadline"),
    Mutant(
        STACK, "max(MOMENT, min(entry.stop_timeout, left))", "min(entry.stop_timeout, left)", "the last have no turn"
    ),
    Mutant(STACK, "MOMENT = 0.05", "MOMENT = 2", "the turn of the last is no moment"),
    Mutant(
        STACK,
        "await finish_despite_cancellation(entry.exit(",
        "await (entry.exit(",
        "a cancellation cuts an exit short",
    ),
    Mutant(STACK, "self.cancelled or cancelled", "cancelled", "the next exit forgets the cancellation"),
    Mutant(STACK, "self.errors += entry.errors", "pass", "what went wrong in an exit is forgotten"),
]

ENTRY_ENTERS = [
    Mutant(ENTRY, "journal.record(EventType.ENTERING, name)", "pass", "the begin of an entry is not recorded"),
    Mutant(ENTRY, "self._owner.add_done_callback(self._on_owner_done)", "pass", "nobody notices a death"),
    Mutant(
        ENTRY, "value:\n                _raise_if_cancelled()", "value:\n", "a swallowed cancellation does not count"
    ),
    Mutant(ENTRY, "self._journal.record(EventType.ENTERED, self.name)", "pass", "what was entered is not recorded"),
    Mutant(ENTRY, "await self._released.wait()", "await asyncio.sleep(0)", "nothing is held"),
    Mutant(ENTRY, "self._ended = error", "pass", "how an owner ended is forgotten"),
    Mutant(ENTRY, "owner.exception()", "pass", "the loop calls an error lost"),
    Mutant(ENTRY, " and not self._released.is_set():", ":", "each exit is a death"),
    Mutant(
        ENTRY, "if self._entered.done() and not self._released", "if not self._released", "each failed start is a death"
    ),
    Mutant(ENTRY, "self.died = True", "pass", "what died is exited once more"),
    Mutant(ENTRY, "self._journal.record(EventType.CRASHED, self.name, self._ended)", "pass", "a death is not recorded"),
    Mutant(ENTRY, "if not self._death.done():", "if True:", "a second death is one too many"),
    Mutant(
        ENTRY, "self._death.set_result(EntryCrashedError(self.name, self._ended))", "pass", "a death is not announced"
    ),
    Mutant(ENTRY, "self._entered.done() and not self._owner.done()", "self._entered.done()", "what died is still held"),
    Mutant(ENTRY, "self._aborted, self._death}", "self._aborted}", "a death waits for the deadline of who enters"),
    Mutant(ENTRY, "self._entered, self._aborted, ", "self._entered, ", "a forced start waits for its deadline"),
    Mutant(
        ENTRY,
        "timeout=within, return_when=asyncio.FIRST_COMPLETED)\n        except",
        "return_when=asyncio.FIRST_COMPLETED)\n        except",
        "the start deadline does not count",
    ),
    Mutant(
        ENTRY, "self._journal.record(EventType.ENTER_CANCELLED, self.name)", "pass", "a cancelled start is not recorded"
    ),
    Mutant(
        ENTRY,
        "await finish_despite_cancellation(self._withdraw())\n            raise",
        "raise",
        "a cancelled start gives nothing back",
    ),
    Mutant(
        ENTRY,
        "if self._death.done():\n            error",
        "if self._death.done() and not self._entered.done():\n            error",
        "who entered in the moment of a death goes on",
    ),
    Mutant(
        ENTRY,
        "elif self._aborted.done():\n            error",
        "elif self._aborted.done() and not self._entered.done():\n            error",
        "who entered in the moment of a forced stop goes on",
    ),
    Mutant(ENTRY, "error = self.errors.pop()", "error = self.errors[-1]", "a forced start is told twice"),
    Mutant(
        ENTRY,
        "error = self._ended or EntryCrashedError(self.name)",
        "error = EntryCrashedError(self.name)",
        "the start error is lost",
    ),
    Mutant(ENTRY, "if isinstance(error, asyncio.CancelledError):", "if False:", "a resource cancels the caller"),
    Mutant(
        ENTRY,
        "self._journal.record(EventType.ENTER_FAILED, self.name, error)",
        "pass",
        "a failed start is not recorded",
    ),
    Mutant(
        ENTRY,
        "cancelled_meanwhile = await finish_despite_cancellation(self._withdraw())",
        "cancelled_meanwhile = None",
        "a failed start gives nothing back",
    ),
    Mutant(
        ENTRY,
        "cancelled_meanwhile = await finish_despite_cancellation(self._withdraw())",
        "cancelled_meanwhile = await self._withdraw()",
        "a cancellation cuts the giving back short",
    ),
    Mutant(
        ENTRY, "self._ended.__cause__ if by_us else self._ended", "self._ended", "the deadline's error says cancelled"
    ),
    Mutant(
        ENTRY,
        "self._ended.__cause__ if by_us else self._ended",
        "self._ended.__cause__",
        "the deadline's error hides a failed clean-up",
    ),
    Mutant(ENTRY, "if cancelled_meanwhile is not None:", "if None:", "a cancellation while giving back is swallowed"),
]

ENTRY_EXITS = [
    Mutant(ENTRY, "if self.held:", "if False:", "what was entered in the tick of a cancellation is not exited"),
    Mutant(
        ENTRY,
        "self._owner.cancel()\n            await self._ends",
        "await self._ends",
        "a start that is given up goes on",
    ),
    Mutant(ENTRY, "await self._ends(self.stop_timeout)", "pass", "nobody waits for a start that is given up"),
    Mutant(ENTRY, "if self.died:\n            return", "", "what died is released once more"),
    Mutant(
        ENTRY,
        "if not self._aborted.done():\n            self._released",
        "if True:\n            self._released",
        "what was aborted exits",
    ),
    Mutant(ENTRY, "self._released.set()\n            self._journal", "self._journal", "nothing is released"),
    Mutant(ENTRY, "self._journal.record(EventType.EXITING, self.name)", "pass", "the begin of an exit is not recorded"),
    Mutant(ENTRY, "await self._ends(within)", "pass", "nobody waits for an exit"),
    Mutant(ENTRY, "        if self._aborted.done():\n            return\n", "", "what was aborted has exited, too"),
    Mutant(ENTRY, "self._journal.record(EventType.EXITED, self.name)", "pass", "an exit is not recorded"),
    Mutant(ENTRY, "self._fail(self._ended)", "pass", "a failed exit is forgotten"),
    Mutant(ENTRY, "{self._owner, self._aborted}", "{self._owner}", "a forced exit waits for its deadline"),
    Mutant(
        ENTRY,
        "timeout=within, return_when=asyncio.FIRST_COMPLETED)\n        if",
        "return_when=asyncio.FIRST_COMPLETED)\n        if",
        "the stop deadline does not count",
    ),
    Mutant(
        ENTRY,
        "        if self._owner.done():\n            return\n        self.abort",
        "        self.abort",
        "a clean exit drops transports",
    ),
    Mutant(ENTRY, "self.abort(StopTimeoutError(", "str(StopTimeoutError(", "a hanging exit is not aborted"),
    Mutant(ENTRY, "range(PERSISTENCE)", "range(1)", "one cancellation has to do"),
    Mutant(ENTRY, "timeout=GRACE / PERSISTENCE", "timeout=GRACE", "the grace is five times as long"),
    Mutant(
        ENTRY, "timeout=GRACE / PERSISTENCE", "timeout=None", "a clean-up that ignores its cancellation holds the rest"
    ),
    Mutant(ENTRY, "self._owner.cancel()  # again", "pass  # again", "a clean-up is cancelled once only"),
    Mutant(ENTRY, "self._drop()  # again", "pass  # again", "what it got hold of after the abort is kept"),
    Mutant(
        ENTRY,
        "if not self._owner.done():\n            self._journal",
        "if True:\n            self._journal",
        "each abort abandons",
    ),
    Mutant(ENTRY, "self._journal.record(EventType.ABANDONED, self.name)", "pass", "what is abandoned is not recorded"),
    Mutant(ENTRY, "self._owner.done() or self._aborted.done()", "self._aborted.done()", "what has exited is aborted"),
    Mutant(
        ENTRY, "self._owner.done() or self._aborted.done()", "self._owner.done()", "what was aborted is aborted again"
    ),
    Mutant(ENTRY, "self._released.set()\n        self._aborted", "self._aborted", "an abort looks like a death"),
    Mutant(ENTRY, "self._aborted.set_result(None)", "pass", "an abort is not announced"),
    Mutant(ENTRY, "self.errors.append(reason)", "pass", "why it was aborted is forgotten"),
    Mutant(ENTRY, "self._journal.record(EventType.ABORTED, self.name, reason)", "pass", "an abort is not recorded"),
    Mutant(ENTRY, "self._owner.cancel()\n        self._drop()", "self._drop()", "an abort does not cancel"),
    Mutant(ENTRY, "self._owner.cancel()\n        self._drop()", "self._owner.cancel()", "an abort drops no transports"),
    Mutant(
        ENTRY, "(Exception, asyncio.CancelledError)", "Exception", "an abort that cancels itself stops the teardown"
    ),
    Mutant(ENTRY, "self._abort = None", "pass", "an abort that failed is tried again"),
    Mutant(ENTRY, "self._fail(error)", "pass", "an abort that failed is forgotten"),
    Mutant(
        ENTRY, "self._journal.record(EventType.EXIT_FAILED, self.name, error)", "pass", "a failed exit is not recorded"
    ),
    Mutant(ENTRY, "self.errors.append(error if", "str(error if", "a failed exit is no error"),
    Mutant(
        ENTRY,
        "error if isinstance(error, Exception) else EntryCrashedError(self.name, error)",
        "error",
        "a cancellation is among the teardown errors",
    ),
    Mutant(ENTRY, "while not task.done():", "if not task.done():", "the second cancellation cuts an exit short"),
    Mutant(ENTRY, "cancelled or error", "error", "the last cancellation is delivered, not the first"),
    Mutant(ENTRY, "task.result()\n", "pass\n", "what was outlasted fails silently"),
]

RECORDS = [
    Mutant(JOURNAL, "self._events.append(event)", "pass", "nothing is recorded"),
    Mutant(JOURNAL, "self._begun[name] = at", "pass", "no step has a duration"),
    Mutant(JOURNAL, "{EventType.ENTERING, EventType.EXITING}", "{EventType.ENTERING}", "an exit lasts since the start"),
    Mutant(JOURNAL, "at - self._begun[name]", "at", "each step lasts since the start"),
    Mutant(JOURNAL, "self._clock() - self._began", "self._clock()", "the journal does not begin at zero"),
    Mutant(JOURNAL, "iter(tuple(self._events))", "iter(self._events)", "who reads the journal sees it grow"),
    Mutant(JOURNAL, "return len(self._events)", "return 0", "the journal has no length"),
    Mutant(JOURNAL, "self.listener(event)", "pass", "the listener hears nothing"),
    Mutant(JOURNAL, "traceback.print_exc()", "raise", "a listener that fails stops the teardown"),
    Mutant(JOURNAL, "traceback.print_exc()", "pass", "nobody learns that the listener failed"),
    Mutant(JOURNAL, '" ".join(str(error).split())', "str(error)", "an error takes several lines"),
    Mutant(ERRORS, "self.entered = tuple(entered)", "self.entered = ()", "a start error forgets what was entered"),
    Mutant(
        ERRORS, 'was released."""\n        self.__cause__ = cause', 'was released."""', "a start error has no cause"
    ),
    Mutant(ERRORS, "self.name = name\n        self.__cause__ = cause", "self.name = name", "a death has no cause"),
    Mutant(
        ERRORS,
        'cls("the teardown was not clean", errors)',
        'cls("the teardown was not clean", errors[:1])',
        "one teardown error is told",
    ),
    Mutant(
        ERRORS,
        "type(self)(self.message, excs)",
        "ExceptionGroup(self.message, excs)  # type: ignore",
        "a part of a teardown error is none",
    ),
    Mutant(HEALTH, "timeout=within + OVERTIME", "timeout=None", "a check that ignores its cancellation is waited for"),
    Mutant(HEALTH, "asyncio.timeout(within)", "asyncio.timeout(None)", "a check that hangs is not cancelled"),
    Mutant(HEALTH, "task.cancel()\n", "pass\n", "checks outlive who asked for them"),
    Mutant(HEALTH, "_late.update(late)", "pass", "a late check may be collected while it runs"),
    Mutant(HEALTH, "task.add_done_callback(_late.discard)", "pass", "late checks are kept for ever"),
    Mutant(HEALTH, "if entry.died:", "if False:", "what died is healthy"),
    Mutant(HEALTH, "if _being_cancelled():", "if True:", "a check that cancels itself cancels the rest"),
    Mutant(HEALTH, "error is None, monotonic()", "True, monotonic()", "everything is healthy"),
    Mutant(HEALTH, "None, monotonic() - began", "None, 0", "a check takes no time"),
    Mutant(HEALTH, "remark = format_error(error)", "pass", "a finding does not say what is wrong"),
]

DRAWS = [
    Mutant(
        TIMELINE,
        "{EventType.ENTER_FAILED, EventType.ENTER_CANCELLED}",
        "{EventType.ENTER_FAILED}",
        "a cancelled start goes on",
    ),
    Mutant(
        TIMELINE,
        "{EventType.ENTER_FAILED, EventType.ENTER_CANCELLED}",
        "{EventType.ENTER_CANCELLED}",
        "a failed start goes on",
    ),
    Mutant(TIMELINE, "EventType.EXIT_FAILED, ", "", "a failed exit goes on"),
    Mutant(TIMELINE, "EventType.ABORTED, ", "", "what was aborted is held to the end"),
    Mutant(TIMELINE, ", EventType.CRASHED}", "}", "what died is held to the end"),
    Mutant(
        TIMELINE,
        "self.entered = event.at\n        elif event.type in",
        "pass\n        elif event.type in",
        "all of a life is its start",
    ),
    Mutant(TIMELINE, "self.exiting = event.at", "pass", "no exit takes time"),
    Mutant(TIMELINE, "self.exited = event.at\n        self", "pass\n        self", "everything is held to the end"),
    Mutant(
        TIMELINE,
        "min(int(self.entering * scale), width - 1)",
        "int(self.entering * scale)",
        "what began last is off the drawing",
    ),
    Mutant(TIMELINE, "max(int(entered * scale), first + 1)", "int(entered * scale)", "what was quick has no mark"),
    Mutant(TIMELINE, "max(int(exiting * scale), held)", "int(exiting * scale)", "what was hardly held is too short"),
    Mutant(
        TIMELINE, "        if event.name is None:\n            continue\n", "", "a stack that started cannot be drawn"
    ),
    Mutant(TIMELINE, "lives.append(current[event.name])", "pass", "nothing is drawn"),
]

MUTANTS = [
    *STACK_ENTERS,
    *STACK_PHASES,
    *STACK_LEAVES,
    *STACK_RELEASES,
    *ENTRY_ENTERS,
    *ENTRY_EXITS,
    *RECORDS,
    *DRAWS,
]
