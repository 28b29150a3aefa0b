"""Invented but plausible weather. It depends only on the place and the day."""

import hashlib
import math
from dataclasses import dataclass
from datetime import date

_WET_SHARE = 0.4  # of all days
_HOTTEST_DAY = 201  # of the year, in the north: 20 July
_HOTTEST_HOUR = 15


@dataclass(frozen=True)
class DailyWeather:
    """The weather of one place on one day."""

    temperature_max: float  # °C
    temperature_min: float  # °C
    precipitation: float  # mm
    wind_max: float  # m/s
    wind_share: float  # mean wind / highest wind
    cloudiness: float  # 0 to 1

    @classmethod
    def at(cls, latitude: float, longitude: float, day: date) -> "DailyWeather":
        fractions = _random_fractions(f"{latitude:.4f} {longitude:.4f} {day.isoformat()}")
        annual = 27 - 0.0073 * latitude**2
        season = math.copysign(0.25 * abs(latitude), latitude)
        summer = math.cos(2 * math.pi * (day.timetuple().tm_yday - _HOTTEST_DAY) / 365.25)
        wet = fractions[0] < _WET_SHARE
        mean = annual + season * summer + 8 * (fractions[1] - 0.5)
        swing = (3 if wet else 5) + 3 * fractions[2]  # clouds keep the day cool and the night warm
        return cls(
            temperature_max=round(mean + swing, 1),
            temperature_min=round(mean - swing, 1),
            precipitation=round(0.1 - 6 * math.log(1 - 0.99 * fractions[3]), 1) if wet else 0.0,
            wind_max=round(2 + 10 * fractions[4] ** 2 + (2 if wet else 0), 1),
            wind_share=0.3 + 0.5 * fractions[5],
            cloudiness=0.8 + 0.2 * fractions[6] if wet else 0.9 * fractions[6],
        )

    @property
    def wind_mean(self) -> float:
        """The mean wind of the day in m/s."""
        return self.wind_max * self.wind_share

    def temperature(self, hour: float) -> float:
        """Return the temperature in °C at an hour of the day, 0 to 24."""
        middle = (self.temperature_max + self.temperature_min) / 2
        swing = (self.temperature_max - self.temperature_min) / 2
        return round(middle + swing * math.cos(2 * math.pi * (hour - _HOTTEST_HOUR) / 24), 1)

    def humidity(self, hour: float) -> int:
        """Return the relative humidity in % at an hour of the day. It falls as the temperature rises."""
        cooler = self.temperature_max - self.temperature(hour)
        return round(min(100, 45 + 35 * self.cloudiness + 1.5 * cooler))

    def rain(self, hour: float) -> float:
        """Return the precipitation in mm of the quarter of an hour before `hour`. It falls during a third of the day."""
        begins = 16 * self.wind_share
        return round(self.precipitation / 32, 2) if begins <= hour < begins + 8 else 0.0

    def wind(self, hour: float) -> float:
        """Return the wind in m/s at an hour of the day. It is strongest in the afternoon."""
        return round(self.wind_max * (self.wind_share + 0.15 * math.cos(2 * math.pi * (hour - _HOTTEST_HOUR) / 24)), 2)

    def code(self, precipitation: float, temperature: float) -> int:
        """Return the WMO weather code: clear to overcast, or light to heavy rain or snow."""
        if precipitation > 0:
            strength = 0 if self.precipitation < 3 else 1 if self.precipitation < 12 else 2  # noqa: PLR2004
            return (71 if temperature < 1 else 61) + 2 * strength
        return min(3, int(4 * self.cloudiness))


def _random_fractions(seed: str) -> list[float]:
    """Return eight numbers from 0 to 1 that depend only on the seed."""
    digest = hashlib.blake2b(seed.encode(), digest_size=32).digest()
    return [int.from_bytes(digest[at : at + 4]) / 2**32 for at in range(0, 32, 4)]
