"""NetworkPartition: from some point on, nothing arrives any more, from any server. What a server does that hangs, without one."""

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from selectors import EVENT_WRITE, BaseSelector, SelectorKey
from typing import Any


@dataclass(frozen=True)
class NetworkPartition:
    """A fault: the event loop hears of nothing that arrives, but still of its own threads and timers."""

    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task
        selector: BaseSelector = loop._selector  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's loops have it
        select, own = selector.select, loop._ssock.fileno()  # type: ignore[attr-defined]  # noqa: SLF001

        def held_back(key: SelectorKey) -> bool:
            """A pipe comes from this machine, and from no server."""
            return key.fd != own and stat.S_ISSOCK(os.fstat(key.fd).st_mode)

        def hear(timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
            events = select(timeout)
            heard = [
                (key, mask & EVENT_WRITE if held_back(key) else mask)
                for key, mask in events
                if mask & EVENT_WRITE or not held_back(key)
            ]
            if events and not heard:
                time.sleep(0.001)  # what is not read is told again and again
            return heard

        vars(selector)["select"] = hear

    def __str__(self) -> str:
        return "the servers fell silent"
