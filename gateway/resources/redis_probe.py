"""Does once what the work needs of Redis, so that a server that cannot do it is found at the start and by each health check."""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.lifecycle import format_error
from gateway.resources.base import DegradedError
from gateway.resources.redis_errors import is_cluster_error, is_missing_right, is_rejected_write

# The rights of a user of Redis. docs/redis.md explains them.
RIGHTS = "~weather:* ~popularity:* ~consumed:* +mget +set +eval +incrby +del +client|setname +select"

# Keys like those that the briefs and the worker use; a place has a number in their place.
_WEATHER, _POPULARITY, _CONSUMED = "weather:probe", "popularity:probe", "consumed:probe"
_TTL = 60  # seconds

_COUNT = """
redis.call('SET', KEYS[1], '', 'EX', ARGV[1])
redis.call('SET', KEYS[2], 0, 'EX', ARGV[1])
redis.call('INCRBY', KEYS[2], 1)
return redis.call('DEL', KEYS[1], KEYS[2])
"""


class UnsuitableServerError(Exception):
    """The server cannot do the work until an operator changes it. The message names the fix."""


async def probe(redis: Redis) -> None:
    """Write, read two keys in one command, and run a script that counts.

    Raises:
        UnsuitableServerError: it is a Redis Cluster, or the user lacks a right.
        DegradedError: the server accepts no writes.
        RedisError: it is unavailable.
    """
    step = "SET of weather:*"
    try:
        await redis.set(_WEATHER, "", ex=_TTL)
        step = "MGET of weather:* and popularity:*"
        await redis.mget(_WEATHER, _POPULARITY)
        step = "EVAL of consumed:* and popularity:* with SET, INCRBY and DEL"
        await redis.eval(_COUNT, 2, _CONSUMED, _POPULARITY, _TTL)
    except RedisError as error:
        if is_cluster_error(error):
            raise UnsuitableServerError(
                f"Redis Cluster is not supported ({format_error(error)}): "
                "use a single server, or a primary with replicas behind one address"
            ) from error
        if is_missing_right(error):
            raise UnsuitableServerError(
                f"the user has no right to {step} ({error}): grant it; all rights that the gateway needs are: {RIGHTS}"
            ) from error
        if is_rejected_write(error):
            raise DegradedError(f"the server accepts no writes ({format_error(error)})") from error
        raise
