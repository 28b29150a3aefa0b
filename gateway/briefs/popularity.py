"""Popularity: the views of each place, which the worker counts in Redis."""

from redis.asyncio import Redis

from gateway.briefs.queries import popularity_key
from gateway.events.messages import BriefViewed

DEDUP_TTL = 24 * 60 * 60  # for which the id of an event is stored, so that the event is not added again

# Redis runs a script as a whole: the id is stored and the views are added, or neither. A counter that is not a number is
# skipped. Any other error of a counter, such as a missing right, is one of all counters: the id is removed, so that a retry
# adds the views.
_ADD = """
local function is_invalid_counter(message)
    return message:find('WRONGTYPE') or message:find('not an integer') or message:find('would overflow')
end
if not redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then return 0 end
for i = 2, #KEYS do
    local reply = redis.pcall('INCRBY', KEYS[i], ARGV[i])
    if type(reply) == 'table' and reply.err and not is_invalid_counter(reply.err) then
        redis.call('DEL', KEYS[1])
        return reply
    end
end
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
