"""Asking once for what many want at the same time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class Batcher(Generic[Key, Answer]):
    """Puts the questions of those who ask at the same time into one call.

    A question only ever joins a batch that has not been sent, so no answer is older than its question. At most
    `at_once` batches are under way; what is asked for meanwhile waits for the next one, which is larger for it: the
    busier it gets, the less each question costs.

    Whoever asks has a future of its own: one that is cancelled, or no longer waited for, takes nothing from the others.
    """

    def __init__(
        self,
        load: Callable[[list[Key]], Awaitable[Answer]],
        background: Callable[[Coroutine[Any, Any, None]], object],
        *,
        full: int,
        at_once: float = float("inf"),
    ) -> None:
        """Ask nothing yet.

        Args:
            load: answers for several keys, each once, within a deadline of its own.
            background: runs a batch to its end (see `Questions.keep`).
            full: a batch that has as many keys takes no further question in.
            at_once: how many batches may be under way.
        """
        self._load = load
        self._background = background
        self._full = full
        self._at_once = at_once
        self._waiting: deque[tuple[Collection[Key], asyncio.Future[Answer]]] = deque()
        self._under_way = 0
        self._sending: asyncio.Handle | None = None

    def ask(self, keys: Collection[Key]) -> "asyncio.Future[Answer]":
        """Ask for `keys`, together with all that others ask for in this tick of the event loop.

        The answer is the one for the whole batch: these keys are among them. The future raises whatever `load` raised.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, answer))
        self._send_soon()
        return answer

    def _send_soon(self) -> None:
        if self._sending is None and self._waiting and self._under_way < self._at_once:
            self._sending = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        batch: dict[Key, None] = {}
        answers: list[asyncio.Future[Answer]] = []
        while self._waiting and len(batch) < self._full:
            keys, answer = self._waiting.popleft()
            if not answer.done():  # else who asked has given up
                batch.update(dict.fromkeys(keys))
                answers.append(answer)
        if answers:
            self._under_way += 1
            self._background(self._answer(list(batch), answers))
            self._send_soon()

    async def _answer(self, batch: list[Key], answers: "list[asyncio.Future[Answer]]") -> None:
        try:
            found = await self._load(batch)
        except Exception as error:  # noqa: BLE001 - it is raised where the answers are awaited
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # so that the loop does not miss anybody who would have awaited it
        else:
            for answer in answers:
                if not answer.done():
                    answer.set_result(found)
        finally:
            for answer in answers:  # those left open: we were cancelled, and nobody shall wait for ever
                answer.cancel()
            self._under_way -= 1
            self._send_soon()
