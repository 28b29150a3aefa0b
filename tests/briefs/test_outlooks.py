"""The outlooks: one run of the model for several places, and an error of one place that affects no other."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import pytest

from gateway.briefs import outlooks as module
from gateway.briefs.models import Outlook
from gateway.briefs.outlooks import Outlooks
from gateway.briefs.weather import DailyForecast, Weather
from gateway.places.queries import Place
from gateway.resources.model import DayFeatures, InvalidModelError, Model, load
from gateway.settings import SHIPPED_MODEL

TODAY = DailyForecast(
    date=date(2026, 11, 30),
    precipitation_mm=1.0,
    temperature_max_c=6.5,
    temperature_min_c=-1.1,
    wind_speed_m_s=2.5,
    wind_speed_max_m_s=7.6,
)
PLACES = [Place(number, "", "", "", "", 40.0 + number, 8.0, 0, "UTC", 0) for number in range(3)]


class CountingModel:
    """Passes calls on to a model.

    Attributes:
        runs: the number of days of each run.
        fails_lists: a run of several days raises an error.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.runs: list[int] = []
        self.fails_lists = False

    def precipitation_probability(self, today: DayFeatures) -> float:
        self.runs.append(1)
        return self._model.precipitation_probability(today)

    async def precipitation_probabilities(self, days: Sequence[DayFeatures]) -> list[float]:
        self.runs.append(len(days))
        if self.fails_lists:
            raise InvalidModelError
        return await self._model.precipitation_probabilities(days)


@pytest.fixture
def model() -> Iterator[CountingModel]:
    with ThreadPoolExecutor() as executor:
        yield CountingModel(load(SHIPPED_MODEL, executor))


@pytest.fixture
def outlooks(model: CountingModel) -> Outlooks:
    return Outlooks(model)  # type: ignore[arg-type]


def weather(*, precipitation_mm: float = 1.0) -> Weather:
    return Weather(
        observed_at="2026-11-30T14:15:00+01:00",
        temperature_c=5.0,
        relative_humidity_percent=80.0,
        precipitation_mm=0.0,
        weather_code=3,
        wind_speed_m_s=2.0,
        today=replace(TODAY, precipitation_mm=precipitation_mm),
    )


async def test_one_run_for_several_places(outlooks: Outlooks, model: CountingModel) -> None:
    """The outlooks of several places take one run of the model, and equal those of single runs."""
    amounts = [0.0, 1.0, 20.0]
    await outlooks.prepare([(place, weather(precipitation_mm=mm)) for place, mm in zip(PLACES, amounts, strict=True)])
    prepared = [outlooks.get(place, weather(precipitation_mm=mm)) for place, mm in zip(PLACES, amounts, strict=True)]
    runs = list(model.runs)
    others = Outlooks(model)  # type: ignore[arg-type]
    single = [others.get(place, weather(precipitation_mm=mm)) for place, mm in zip(PLACES, amounts, strict=True)]

    assert runs == [3]
    assert [outlook.wet_tomorrow_probability for outlook in prepared] == pytest.approx(
        [outlook.wet_tomorrow_probability for outlook in single], abs=1e-6
    )
    assert len(set(prepared)) == len(PLACES)


def test_predicted_once(outlooks: Outlooks, model: CountingModel) -> None:
    """The outlook from the same weather at the same latitude is predicted once."""
    first = outlooks.get(PLACES[0], weather())

    assert isinstance(first, Outlook)
    assert outlooks.get(PLACES[0], weather()) is first
    assert outlooks.get(PLACES[1], weather()) is not first
    assert model.runs == [1, 1]


async def test_implausible_weather(outlooks: Outlooks, model: CountingModel) -> None:
    """Weather out of range costs no other place its outlook."""
    await outlooks.prepare([(PLACES[0], weather(precipitation_mm=-1)), (PLACES[1], weather())])
    outlooks.get(PLACES[1], weather())

    with pytest.raises(ValueError, match="precipitation_mm"):
        outlooks.get(PLACES[0], weather(precipitation_mm=-1))
    assert model.runs == [1]


async def test_failed_run(outlooks: Outlooks, model: CountingModel) -> None:
    """After a failed run, each outlook is predicted alone."""
    model.fails_lists = True
    await outlooks.prepare([(place, weather()) for place in PLACES])
    outlooks.get(PLACES[0], weather())

    assert model.runs == [3, 1]


async def test_bounded_cache(outlooks: Outlooks, model: CountingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest outlooks leave the cache when it is full."""
    monkeypatch.setattr(module, "CACHE_SIZE", 2)
    await outlooks.prepare([(place, weather()) for place in PLACES])
    for place in PLACES[1:]:
        outlooks.get(place, weather())
    assert model.runs == [3]
    outlooks.get(PLACES[0], weather())

    assert model.runs == [3, 1]
