"""The DataLoader pattern: calls that are made at the same time become one call for the keys of all of them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")

RESOLVE_PER_TICK = 16  # callers resolved in one iteration of the event loop


class _Submission(NamedTuple, Generic[Key, Result]):
    keys: Collection[Key]
    submitted_at: float
    future: "asyncio.Future[Result]"


class Batcher(Generic[Key, Result]):
    """Collects the keys that callers submit in one iteration of the event loop, and loads them in one call.

    This is the DataLoader pattern, with a limit on the batches in flight. While `max_in_flight` batches are in flight, new
    keys wait in a queue. The next batch takes as many of them as fit. Batches grow with the load, so the cost of a key
    falls.

    Keys never join a batch that has been sent, so that a result is never older than its call. Each caller has its own
    future, and may cancel it without affecting the others.
    """

    def __init__(
        self,
        load: Callable[[list[Key], float], "asyncio.Future[Result]"],
        *,
        max_batch_size: int,
        max_in_flight: float = float("inf"),
    ) -> None:
        """Create a batcher.

        Args:
            load: called with the distinct keys of a batch, and with the time (`time.monotonic()`) at which the first of
                them was submitted. Its future must have a deadline (see `TaskPool.call`), because the batch
                is in flight until it is done.
            max_batch_size: a batch with that many distinct keys is full. The keys of one caller stay together, so the
                last caller may exceed it.
            max_in_flight: the number of batches that may be in flight.
        """
        self._load = load
        self._max_batch_size = max_batch_size
        self._max_in_flight = max_in_flight
        self._queue: deque[_Submission[Key, Result]] = deque()
        self._in_flight = 0
        self._flush_handle: asyncio.Handle | None = None

    def submit(self, keys: Collection[Key], submitted_at: float | None = None) -> "asyncio.Future[Result]":
        """Queue `keys`, and load all of them in one batch.

        Args:
            keys: the keys.
            submitted_at: the time (`time.monotonic()`) at which the caller began to wait. None: now.

        Returns:
            A future with the result of the whole batch, which has these keys and those of other callers. It raises the
            exception of the load, or ConnectionError if the load was cancelled.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_Submission(keys, time.monotonic() if submitted_at is None else submitted_at, future))
        self._schedule_flush()
        return future

    def _schedule_flush(self) -> None:
        """Send a batch in the next loop iteration, so that all callers in this one can join it."""
        if self._flush_handle is None and self._queue and self._in_flight < self._max_in_flight:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send the next batch: submissions from the queue until it is full, without those that were cancelled."""
        self._flush_handle = None
        batch: list[_Submission[Key, Result]] = []
        keys: dict[Key, None] = {}  # distinct, in order
        while self._queue and len(keys) < self._max_batch_size:
            submission = self._queue.popleft()
            if not submission.future.done():
                batch.append(submission)
                keys.update(dict.fromkeys(submission.keys))
        if batch:
            futures = [submission.future for submission in batch]
            self._in_flight += 1
            self._load(list(keys), batch[0].submitted_at).add_done_callback(partial(self._on_batch_done, futures))
            self._schedule_flush()

    def _on_batch_done(self, futures: "list[asyncio.Future[Result]]", loaded: "asyncio.Future[Result]") -> None:
        self._in_flight -= 1
        self._schedule_flush()
        self._resolve(futures, loaded)

    def _resolve(self, futures: "list[asyncio.Future[Result]]", loaded: "asyncio.Future[Result]") -> None:
        """Copy the result of a batch to the futures of its callers, a few in each loop iteration.

        Resolving all of them at once would delay the first response until the last one is serialised.
        """
        error = ConnectionError("the call was cancelled") if loaded.cancelled() else loaded.exception()
        for future in futures[:RESOLVE_PER_TICK]:
            if future.done():
                continue
            if error is None:
                future.set_result(loaded.result())
            else:
                future.set_exception(error)
                future.exception()  # marks it as retrieved, in case the caller is gone
        if rest := futures[RESOLVE_PER_TICK:]:
            asyncio.get_running_loop().call_soon(self._resolve, rest, loaded)
