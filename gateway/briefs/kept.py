"""What Redis keeps for a brief: the weather that was fetched before, and how often the place was asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.resources.reading import RedisReader


@dataclass(slots=True)
class CachedEntry:
    """What is there under the keys of one place, as it is; None where there is nothing, or no string."""

    weather: bytes | None
    views: bytes | None


async def fetch_kept(redis: RedisReader, place_ids: Sequence[int]) -> Mapping[int, CachedEntry]:
    """Fetch what is kept of several places, in one command.

    Raises:
        redis.RedisError, OSError: Redis is away.
    """
    keys = [key for place_id in place_ids for key in (weather_key(place_id), popularity_key(place_id))]
    values: Iterator[Any] = iter(await redis.command("MGET", *keys))
    return {place_id: CachedEntry(next(values), next(values)) for place_id in place_ids}


def weather_key(place_id: int) -> str:
    """Where the weather of a place is kept."""
    return f"weather:{place_id}"


def popularity_key(place_id: int) -> str:
    """Where the views of a place are counted."""
    return f"popularity:{place_id}"
