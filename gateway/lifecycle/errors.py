"""The errors of a startup and of a teardown."""

from collections.abc import Sequence
from typing import Self

from .journal import format_error


class StartError(Exception):
    """An entry could not be entered, or crashed before the startup was complete. `__cause__` is the reason.

    When the error leaves the stack, everything that had been entered has been released or aborted.

    Attributes:
        name: the entry that failed.
        entered: the names of the other entries that were active, in order.
        teardown: the errors of the rollback, or None.
    """

    def __init__(self, name: str, cause: BaseException, entered: Sequence[str]) -> None:
        super().__init__(name, cause, entered)
        self.name = name
        self.entered = tuple(entered)
        self.teardown: TeardownError | None = None
        self.__cause__ = cause

    def __str__(self) -> str:
        cause = format_error(self.__cause__) if self.__cause__ else "unknown"
        return f"{self.name} failed to start: {cause} (entered before it: {', '.join(self.entered) or 'nothing'})"


class StartTimeoutError(TimeoutError):
    """An entry was not entered within its timeout. `__cause__` is the last failure of the attempt, if it is known."""


class StopTimeoutError(TimeoutError):
    """An entry did not exit within its timeout and was aborted."""


class ForcedShutdownError(Exception):
    """An entry was aborted because the shutdown was forced."""


class EntryCrashedError(Exception):
    """An entry ended on its own: while it was active, or by cancelling itself. `__cause__` is the reason, if known."""

    def __init__(self, name: str, cause: BaseException | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.__cause__ = cause

    def __str__(self) -> str:
        return f"{self.name} exited unexpectedly" + (f": {format_error(self.__cause__)}" if self.__cause__ else "")


class TeardownError(ExceptionGroup[Exception]):
    """One or more entries failed to exit or were aborted. All other entries exited."""

    @classmethod
    def of(cls, errors: Sequence[Exception]) -> Self:
        return cls("the teardown was not clean", errors)

    def derive(self, excs: Sequence[Exception], /) -> Self:  # type: ignore[override]
        return type(self)(self.message, excs)
