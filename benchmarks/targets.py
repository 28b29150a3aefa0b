"""What the gateway aims at, and whether it was met."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.contender_registry import GATEWAY
from benchmarks.load import Tally
from benchmarks.runner import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A figure, and what it should be."""

    what: str
    value: float | None
    """None: it was not measured."""
    at_least: float | None = None
    at_most: float | None = None
    stretch: float | None = None
    """What would be better still."""
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """None: nobody can say."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def bound(self) -> str:
        """What it should be, in words."""
        if self.at_least is not None:
            stretch = "" if self.stretch is None else f" (stretch {self.stretch:g})"
            return f"at least {self.at_least:g}{self.unit}{stretch}"
        return "as near to 1 as it gets" if self.at_most is None else f"at most {self.at_most:g}{self.unit}"

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**not met**", None: "-"}[self.met] if self.value is not None else "not run"


def per_second(tally: Tally) -> float:
    return tally.per_second


def p50(tally: Tally) -> float:
    return tally.p50_ms


def p99(tally: Tally) -> float:
    return tally.p99_ms


def typical(run: Run, case: Case, figure: Callable[[Tally], float]) -> float | None:
    """The median of a figure over the rounds. None: it was not measured."""
    tallies = run.tallies.get(case.name)
    return median(map(figure, tallies)) if tallies else None


def ratio(
    run: Run, over: Case, under: Case, figure: Callable[[Tally], float], below: Callable[[Tally], float] | None = None
) -> float | None:
    """The median of what one figure is of another in the same round. None: one of them was not measured."""
    pairs = zip(_in_rounds(run, over, figure), _in_rounds(run, under, below or figure), strict=False)
    ratios = [one / other for one, other in pairs]
    return median(ratios) if ratios else None


def _in_rounds(run: Run, case: Case, figure: Callable[[Tally], float]) -> list[float]:
    """A figure in each round: the median, where the case was measured more than once in it."""
    tallies = run.tallies.get(case.name, [])
    often = max(1, len(tallies) // run.rounds)
    return [median(map(figure, tallies[at : at + often])) for at in range(0, len(tallies), often)]


def aims(run: Run) -> list[Aim]:
    """All aims, with what was measured."""
    starts = run.first_answers_s

    def throughput(under: Case) -> float | None:
        return ratio(run, cases.WARM, under, per_second)

    return [
        Aim(
            what="requests/s, of the tutorial's",
            value=throughput(cases.TUTORIAL_BRIEF),
            at_least=22,
            stretch=30,
            unit="x",
        ),
        Aim(
            what="requests/s, of new clients for every request",
            value=throughput(cases.PER_REQUEST_BRIEF),
            at_least=400,
            unit="x",
        ),
        Aim(what="requests/s, of FastAPI hello", value=throughput(cases.FASTAPI_ROOF), at_least=0.65, unit="x"),
        Aim(what="requests/s, of Fastify, tuned", value=throughput(cases.TUNED), at_least=1.6, stretch=2, unit="x"),
        Aim(what="requests/s, of Fastify with the same sharing", value=throughput(cases.SHARED), unit="x"),
        Aim(
            what="a cold brief alone, of its slowest part (p50, upstream 20 ms)",
            value=ratio(run, cases.ALONE_COLD, cases.ALONE_UPSTREAM, p50),
            at_most=1.1,
            unit="x",
        ),
        Aim(what="p99, of p50", value=ratio(run, cases.WARM, cases.WARM, p99, p50), at_most=3, unit="x"),
        Aim(
            what="p50 with the upstream dead, of the healthy warm brief's",
            value=ratio(run, cases.DEAD, cases.WARM, p50),
            at_most=1.5,
            unit="x",
        ),
        Aim(what="start to first answer", value=median(starts) if starts else None, at_most=0.8, unit=" s"),
        Aim(
            what="memory at rest, model loaded (RSS)", value=run.memory_mib.get(GATEWAY.name), at_most=150, unit=" MiB"
        ),
    ]
