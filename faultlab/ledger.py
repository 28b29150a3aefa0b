"""The ledger: what this process holds."""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Ledger:
    """What was held at one moment: tasks and threads by their names, descriptors by what they are open on."""

    tasks: Counter[str]
    threads: Counter[str]
    descriptors: Counter[str]

    @classmethod
    def now(cls) -> Self:
        """Look. Within a running event loop, its tasks count too, but for the one that asks."""
        return cls(Counter(_tasks()), Counter(thread.name for thread in threading.enumerate()), Counter(_descriptors()))

    def added_since(self, before: "Ledger") -> list[str]:
        """What is held now, and was not before; a line each."""
        added = [f"task {name}" for name in (self.tasks - before.tasks).elements()]
        added += [f"thread {name}" for name in (self.threads - before.threads).elements()]
        return added + [f"descriptor {target}" for target in (self.descriptors - before.descriptors).elements()]


def _tasks() -> list[str]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return []
    return [f"{task.get_name()}: {task.get_coro()}" for task in asyncio.all_tasks(loop) - {asyncio.current_task()}]


def _descriptors() -> list[str]:
    """Sockets all look alike: which one it is does not matter, only that there is one more."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # the one that listed them
        targets.append(target.partition(":")[0] if target.startswith(("socket:", "pipe:")) else target)
    return targets
