"""Asking once for what many want at the same time."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Generic, TypeVar

Key = TypeVar("Key")
Answer = TypeVar("Answer")


TOLD_AT_ONCE = 16
"""How many get their answer in one turn of the event loop: were it all, the first would be sent when the last is written."""


class Batcher(Generic[Key, Answer]):
    """Puts the questions of those who ask at the same time into one call.

    A question only ever joins a batch that has not been sent, so no answer is older than its question. At most
    `at_once` batches are under way; what is asked for meanwhile waits for the next one, which is larger for it: the
    busier it gets, the less each question costs.

    Whoever asks has a future of its own: one that is cancelled, or no longer waited for, takes nothing from the others.
    """

    def __init__(
        self,
        load: Callable[[list[Key], float], "asyncio.Future[Answer]"],
        *,
        full: int,
        at_once: float = float("inf"),
    ) -> None:
        """Ask nothing yet.

        Args:
            load: asks for several keys, each once; also given is when the first of them was asked for
                (`time.monotonic()`). The answer comes, or fails, in a time of its own (see `Questions.ask`).
            full: a batch that has as many keys takes no further question in.
            at_once: how many batches may be under way.
        """
        self._load = load
        self._full = full
        self._at_once = at_once
        self._waiting: deque[tuple[Collection[Key], float, asyncio.Future[Answer]]] = deque()
        self._under_way = 0
        self._sending: asyncio.Handle | None = None

    def ask(self, keys: Collection[Key]) -> "asyncio.Future[Answer]":
        """Ask for `keys`, together with all that others ask for in this tick of the event loop.

        The answer is the one for the whole batch: these keys are among them. The future raises whatever `load` did.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((keys, time.monotonic(), answer))
        self._send_soon()
        return answer

    def _send_soon(self) -> None:
        if self._sending is None and self._waiting and self._under_way < self._at_once:
            self._sending = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        batch: dict[Key, None] = {}
        first_asked = 0.0
        answers: list[asyncio.Future[Answer]] = []
        while self._waiting and len(batch) < self._full:
            keys, asked, answer = self._waiting.popleft()
            if not answer.done():  # else who asked has given up
                first_asked = first_asked if answers else asked
                batch.update(dict.fromkeys(keys))
                answers.append(answer)
        if answers:
            self._under_way += 1
            self._load(list(batch), first_asked).add_done_callback(partial(self._hand_on, answers))
            self._send_soon()

    def _hand_on(self, answers: "list[asyncio.Future[Answer]]", loaded: "asyncio.Future[Answer]") -> None:
        self._under_way -= 1
        self._send_soon()
        self._tell(answers, loaded)

    def _tell(self, answers: "list[asyncio.Future[Answer]]", loaded: "asyncio.Future[Answer]") -> None:
        """Tell those who asked; only some in each turn of the loop, for what they write is sent at its end."""
        error = ConnectionError("nobody answers any more") if loaded.cancelled() else loaded.exception()
        for answer in answers[:TOLD_AT_ONCE]:
            if answer.done():
                continue
            if error is None:
                answer.set_result(loaded.result())
            else:
                answer.set_exception(error)
                answer.exception()  # so that the loop does not miss anybody who would have awaited it
        if rest := answers[TOLD_AT_ONCE:]:
            asyncio.get_running_loop().call_soon(self._tell, rest, loaded)
