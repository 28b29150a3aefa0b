"""The errors of redis-py by what they mean for the gateway.

redis-py has no class for some codes, and a script of Redis 6 returns the code of its command in the middle of the message.
"""

import re

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.network.errors import is_network_error

# A primary that was demoted is read-only, loads the data of the new primary, or has lost the link to it; one that is cut off
# has too few replicas. The address may lead to another server by now. (A server without memory, OOM, or with a full disk,
# MISCONF, is the right one.)
_WRONG_SERVER = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|NOREPLICAS)\b")
_REJECTED_WRITE = re.compile(r"\b(READONLY|NOREPLICAS|OOM|MISCONF)\b")
_TRANSIENT_RESPONSE = re.compile(r"\b(LOADING|MASTERDOWN|BUSY)\b")
# Of a command in a script, by Redis 7.0 and by Redis 8.
_MISSING_RIGHT_IN_SCRIPT = re.compile("The user executing the script can't|ACL failure in script")

_PERMANENT_ERRORS = (AuthenticationError, AuthorizationError, InvalidResponse)
_CLUSTER_ERRORS = (AskError, ClusterCrossSlotError, ClusterDownError, TryAgainError)  # MovedError is an AskError


def is_unavailable(error: Exception) -> bool:
    """Return whether the caller should try again later."""
    return isinstance(error, RedisError | OSError)


def is_transient(error: Exception) -> bool:
    """Return whether the error may go away without a change: refused, no such name yet, loading, too many clients."""
    if isinstance(error, ResponseError):
        return bool(_TRANSIENT_RESPONSE.search(_text(error)))
    return is_unavailable(error) and not isinstance(error, _PERMANENT_ERRORS) and permanent_cause(error) is None


def permanent_cause(error: BaseException) -> BaseException | None:
    """Return the error of TLS, or another one that is not of the network, that redis-py has replaced by its own."""
    cause = error.__cause__ or error.__context__
    return cause if isinstance(cause, OSError) and not is_network_error(cause) else None


def leads_to_wrong_server(error: RedisError) -> bool:
    """Return whether a new connection may lead to another server, which does what this one does not."""
    return bool(_WRONG_SERVER.search(_text(error)))


def is_rejected_write(error: RedisError) -> bool:
    """Return whether the server accepts reads and, at present, no writes."""
    return bool(_REJECTED_WRITE.search(_text(error)))


def is_missing_right(error: RedisError) -> bool:
    return isinstance(error, NoPermissionError) or bool(_MISSING_RIGHT_IN_SCRIPT.search(str(error)))


def is_cluster_error(error: RedisError) -> bool:
    """Return whether the server is a node of a Redis Cluster, of which each node has only a part of the keys."""
    return isinstance(error, _CLUSTER_ERRORS) and not isinstance(error, MasterDownError)


def _text(error: RedisError) -> str:
    """Return the code and the message. redis-py removes the codes that it knows from the message."""
    return f"{error.status_code or ''} {error}"
