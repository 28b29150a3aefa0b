"""The load: a process of its own that asks in a closed loop on connections that stay open, and checks every answer.

`python -m benchmarks.load` reads an `Order` as JSON, and writes a `Tally`; status 1 and why, if an answer was wrong.
"""

import asyncio
import random
import re
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

import uvloop
from pydantic import BaseModel

from benchmarks import questions
from benchmarks.measure import cpu_seconds
from benchmarks.questions import Place, Question, WrongAnswerError

PATIENCE = 60.0
"""Seconds for the first answers to all questions, and for the last ones."""

DIFFERENT_CALLS = 500
"""How many calls for several briefs are built: each has places of its own."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_SHOWN = 3000  # bytes of a wrong answer

Kind = Literal["hello", "brief", "brief without weather", "briefs", "observation", "forecast"]


class Order(BaseModel):
    """What to ask, whom, how and for how long."""

    kind: Kind
    ports: list[int]
    """On loopback; the connections are shared out to them."""
    connections: int
    places: list[Place] = field(default_factory=list)
    each_once: bool = False
    """Never ask about a place again: what is kept of it would be the answer."""
    prime: bool = False
    """First ask each question once, so that whatever can be kept is kept."""
    places_in_a_call: int = 1
    warm_up: float
    """Seconds."""
    seconds: float
    seed: int
    processes: dict[str, list[int]] = field(default_factory=dict)
    """Whose CPU time is wanted, by a name."""


class Tally(BaseModel):
    """What came of it, within the seconds that were measured."""

    answers: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    """For each answer, in microseconds, by the names in the order; `load` is our own."""
    cores: dict[str, float]
    """The same as seconds a second: 1 is a core that does nothing else."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; they are in order, and there is one."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Load:
    """The questions, and what has come back."""

    next: Callable[[], Question | None]
    """None: nothing is left to ask."""
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds, of the answers that came while `measuring`."""
    measuring: bool = False
    asking: int = 0
    """How many questions have no answer yet."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    wrong: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, reason: str) -> None:
        if not self.wrong.done():
            self.wrong.set_exception(WrongAnswerError(reason))


class Connection(asyncio.Protocol):
    """Asks one question after the other."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = bytearray()
        self._question: Question | None = None
        self._asked = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("not a stream")
        self._transport = transport
        self.ask()

    def ask(self) -> None:
        """Ask, unless the last question is not answered yet, or there is none."""
        if self._question is None and (question := self._load.next()) is not None:
            self._question = question
            self._load.asking += 1
            self._asked = time.perf_counter()
            self._transport.write(question.wire)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_END_OF_HEAD)
        if not found:
            return
        length = _LENGTH.search(head)
        if length is not None and len(body) < int(length[1]):
            return
        came = time.perf_counter()
        self._received = bytearray()
        question, self._question = self._question, None
        load = self._load
        if question is None:
            return load.fail(f"an answer without a question: {_shown(body)}")
        load.asking -= 1
        try:
            if length is None or len(body) > int(length[1]):
                raise WrongAnswerError("its head does not say how long it is")
            question.check(int(head[9:12]), bytes(body))
        except (WrongAnswerError, ValueError, LookupError, TypeError) as error:
            return load.fail(f"{_shown(question.wire)}\nwas answered wrongly: {error!r}\n{_shown(head + found + body)}")
        if load.measuring:
            load.latencies.append(came - self._asked)
        self.ask()
        if load.asking == 0:
            load.idle.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._question is not None:
            told = f"{_shown(self._question.wire)}\nthe connection was lost before the end of the answer ({exc})"
            self._load.fail(f"{told}:\n{_shown(self._received)}")

    def close(self) -> None:
        self._transport.close()


async def answer(order: Order) -> Tally:
    """Put the load on, and measure.

    Raises:
        WrongAnswerError: an answer was wrong, or did not come.
    """
    asked, every = drawn(order)
    priming = iter(every if order.prime else ())
    stopped = False

    def ask() -> Question | None:
        if stopped:
            return None
        question = next(priming, None) or next(asked, None)
        if question is None:
            load.fail("all places were asked for: give more, or ask for fewer seconds")
        return question

    load = Load(ask)
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    try:
        for number in range(order.connections):
            port = order.ports[number % len(order.ports)]
            connections.append((await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1])
        await _passed(load, _until_primed(priming))
        await _passed(load, asyncio.sleep(order.warm_up))
        before, began = _cpu(order.processes), time.perf_counter()
        load.measuring = True
        await _passed(load, asyncio.sleep(order.seconds))
        load.measuring = False
        after, took = _cpu(order.processes), time.perf_counter() - began
        stopped = True
        if load.asking:
            await _passed(load, load.idle.wait())
    finally:
        for connection in connections:
            connection.close()
    return _tally(load.latencies, took, {name: after[name] - before[name] for name in before})
