"""How a start and a teardown fail."""

from collections.abc import Sequence
from typing import Self

from gateway.lifecycle.journal import describe


class StartError(Exception):
    """An entry could not be entered, or died before the start was complete; `__cause__` says why.

    By the time it leaves the stack, everything that had been entered has been released again.
    """

    def __init__(self, name: str, cause: BaseException, entered: Sequence[str]) -> None:
        super().__init__(name, cause, entered)
        self.name = name
        """The entry that failed."""
        self.entered = tuple(entered)
        """What had been entered before it, in order."""
        self.teardown: TeardownError | None = None
        """What went wrong while that was released."""
        self.__cause__ = cause

    def __str__(self) -> str:
        cause = describe(self.__cause__) if self.__cause__ else "unknown"
        return f"{self.name} failed to start: {cause} (entered before it: {', '.join(self.entered) or 'nothing'})"


class StartTimeoutError(TimeoutError):
    """A start took longer than its deadline; `__cause__` is what was in the way, if it is known."""


class StopTimeoutError(TimeoutError):
    """An entry did not exit within its deadline, and was aborted."""


class ForcedError(Exception):
    """An entry was aborted because the stop was forced."""


class DiedError(Exception):
    """An entry ended by itself, while it should have been held until it was released; `__cause__` says why."""

    def __init__(self, name: str, cause: BaseException | None = None) -> None:
        super().__init__(name)
        self.name = name
        self.__cause__ = cause

    def __str__(self) -> str:
        return f"{self.name} ended by itself" + (f": {describe(self.__cause__)}" if self.__cause__ else "")


class TeardownError(ExceptionGroup[Exception]):
    """Some entries failed to exit, or had to be aborted. The rest were released all the same."""

    @classmethod
    def of(cls, errors: Sequence[Exception]) -> Self:
        return cls("the teardown was not clean", errors)

    def derive(self, excs: Sequence[Exception], /) -> Self:  # type: ignore[override]
        return type(self)(self.message, excs)
