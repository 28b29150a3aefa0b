"""Metrics whose values are read when they are collected, in the event loop."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import monotonic
from typing import Literal, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from gateway.telemetry.providers import records_metrics

READ_TIMEOUT = 2.0  # for the event loop to read the values; after that, those of the collection before are exported
READ_TTL = 0.5  # the instruments of one collection share the values


@dataclass(frozen=True, slots=True)
class Instrument:
    """A metric, with a name and a unit after OpenTelemetry's conventions.

    The kind is `counter` for a number that only grows, `sum` for one that can be added up over the processes, and `gauge` for
    others.
    """

    name: str
    kind: Literal["counter", "sum", "gauge"]
    unit: str
    description: str


Values: TypeAlias = Iterable[tuple[Instrument, float, Mapping[str, str]]]


def observe(
    instruments: Iterable[Instrument],
    read: Callable[[], Values],
    *,
    refresh: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Export the instruments, if metrics are recorded.

    Args:
        instruments: all that `read` may return.
        read: returns the values with their attributes. It runs in the event loop or, at the end, after it.
        refresh: awaited in the event loop before that, to update what `read` returns.
    """
    if not records_metrics():
        return
    reader = _Reader(read, refresh)
    meter = metrics.get_meter("gateway")
    create = {
        "counter": meter.create_observable_counter,
        "sum": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    for instrument in instruments:
        create[instrument.kind](
            instrument.name, [partial(reader.observations, instrument)], instrument.unit, instrument.description
        )


class _Reader:
    """Reads the values for the threads of the exporters. The event loop reads them, because it changes them."""

    def __init__(self, read: Callable[[], Values], refresh: Callable[[], Awaitable[object]] | None) -> None:
        self._read = read
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._read_at = float("-inf")
        self._observations: Mapping[Instrument, list[Observation]] = {}

    def observations(self, instrument: Instrument, _options: CallbackOptions) -> list[Observation]:
        with self._lock:
            if not self._loop.is_running():
                self._observations = _group(self._read())
            elif monotonic() - self._read_at > READ_TTL:
                self._read_in_loop()
                self._read_at = monotonic()
            return self._observations.get(instrument, [])

    def _read_in_loop(self) -> None:
        values = asyncio.run_coroutine_threadsafe(self._refresh_and_read(), self._loop)
        try:
            self._observations = values.result(READ_TIMEOUT)
        except TimeoutError:
            values.cancel()

    async def _refresh_and_read(self) -> Mapping[Instrument, list[Observation]]:
        if self._refresh is not None:
            await self._refresh()
        return _group(self._read())


def _group(values: Values) -> Mapping[Instrument, list[Observation]]:
    observations: defaultdict[Instrument, list[Observation]] = defaultdict(list)
    for instrument, value, attributes in values:
        observations[instrument].append(Observation(value, attributes))
    return observations
