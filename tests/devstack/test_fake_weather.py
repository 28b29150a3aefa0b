"""The fake weather is plausible for every place and day, and deterministic."""

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from gateway.devstack.fake_weather import DailyWeather

days = st.builds(
    DailyWeather.at,
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.dates(min_value=date(2000, 1, 1), max_value=date(2100, 1, 1)),
)
hours = st.floats(0, 24, exclude_max=True)
ZURICH = (47.375, 8.5625)


@given(days, hours)
def test_values_are_in_plausible_ranges(day: DailyWeather, hour: float) -> None:
    """Temperature, precipitation, humidity and wind are plausible, and those of an hour are within the range of the day."""
    assert -75 <= day.temperature_min < day.temperature_max <= 50
    assert 0 <= day.precipitation < 30
    assert day.temperature_min <= day.temperature(hour) <= day.temperature_max
    assert 20 <= day.humidity(hour) <= 100
    assert 0 <= day.rain(hour) <= day.precipitation
    assert 0 < day.wind(hour) <= day.wind_max < 20
    assert 0 < day.wind_mean < day.wind_max


@given(days, hours)
def test_code_matches_the_weather(day: DailyWeather, hour: float) -> None:
    """The weather code is one of clouds without precipitation, of snow below 1 °C, and of rain otherwise."""
    rain, temperature = day.rain(hour), day.temperature(hour)

    code = day.code(rain, temperature)

    if rain == 0:
        assert code in {0, 1, 2, 3}
    elif temperature < 1:
        assert code in {71, 73, 75}
    else:
        assert code in {61, 63, 65}


@given(days)
def test_quarters_add_up_to_the_day(day: DailyWeather) -> None:
    """The precipitation of all quarters of an hour adds up to that of the day, except for rounding."""
    total = sum(day.rain(quarter / 4) for quarter in range(96))

    assert abs(total - day.precipitation) <= 32 * 0.005 + 0.001


def test_weather_is_deterministic() -> None:
    """The weather of a place and a day never changes, not even between versions of this package."""
    assert DailyWeather.at(*ZURICH, date(2026, 11, 24)) == DailyWeather(
        temperature_max=11.2,
        temperature_min=-0.4,
        precipitation=0.0,
        wind_max=9.6,
        wind_share=DailyWeather.at(*ZURICH, date(2026, 11, 24)).wind_share,
        cloudiness=DailyWeather.at(*ZURICH, date(2026, 11, 24)).cloudiness,
    )


def test_mean_wind_is_that_of_the_hours() -> None:
    """The mean wind of a day is the mean of its hours, except for rounding."""
    for day in (DailyWeather.at(*ZURICH, date(2026, 11, number)) for number in range(1, 31)):
        assert abs(sum(map(day.wind, range(24))) / 24 - day.wind_mean) <= 0.005


def test_days_and_places_differ() -> None:
    """No two days of a year are the same, some 40 % of them are wet, and a place nearby has other weather."""
    year = [DailyWeather.at(*ZURICH, date.fromordinal(date(2026, 1, 1).toordinal() + offset)) for offset in range(365)]

    assert len(set(year)) == 365
    assert 120 <= sum(day.precipitation > 0 for day in year) <= 180
    assert DailyWeather.at(47.375, 8.625, date(2026, 1, 1)) != year[0]


def test_summer_is_opposite_in_the_south() -> None:
    """July is warmer than January in the north, and January warmer than July in the south."""

    def mean(latitude: float, month: int) -> float:
        return sum(DailyWeather.at(latitude, 0, date(2026, month, day)).temperature_max for day in range(1, 29)) / 28

    assert mean(50, 7) > mean(50, 1) + 15
    assert mean(-50, 1) > mean(-50, 7) + 15
