"""The ledger: what this process holds, and what servers hold for it."""

import asyncio
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import thread as futures
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Self

from faultlab import tracking
from faultlab.injection_points import where_it_stands
from faultlab.tracking import AcquisitionTracker, SourceLocation

_POOLS = ("asyncio_", "AnyIO worker thread")
"""What the threads are called in which an event loop runs what would block it."""

_IDLE = (futures._worker.__code__, queue.Queue.get.__code__)  # noqa: SLF001
"""Where they wait for work: those of concurrent.futures, and those of anyio, which has Starlette's `run_in_threadpool`."""

server_probes: list[Callable[[], Mapping[str, str]]] = []
"""Whom to ask as well, whenever somebody looks: what a server says that it holds, by something that tells one from the other."""


@dataclass(frozen=True)
class ResourceSnapshot:
    """What was held at one moment."""

    tasks: frozenset["asyncio.Task[Any]"]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    """Their numbers, and what they are open on: a socket has an inode of its own, so the one that is new is the one that is named."""
    server_connections: Mapping[str, str] = field(default_factory=dict)
    """What servers say."""

    @classmethod
    def take(cls) -> Self:
        """Look. Within a running event loop, its tasks count too, but for the one that asks, and the servers are asked."""
        return cls(frozenset(_tasks()), frozenset(_threads()), frozenset(_descriptors()), dict(_server_connections()))

    def leaked_since(self, before: "ResourceSnapshot") -> list[str]:
        """What is held now, and was not before; a line each, the same for all that were acquired alike at the same place."""
        memory = tracking.current_tracker()
        added = [_task(task, memory) for task in self.tasks - before.tasks]
        added += [_thread(thread, memory) for thread in self.threads - before.threads]
        added += [_descriptor(*held, memory) for held in self.descriptors - before.descriptors]
        return sorted(added) + sorted(
            self.server_connections[one] for one in self.server_connections.keys() - before.server_connections.keys()
        )


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _tasks() -> Iterable["asyncio.Task[Any]"]:
    loop = _loop()
    return asyncio.all_tasks(loop) - {asyncio.current_task()} if loop else []


def _threads() -> Iterable[threading.Thread]:
    """All but those that wait for work of the event loop: they are its own, and end with it."""
    loop, frames = _loop(), sys._current_frames()  # noqa: SLF001 - there is no other way to the frames of other threads
    pool = getattr(getattr(loop, "_default_executor", None), "_threads", ())
    return [
        thread
        for thread in threading.enumerate()
        if not ((thread in pool or thread.name.startswith(_POOLS)) and _waits_for_work(frames.get(thread.ident or 0)))
    ]


def _waits_for_work(frame: FrameType | None) -> bool:
    """Whether a thread of a pool is idle."""
    while frame is not None and frame.f_code is threading.Condition.wait.__code__:
        frame = frame.f_back
    return frame is not None and frame.f_code in _IDLE


def _server_connections() -> Iterable[tuple[str, str]]:
    """Nothing where no loop runs: what it had open is closed with it, and servers need a moment to see that."""
    for ask in server_probes if _loop() else []:
        yield from ask().items()


def _descriptors() -> Iterable[tuple[int, str]]:
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 - it is asked for every other millisecond
        try:
            yield int(descriptor), os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        except FileNotFoundError:
            continue  # the one that listed them


def _task(task: "asyncio.Task[Any]", memory: AcquisitionTracker | None) -> str:
    return f"task {task.get_name()}, now at {where_it_stands(task.get_coro())}{_origin(memory.of_task(task) if memory else None)}"


def _thread(thread: threading.Thread, memory: AcquisitionTracker | None) -> str:
    return f"thread {thread.name}{_origin(memory.of_thread(thread) if memory else None)}"


def _descriptor(number: int, target: str, memory: AcquisitionTracker | None) -> str:
    """Without what differs from one run to the next."""
    if target.startswith("socket:"):
        return _socket(number) + _origin(memory.of_socket(number) if memory else None)
    what = f"file {target}" if target.startswith("/") else target.partition(":[")[0]
    return what + _origin(memory.of_file(target) if memory else None)


def _socket(number: int) -> str:
    try:
        with socket.socket(fileno=os.dup(number)) as twin:
            peer = twin.getpeername()
    except OSError:
        return "socket that is not connected"
    return (
        f"socket to {peer[0]}:{peer[1]}"
        if isinstance(peer, tuple)
        else f"socket to {peer or 'the other end of a pair'}"
    )


def _origin(place: SourceLocation | None) -> str:
    return f", acquired at {place}" if place and place.is_known else ""
