"""Asking once for what many want at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Batcher(Generic[Key, Answer]):
    """Puts the questions of requests that arrive together into one call to a backend.

    A question only ever joins a batch that has not been sent, so no answer is older than its question. At most
    `at_once` batches are under way; what is asked for meanwhile waits for the next one, which is larger for it: the
    busier it gets, the less each question costs.

    Whoever asks has a future of its own: one that is cancelled, or no longer waited for, takes nothing from the others.
    """

    def __init__(
        self,
        load: Callable[[list[Key]], Awaitable[Mapping[Key, Answer]]],
        background: Callable[[Coroutine[Any, Any, None]], object],
        *,
        at_once: int,
        most: int,
    ) -> None:
        """Ask nothing yet.

        Args:
            load: answers up to `most` keys, each once, within a deadline of its own; those that are unknown it leaves out.
            background: runs a batch to its end (see `Questions.keep`).
            at_once: how many batches may be under way.
            most: how many keys a batch may have.
        """
        self._load = load
        self._background = background
        self._at_once = at_once
        self._most = most
        self._waiting: dict[Key, list[asyncio.Future[Answer | None]]] = {}
        self._under_way = 0
        self._sending: asyncio.Handle | None = None

    def ask(self, key: Key) -> "asyncio.Future[Answer | None]":
        """Ask for `key`, together with all that others ask for in this tick of the event loop. None: it is unknown.

        The future raises whatever `load` raised.
        """
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        self._send_soon()
        return answer

    def _send_soon(self) -> None:
        if self._sending is None and self._waiting and self._under_way < self._at_once:
            self._sending = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        batch: dict[Key, list[asyncio.Future[Answer | None]]] = {}
        while self._waiting and len(batch) < self._most:
            key = next(iter(self._waiting))
            wanted = [answer for answer in self._waiting.pop(key) if not answer.done()]
            if wanted:  # else all who asked have given up
                batch[key] = wanted
        if batch:
            self._under_way += 1
            self._background(self._answer(batch))
            self._send_soon()

    async def _answer(self, batch: "dict[Key, list[asyncio.Future[Answer | None]]]") -> None:
        try:
            found = await self._load(list(batch))
        except Exception as error:  # noqa: BLE001 - it is raised where the answers are awaited
            for answer in _open(batch):
                answer.set_exception(error)
                answer.exception()  # so that the loop does not miss anybody who would have awaited it
        else:
            for key, answers in batch.items():
                for answer in _open({key: answers}):
                    answer.set_result(found.get(key))
        finally:
            for answer in _open(batch):  # we were cancelled: nobody shall wait for ever
                answer.cancel()
            self._under_way -= 1
            self._send_soon()


def _open(batch: "dict[Key, list[asyncio.Future[Answer | None]]]") -> "list[asyncio.Future[Answer | None]]":
    return [answer for answers in batch.values() for answer in answers if not answer.done()]
