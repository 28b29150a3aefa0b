"""Popularity: how often a place was asked for, counted in Redis by the worker."""

from redis.asyncio import Redis

from gateway.briefs.kept import popularity_key
from gateway.events.messages import BriefViewed

REMEMBER = 24 * 60 * 60
"""Seconds for which an event is known again."""

# Counted and remembered, or neither: Redis runs a script as a whole. A counter that somebody has spoiled is passed over.
_ADD = """
if not redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then return 0 end
for i = 2, #KEYS do redis.pcall('INCRBY', KEYS[i], ARGV[i]) end
return 1
"""


async def add_views(redis: Redis, event: BriefViewed) -> None:
    """Add the views of an event to those of each place, unless they were added before."""
    views = event.data.views
    keys = [f"consumed:{event.id}", *map(popularity_key, views)]
    await redis.eval(_ADD, len(keys), *keys, REMEMBER, *views.values())
