"""The shape that every resource has."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Generic, TypeVar

from gateway.settings import ResourceSettings

T = TypeVar("T")
Entered_co = TypeVar("Entered_co", covariant=True)


class Resource(ABC, Generic[Entered_co]):
    """Something that is opened once a process and shared.

    Making one opens nothing. `open()` is entered and left by the lifecycle core, once, each within a deadline.
    """

    name: ClassVar[str]
    """What it is called everywhere: in settings, journal and errors."""

    settings: ResourceSettings

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Entered_co]:
        """Acquire, verify that it works, yield what others use, release.

        Raises:
            PermanentError: asking again would not help; the message says what to do.
        """

    def abort(self) -> None:
        """Drop what is still held, at once and without waiting: the release failed or took too long."""

    @abstractmethod
    async def check(self) -> str | None:
        """Ask whether it works now. Return a remark, or None; raise if it does not."""
