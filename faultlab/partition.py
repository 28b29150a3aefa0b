"""The fault of a network partition: from some point on nothing arrives from any server, as if all of them hung."""

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from selectors import EVENT_WRITE, SelectorKey
from typing import Any

from ._asyncio_internals import SelectorEvents, filter_selector_events, wakeup_descriptor

DROP_PAUSE = 0.001  # the selector reports unread data again and again; the pause keeps the loop from spinning


@dataclass(frozen=True)
class NetworkPartition:
    """Hides everything that arrives on sockets from the event loop. Timers, threads and pipes still work."""

    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task
        wakeup = wakeup_descriptor(loop)

        def is_remote(key: SelectorKey) -> bool:
            return key.fd != wakeup and stat.S_ISSOCK(os.fstat(key.fd).st_mode)

        def keep_writes_only(events: SelectorEvents) -> SelectorEvents:
            kept = [
                (key, mask & EVENT_WRITE if is_remote(key) else mask)
                for key, mask in events
                if mask & EVENT_WRITE or not is_remote(key)
            ]
            if events and not kept:
                time.sleep(DROP_PAUSE)
            return kept

        filter_selector_events(loop, keep_writes_only)

    def __str__(self) -> str:
        return "network partitioned"
