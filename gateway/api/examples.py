"""The examples in the OpenAPI: objects of the models, so that they change together with the models."""

from datetime import UTC, date, datetime

from fastapi.sse import format_sse_event

from gateway.api.briefs import BriefList
from gateway.api.health import Check, JournalEvent, LifecycleJournal, Liveness, ReadinessReport
from gateway.api.observations import ObservationList
from gateway.api.places import PlaceList
from gateway.api.predictions import Prediction, PredictionList
from gateway.briefs.models import Brief, Outlook, Popularity, Section, Sections, Status
from gateway.briefs.weather import DailyForecast, Weather
from gateway.observations.queries import Observation
from gateway.places.queries import Place

PLACE = Place(2657896, "Zürich", "Zurich", "CH", "ZH", 47.36667, 8.55, 415367, "Europe/Zurich", 1)
NOW = datetime(2026, 11, 24, 13, 20, 42, tzinfo=UTC)
OBSERVATION = Observation(1, PLACE.id, 12.5, "rain", "wet", NOW, datetime(2026, 11, 24, 13, 15, tzinfo=UTC))
WEATHER = Weather(
    observed_at="2026-11-24T14:15:00+01:00",
    temperature_c=11.1,
    relative_humidity_percent=46,
    precipitation_mm=0,
    weather_code=0,
    wind_speed_m_s=6.03,
    today=DailyForecast(
        date=date(2026, 11, 24),
        precipitation_mm=0,
        temperature_max_c=11.2,
        temperature_min_c=-0.4,
        wind_speed_m_s=5.1,
        wind_speed_max_m_s=9.6,
    ),
)
BRIEF = Brief(
    place=PLACE,
    complete=True,
    sections=Sections(
        weather=Section(status=Status.OK, age_s=0, took_ms=3.309, data=WEATHER),
        outlook=Section(status=Status.OK, age_s=0, took_ms=1.421, data=Outlook(0.14)),
        observations=Section(status=Status.OK, age_s=0, took_ms=12.506, data=[OBSERVATION]),
        popularity=Section(status=Status.OK, age_s=0, took_ms=2.246, data=Popularity(7)),
    ),
)
CHECKS = {"database": Check(status="ok", took_ms=1.205, remark="127.0.0.1:5432")}
ENTERED = JournalEvent(at_ms=25.1, event="entered", name="database", took_ms=24.2, error=None)

# The examples of responses without an error, by operation and status.
EXAMPLES: dict[tuple[str, int], object] = {
    ("get_brief", 200): BRIEF,
    ("list_briefs", 200): BriefList([BRIEF], unknown=[1]),
    ("list_places", 200): PlaceList(items=[PLACE], next="/v1/places?q=zur&limit=1&cursor=AAZWhwAojmg"),
    ("get_place", 200): PLACE,
    ("report_observation", 201): OBSERVATION,
    ("list_observations", 200): ObservationList(items=[OBSERVATION], next=None),
    ("get_observation", 200): OBSERVATION,
    ("predict", 200): PredictionList(items=[Prediction(wet_tomorrow_probability=0.14)]),
    ("get_liveness", 200): Liveness(),
    ("get_readiness", 200): ReadinessReport(status="ok", checks=CHECKS),
    ("get_readiness", 503): ReadinessReport(status="stopping", checks=CHECKS),
    ("get_lifecycle", 200): LifecycleJournal(began_at=NOW, items=[ENTERED]),
    ("watch_lifecycle", 200): format_sse_event(
        event="journal", id="1795526442000-3", data_str=ENTERED.model_dump_json()
    ).decode(),
}
