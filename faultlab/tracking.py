"""Tracks where resources are acquired: the line of code that created a socket, opened a file, started a thread or a task.

Audit events report sockets and files, a task factory reports tasks, and `Thread.start` is replaced for threads. An audit
hook costs a little and cannot be removed, so it is installed with the first tracker and does nothing without one.
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

from ._asyncio_internals import before_each_thread_start, caller_outside

_STANDARD_LIBRARY = tuple(
    {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(os.__file__).parent)}
)
_INSTALLED = ("/site-packages/", "/dist-packages/")
_THIS_PACKAGE = str(Path(__file__).parent) + os.sep
_FOLDER = str(Path.cwd()) + os.sep


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """The innermost line of the app's own code, and the innermost line of an installed library below it."""

    own: str | None
    library: str | None

    @property
    def is_known(self) -> bool:
        return bool(self.own or self.library)

    def __str__(self) -> str:
        if self.own and self.library:
            return f"{self.own} (through {self.library})"
        return self.own or self.library or "an unknown location"


@dataclass(eq=False, slots=True)
class Acquisition:
    """A resource that was acquired: its description, where and when, and a function that returns whether it is open."""

    description: str
    location: SourceLocation
    acquired_at: float
    is_open: Callable[[], bool]


@dataclass
class AcquisitionTracker:
    """Records acquisitions. It refers to the resources weakly, so that they can be collected.

    Attributes:
        acquisitions: those of the current run, in order.
        sockets: all sockets that still exist.
        threads: all threads that still exist.
        tasks: all tasks that still exist.
        files: where each path was opened last.
    """

    acquisitions: list[Acquisition] = field(default_factory=list)
    sockets: "WeakKeyDictionary[socket.socket, Acquisition]" = field(default_factory=WeakKeyDictionary)
    threads: "WeakKeyDictionary[threading.Thread, Acquisition]" = field(default_factory=WeakKeyDictionary)
    tasks: "WeakKeyDictionary[asyncio.Task[Any], Acquisition]" = field(default_factory=WeakKeyDictionary)
    files: dict[str, SourceLocation] = field(default_factory=dict)

    def locate_socket(self, descriptor: int) -> SourceLocation | None:
        """Return where the socket with this descriptor was created."""
        for sock, acquisition in list(self.sockets.items()):
            if sock.fileno() == descriptor:
                return acquisition.location
        return None

    def locate_file(self, path: str) -> SourceLocation | None:
        """Return where the file was opened last."""
        return {os.path.realpath(opened): location for opened, location in self.files.items()}.get(path)

    def locate_thread(self, thread: threading.Thread) -> SourceLocation | None:
        return self.threads[thread].location if thread in self.threads else None

    def locate_task(self, task: "asyncio.Task[Any]") -> SourceLocation | None:
        return self.tasks[task].location if task in self.tasks else None

    def on_audit_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Record new sockets, their peers and opened files."""
        if event == "socket.__new__" and isinstance(arguments[0], socket.socket):
            self.sockets[arguments[0]] = self._acquired("socket", _is_socket_open(arguments[0]))
        elif event == "socket.connect" and arguments[0] in self.sockets:
            self.sockets[arguments[0]].description = f"socket to {_peer(arguments[1])}"
        elif event == "open" and isinstance(arguments[0], str | os.PathLike):
            with suppress(OSError):  # the current folder may have been removed
                self.files[os.path.abspath(arguments[0])] = self.current_location()  # noqa: PTH100 - accepts any string

    def on_thread_start(self, thread: threading.Thread) -> None:
        self.threads[thread] = self._acquired(f"thread {thread.name}", _is_thread_alive(thread))

    def on_task_created(self, task: "asyncio.Task[Any]") -> None:
        self.tasks[task] = self._acquired(f"task {task.get_name()}", _is_task_pending(task))

    def _acquired(self, description: str, is_open: Callable[[], bool]) -> Acquisition:
        acquisition = Acquisition(description, self.current_location(), time.perf_counter(), is_open)
        if acquisition.location.is_known:  # unknown: it belongs to this package or to the event loop
            self.acquisitions.append(acquisition)
        return acquisition

    def current_location(self) -> SourceLocation:
        """Return the line that is running. For a task that a library created, `own` is where it was created."""
        location = locate_frame(caller_outside(__file__))
        if location.own:
            return location
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return location
        creation = self.tasks.get(task) if task else None
        return SourceLocation(creation.location.own if creation else None, location.library)


_current: AcquisitionTracker | None = None
_hook_installed = False


def current_tracker() -> AcquisitionTracker | None:
    """Return the tracker of the innermost `tracking_acquisitions` block, or None."""
    return _current


@contextmanager
def tracking_acquisitions() -> Iterator[AcquisitionTracker]:
    """Track inside the block where resources are acquired."""
    global _current, _hook_installed  # noqa: PLW0603 - audit hooks belong to the process, and so does this
    if not _hook_installed:
        sys.addaudithook(_audit_hook)
        _hook_installed = True
    outer, tracker = _current, AcquisitionTracker()
    _current = tracker
    try:
        with before_each_thread_start(tracker.on_thread_start):
            yield tracker
    finally:
        _current = outer


def track_tasks() -> None:
    """Track where the tasks of the running loop are created from now on. Its current task factory stays in use."""
    if _current is None:
        return
    loop = asyncio.get_running_loop()
    factory, tracker = loop.get_task_factory(), _current

    def make(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **kwargs: Any
    ) -> "asyncio.Future[Any]":
        task = factory(loop, coro, **kwargs) if factory else asyncio.Task(coro, loop=loop, **kwargs)
        if isinstance(task, asyncio.Task):
            tracker.on_task_created(task)
        return task

    loop.set_task_factory(make)


def locate(lines: Iterable[tuple[CodeType, int]]) -> SourceLocation:
    """Return the location that is most useful to the author of the app.

    Args:
        lines: code objects and line numbers of a call stack, the innermost first.
    """
    library = None
    for code, line in lines:
        file = code.co_filename
        if file.startswith(_THIS_PACKAGE):
            break  # the frames beyond are the caller of this package
        if any(installed in file for installed in _INSTALLED):
            library = library or _format(code, line)
        elif not file.startswith(("<", *_STANDARD_LIBRARY)):
            return SourceLocation(_format(code, line), library)
    return SourceLocation(None, library)


def locate_frame(frame: FrameType | None) -> SourceLocation:
    """Return the location of a frame and its callers; see `locate`."""
    return locate(_outwards(frame))


def _outwards(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno or 0
        frame = frame.f_back


def _format(code: CodeType, line: int) -> str:
    file = code.co_filename
    for installed in _INSTALLED:
        file = file.rpartition(installed)[2]
    return f"{file.removeprefix(_FOLDER)}:{line} {code.co_name}"


def _audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None:
        _current.on_audit_event(event, arguments)


def _peer(address: object) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _is_socket_open(sock: socket.socket) -> Callable[[], bool]:
    weak = ref(sock)
    return lambda: (found := weak()) is not None and found.fileno() >= 0


def _is_thread_alive(thread: threading.Thread) -> Callable[[], bool]:
    weak = ref(thread)
    return lambda: (found := weak()) is not None and found.is_alive()


def _is_task_pending(task: "asyncio.Task[Any]") -> Callable[[], bool]:
    weak = ref(task)
    return lambda: (found := weak()) is not None and not found.done()
