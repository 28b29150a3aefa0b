"""Silence: from some point on, nothing arrives any more, from any server. What a server does that hangs, without one."""

import asyncio
import time
from dataclasses import dataclass
from selectors import EVENT_WRITE, BaseSelector, SelectorKey
from typing import Any


@dataclass(frozen=True)
class Silence:
    """A fault: the event loop hears of nothing that arrives, but still of its own threads and timers."""

    again: float = 0

    def strike(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task
        selector: BaseSelector = loop._selector  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's loops have it
        select, own = selector.select, loop._ssock.fileno()  # type: ignore[attr-defined]  # noqa: SLF001

        def hear(timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
            events = select(timeout)
            heard = [
                (key, mask if key.fd == own else mask & EVENT_WRITE)
                for key, mask in events
                if key.fd == own or mask & EVENT_WRITE
            ]
            if events and not heard:
                time.sleep(0.001)  # what is not read is told again and again
            return heard

        vars(selector)["select"] = hear

    def __str__(self) -> str:
        return "the servers fell silent"
