"""Resource snapshots: what this process has open at one moment, and what servers report to be open."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ._asyncio_internals import default_executor_threads, thread_frames, waits_for_work
from .injection_points import suspended_at
from .tracking import AcquisitionTracker, SourceLocation, current_tracker

_POOL_THREADS = ("asyncio_", "AnyIO worker thread")  # prefixes of the threads that run blocking calls for a loop

# Called by each snapshot inside a running loop: descriptions of the connections that a server reports, by identity.
server_probes: list[Callable[[], Mapping[str, str]]] = []


@dataclass(frozen=True)
class ResourceSnapshot:
    """The open resources of one moment.

    Attributes:
        tasks: the pending tasks of the running loop, without the current one.
        threads: the threads, without idle threads of a pool.
        descriptors: number and target of each open file descriptor; the target of a socket is unique.
        server_connections: the connections that the servers in `server_probes` report.
    """

    tasks: frozenset["asyncio.Task[Any]"]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    server_connections: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def take(cls) -> Self:
        """Take a snapshot. Tasks and server connections are included only inside a running event loop."""
        return cls(frozenset(_tasks()), frozenset(_threads()), frozenset(_descriptors()), dict(_server_connections()))

    def leaked_since(self, before: "ResourceSnapshot") -> list[str]:
        """Return what is open here and was not open in `before`, one line each.

        Resources of the same kind that were acquired at the same location have equal lines.
        """
        tracker = current_tracker()
        leaked = [_describe_task(task, tracker) for task in self.tasks - before.tasks]
        leaked += [_describe_thread(thread, tracker) for thread in self.threads - before.threads]
        leaked += [_describe_descriptor(*entry, tracker) for entry in self.descriptors - before.descriptors]
        connections = self.server_connections.keys() - before.server_connections.keys()
        return sorted(leaked) + sorted(self.server_connections[identity] for identity in connections)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _tasks() -> Iterable["asyncio.Task[Any]"]:
    loop = _running_loop()
    return asyncio.all_tasks(loop) - {asyncio.current_task()} if loop else []


def _threads() -> Iterable[threading.Thread]:
    """Return all threads but the idle ones of a pool: these belong to the event loop and end with it."""
    frames, pool = thread_frames(), default_executor_threads(_running_loop())
    return [
        thread
        for thread in threading.enumerate()
        if not (
            (thread in pool or thread.name.startswith(_POOL_THREADS)) and waits_for_work(frames.get(thread.ident or 0))
        )
    ]


def _server_connections() -> Iterable[tuple[str, str]]:
    """Query the probes. Without a running loop there is nothing to report: its connections were closed with it."""
    for probe in server_probes if _running_loop() else []:
        yield from probe().items()


def _descriptors() -> Iterable[tuple[int, str]]:
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - this runs every few milliseconds
        try:
            yield int(descriptor), os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        except FileNotFoundError:
            continue  # the descriptor of the listing itself


def _describe_task(task: "asyncio.Task[Any]", tracker: AcquisitionTracker | None) -> str:
    origin = _origin(tracker.locate_task(task) if tracker else None)
    return f"task {task.get_name()}, now at {suspended_at(task.get_coro())}{origin}"


def _describe_thread(thread: threading.Thread, tracker: AcquisitionTracker | None) -> str:
    return f"thread {thread.name}{_origin(tracker.locate_thread(thread) if tracker else None)}"


def _describe_descriptor(number: int, target: str, tracker: AcquisitionTracker | None) -> str:
    """Describe an open descriptor without its number and inode, which differ from one run to the next."""
    if target.startswith("socket:"):
        return _describe_socket(number) + _origin(tracker.locate_socket(number) if tracker else None)
    description = f"file {target}" if target.startswith("/") else target.partition(":[")[0]
    return description + _origin(tracker.locate_file(target) if tracker else None)


def _describe_socket(number: int) -> str:
    try:
        with socket.socket(fileno=os.dup(number)) as duplicate:
            peer = duplicate.getpeername()
    except OSError:
        return "socket that is not connected"
    return (
        f"socket to {peer[0]}:{peer[1]}"
        if isinstance(peer, tuple)
        else f"socket to {peer or 'the other end of a pair'}"
    )


def _origin(location: SourceLocation | None) -> str:
    return f", acquired at {location}" if location and location.is_known else ""
