"""The load: a process of its own that asks in a closed loop on connections that stay open, and checks every answer.

`python -m benchmarks.load` reads an `Order` as JSON, and writes a `Tally`; status 1 and why, if an answer was wrong.
"""

import asyncio
import random
import re
import sys
import time
from array import array
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, cast

import uvloop
from pydantic import BaseModel, Field

from benchmarks import workloads
from benchmarks.measure import cpu_seconds, machine_seconds
from benchmarks.workloads import Place, Question, WrongAnswerError

PATIENCE = 60.0
"""Seconds for the first answers to all questions, and for the last ones."""

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
    places: list[Place] = Field(default_factory=list)
    each_once: bool = False
    """Never ask about a place again: what is kept of it would be the answer."""
    prime: bool = False
    """First ask for the brief of each place once, so that its weather is kept."""
    places_in_a_call: int = 1
    warm_up: float
    """Seconds."""
    seconds: float
    seed: int
    processes: dict[str, list[int]] = Field(default_factory=dict)
    """Whose CPU time is wanted, by a name."""


class Tally(BaseModel):
    """What came of it, within the seconds that were measured."""

    answers: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    """For each answer, in microseconds, by the names in the order; `load` is our own, `machine` everybody's."""
    cores: dict[str, float]
    """The same as seconds a second: 1 is a core that does nothing else."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; they are in order, and there is one."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Load:
    """What is asked, and what has come back."""

    questions: Iterator[Question] = field(default_factory=lambda: iter(()))
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds, of the answers that came while `measuring`."""
    measuring: bool = False
    asking: int = 0
    """How many questions have no answer yet."""
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """There are none, and nothing is left to ask."""
    wrong: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, reason: str) -> None:
        if not self.wrong.done():
            self.wrong.set_exception(WrongAnswerError(reason))

    async def unless_wrong(self, waiting: Coroutine[Any, Any, object]) -> None:
        """Wait, but not any longer than until an answer is wrong, which is raised."""
        task = asyncio.create_task(waiting)
        waited_for: set[asyncio.Future[Any]] = {task, self.wrong}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if self.wrong.done():
                self.wrong.result()
            await task
        except TimeoutError:
            raise WrongAnswerError(f"{self.asking} answers did not come within {PATIENCE:g} s") from None
        finally:
            task.cancel()


class Connection(asyncio.Protocol):
    """Asks one question after the other."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = bytearray()
        self._question: Question | None = None
        self._asked_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self) -> None:
        """Ask the next question, if there is one."""
        if self._transport is not None and (question := next(self._load.questions, None)) is not None:
            self._question = question
            self._load.asking += 1
            self._asked_at = time.perf_counter()
            self._transport.write(question.wire)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(_END_OF_HEAD)
        length = _LENGTH.search(head)
        if not found or (length is not None and len(body) < int(length[1])):
            return  # there is more to come
        took = time.perf_counter() - self._asked_at
        load, question = self._load, self._question
        if question is None or length is None or len(body) != int(length[1]):
            load.fail(f"there is more than one answer, or its head does not say how long it is\n{self._told()}")
            return
        try:
            question.check(int(head[9:12]), bytes(body))
        except (WrongAnswerError, ValueError, LookupError, TypeError) as error:
            load.fail(f"{type(error).__name__}: {error}\n{self._told()}")
            return
        self._received = bytearray()
        self._question = None
        load.asking -= 1
        if load.measuring:
            load.latencies.append(took)
        self.ask()
        if load.asking == 0:
            load.idle.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._question is not None:
            self._load.fail(f"the connection was lost before the end of the answer: {exc}\n{self._told()}")

    def close(self) -> None:
        self._question = None
        if self._transport is not None:
            self._transport.abort()

    def _told(self) -> str:
        asked = b"" if self._question is None else self._question.wire
        return "\n".join(text[:_SHOWN].decode(errors="replace") for text in (asked, bytes(self._received)))


async def put_on(order: Order) -> Tally:
    """Put the load on, and measure.

    Raises:
        WrongAnswerError: an answer was wrong, or did not come.
    """
    load = Load()
    connections = [await _connect(load, order.ports[number % len(order.ports)]) for number in range(order.connections)]

    def begin(questions: Iterator[Question]) -> None:
        load.questions = questions
        load.idle.clear()
        for connection in connections:
            connection.ask()

    try:
        if order.prime:
            begin(map(workloads.brief, order.places))
            await load.unless_wrong(asyncio.wait_for(load.idle.wait(), PATIENCE))
        everything = _questions(order)
        chance = random.Random(order.seed)  # noqa: S311 - the same in every run
        chance.shuffle(everything)
        asked = iter(everything) if order.each_once else _any_of(everything, chance)
        begin(asked)
        await load.unless_wrong(asyncio.sleep(order.warm_up))
        before, began = _cpu(order.processes), time.perf_counter()
        load.measuring = True
        await load.unless_wrong(asyncio.sleep(order.seconds))
        load.measuring = False
        after, seconds = _cpu(order.processes), time.perf_counter() - began
        if next(asked, None) is None:
            raise WrongAnswerError("all places were asked for before the end: there have to be more")
        load.questions = iter(())
        if load.asking:
            await load.unless_wrong(asyncio.wait_for(load.idle.wait(), PATIENCE))
        return _tally(load.latencies, seconds, {name: after[name] - before[name] for name in before})
    finally:
        for connection in connections:
            connection.close()


async def _connect(load: Load, port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(load), "127.0.0.1", port)
    return connection


def _questions(order: Order) -> list[Question]:
    match order.kind:
        case "hello":
            return [workloads.hello()]
        case "brief":
            return list(map(workloads.brief, order.places))
        case "brief without weather":
            return [workloads.brief(place, weather=False) for place in order.places]
        case "observation":
            return list(map(workloads.observation, order.places))
        case "forecast":
            return list(map(workloads.forecast, order.places))
        case "briefs":
            # Each call has the places that follow one another from another one on.
            around = order.places + order.places
            return [workloads.briefs(around[at : at + order.places_in_a_call]) for at in range(len(order.places))]


def _any_of(questions: Sequence[Question], chance: random.Random) -> Iterator[Question]:
    while True:
        yield chance.choice(questions)


def _cpu(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: cpu_seconds(pids) for name, pids in processes.items()} | {
        "load": time.process_time(),
        "machine": machine_seconds(),
    }


def _tally(latencies: "array[float]", seconds: float, cpu: Mapping[str, float]) -> Tally:
    if not latencies:
        raise WrongAnswerError(f"no answer within {seconds:.1f} s")
    ordered = sorted(latencies)
    return Tally(
        answers=len(ordered),
        per_second=len(ordered) / seconds,
        p50_ms=percentile(ordered, 0.5) * 1e3,
        p99_ms=percentile(ordered, 0.99) * 1e3,
        cpu_us={name: spent / len(ordered) * 1e6 for name, spent in cpu.items()},
        cores={name: spent / seconds for name, spent in cpu.items()},
    )


def main() -> None:
    order = Order.model_validate_json(sys.stdin.buffer.read())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            tally = runner.run(put_on(order))
    except (WrongAnswerError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(tally.model_dump_json())


if __name__ == "__main__":
    main()
