"""Popularity: the views of each place, which the worker counts in Redis."""

from redis.asyncio import Redis

from gateway.briefs.queries import popularity_key
from gateway.events.messages import BriefViewed

DEDUP_TTL = 24 * 60 * 60  # for which the id of an event is stored, so that the event is not added again

# Redis runs a script as a whole: the id is stored and the views are added, or neither. `pcall` skips a counter that is not a
# number.
_ADD = """
if not redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then return 0 end
for i = 2, #KEYS do redis.pcall('INCRBY', KEYS[i], ARGV[i]) end
return 1
"""


async def add_views(redis: Redis, event: BriefViewed) -> None:
    """Add the views of an event to the counters of its places, unless the event was added before.

    Raises:
        redis.RedisError, OSError: Redis is unavailable.
    """
    views = event.data.views
    keys = [f"consumed:{event.id}", *map(popularity_key, views)]
    await redis.eval(_ADD, len(keys), *keys, DEDUP_TTL, *views.values())
