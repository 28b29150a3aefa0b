"""Where a thing was acquired: the line of code that made a socket, opened a file, started a thread or a task.

Python tells its audit hooks of sockets and files (of threads only from 3.12 on); a task factory sees the tasks. A hook costs a
little, and cannot be taken away again: so nothing is installed before somebody asks for it, and it does nothing while nobody does.
"""

import asyncio
import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary, ref

_STANDARD = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(os.__file__).parent)})
_INSTALLED = ("/site-packages/", "/dist-packages/")
_LAB = str(Path(__file__).parent) + os.sep
_FOLDER = str(Path.cwd()) + os.sep


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """The innermost line of your own code, and the innermost line of an installed library under it."""

    own: str | None
    library: str | None

    @property
    def is_known(self) -> bool:
        return bool(self.own or self.library)

    def __str__(self) -> str:
        if self.own and self.library:
            return f"{self.own} (through {self.library})"
        return self.own or self.library or "an unknown place"


@dataclass(eq=False, slots=True)
class Acquisition:
    """Something acquired, and how to see whether it is still held."""

    what: str
    place: SourceLocation
    at: float
    is_held: Callable[[], bool]


@dataclass
class AcquisitionTracker:
    """What was acquired since it began; no more of a thing than when and where, so that it can be collected."""

    latest: list[Acquisition] = field(default_factory=list)
    sockets: "WeakKeyDictionary[socket.socket, Acquisition]" = field(default_factory=WeakKeyDictionary)
    threads: "WeakKeyDictionary[threading.Thread, Acquisition]" = field(default_factory=WeakKeyDictionary)
    tasks: "WeakKeyDictionary[asyncio.Task[Any], Acquisition]" = field(default_factory=WeakKeyDictionary)
    files: dict[str, SourceLocation] = field(default_factory=dict)

    def of_socket(self, descriptor: int) -> SourceLocation | None:
        """Where the socket with this descriptor was made."""
        for sock, acquisition in list(self.sockets.items()):
            if sock.fileno() == descriptor:
                return acquisition.place
        return None

    def of_file(self, path: str) -> SourceLocation | None:
        """Where the file was opened, the last time."""
        return {os.path.realpath(opened): place for opened, place in self.files.items()}.get(path)

    def of_thread(self, thread: threading.Thread) -> SourceLocation | None:
        return self.threads[thread].place if thread in self.threads else None

    def of_task(self, task: "asyncio.Task[Any]") -> SourceLocation | None:
        return self.tasks[task].place if task in self.tasks else None

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What the audit hook hears."""
        if event == "socket.__new__" and isinstance(arguments[0], socket.socket):
            self.sockets[arguments[0]] = self._acquired("socket", _is_open(arguments[0]))
        elif event == "socket.connect" and arguments[0] in self.sockets:
            self.sockets[arguments[0]].what = f"socket to {_peer(arguments[1])}"
        elif event == "open" and isinstance(arguments[0], str | os.PathLike):
            with suppress(OSError):  # the current folder may be gone
                self.files[os.path.abspath(arguments[0])] = self.here()  # noqa: PTH100 - no more than the string

    def thread(self, thread: threading.Thread) -> None:
        """Remember who starts a thread."""
        self.threads[thread] = self._acquired(f"thread {thread.name}", _is_alive(thread))

    def task(self, task: "asyncio.Task[Any]") -> None:
        """Remember who made a task."""
        self.tasks[task] = self._acquired(f"task {task.get_name()}", _is_running(task))

    def _acquired(self, what: str, is_held: Callable[[], bool]) -> Acquisition:
        acquisition = Acquisition(what, self.here(), time.perf_counter(), is_held)
        if acquisition.place.is_known:  # the lab and the event loop have sockets and tasks, too
            self.latest.append(acquisition)
        return acquisition

    def here(self) -> SourceLocation:
        """The line that is running. What a library does in a task of its own is told by where that task was made."""
        place = place_of_frame(_caller())
        if place.own:
            return place
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return place
        maker = self.tasks.get(task) if task else None
        return SourceLocation(maker.place.own if maker else None, place.library)


_current: AcquisitionTracker | None = None
_installed = False


def current_tracker() -> AcquisitionTracker | None:
    """What is tracking_acquisitions, if anybody has asked for it."""
    return _current


@contextmanager
def tracking_acquisitions() -> Iterator[AcquisitionTracker]:
    """Remember within the block where things are acquired."""
    global _current, _installed  # noqa: PLW0603 - audit hooks are the process's, and so is this
    if not _installed:
        sys.addaudithook(_hear)
        _installed = True
    remembering, before, start = AcquisitionTracker(), _current, threading.Thread.start

    def remember_and_start(thread: threading.Thread) -> None:
        remembering.thread(thread)
        start(thread)

    _current, threading.Thread.start = remembering, remember_and_start  # type: ignore[assignment, method-assign]
    try:
        yield remembering
    finally:
        _current, threading.Thread.start = before, start  # type: ignore[method-assign]


def remember_tasks() -> None:
    """From now on, remember where tasks of the running loop are made. A task factory that is there stays in force."""
    if _current is None:
        return
    loop = asyncio.get_running_loop()
    factory, remembering = loop.get_task_factory(), _current

    def make(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **kwargs: Any
    ) -> "asyncio.Future[Any]":
        task = factory(loop, coro, **kwargs) if factory else asyncio.Task(coro, loop=loop, **kwargs)
        if isinstance(task, asyncio.Task):
            remembering.task(task)
        return task

    loop.set_task_factory(make)


def place_of(lines: Iterable[tuple[CodeType, int]]) -> SourceLocation:
    """Where that is, for somebody who reads his own code.

    Args:
        lines: the innermost first.
    """
    library = None
    for code, line in lines:
        file = code.co_filename
        if file.startswith(_LAB):
            break  # what lies beyond is whoever uses the lab
        if any(installed in file for installed in _INSTALLED):
            library = library or _written(code, line)
        elif not file.startswith(("<", *_STANDARD)):
            return SourceLocation(_written(code, line), library)
    return SourceLocation(None, library)


def place_of_frame(frame: FrameType | None) -> SourceLocation:
    """Where a frame and its callers are."""
    return place_of(_outwards(frame))


def _caller() -> FrameType | None:
    """The innermost frame outside of this file."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - there is no other way to a frame that costs nothing
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _outwards(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno or 0
        frame = frame.f_back


def _written(code: CodeType, line: int) -> str:
    file = code.co_filename
    for installed in _INSTALLED:
        file = file.rpartition(installed)[2]
    return f"{file.removeprefix(_FOLDER)}:{line} {code.co_name}"


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None:
        _current.heard(event, arguments)


def _peer(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _is_open(sock: socket.socket) -> Callable[[], bool]:
    known = ref(sock)
    return lambda: (there := known()) is not None and there.fileno() >= 0


def _is_alive(thread: threading.Thread) -> Callable[[], bool]:
    known = ref(thread)
    return lambda: (there := known()) is not None and there.is_alive()


def _is_running(task: "asyncio.Task[Any]") -> Callable[[], bool]:
    known = ref(task)
    return lambda: (there := known()) is not None and not there.done()
