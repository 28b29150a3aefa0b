"""The errors of Redis, in the words of the server, as redis-py parses them."""

from typing import cast

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import RedisError

from gateway.resources.redis_errors import is_cluster_error, is_rejected_write, is_transient, leads_to_wrong_server

READONLY = "READONLY You can't write against a read only replica."
MASTERDOWN = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
LOADING = "LOADING Redis is loading the dataset in memory"
NOREPLICAS = "NOREPLICAS Not enough good replicas to write."
OUT_OF_MEMORY = "OOM command not allowed when used memory > 'maxmemory'."
IN_REDIS_6 = "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -"
OTHERS = ["ERR DB index is out of range", "WRONGTYPE Operation against a key holding the wrong kind of value"]


def parsed(response: str) -> RedisError:
    return cast("RedisError", BaseParser.parse_error(response))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("response", [READONLY, MASTERDOWN, LOADING, NOREPLICAS, f"{IN_REDIS_6}{READONLY}"])
def test_wrong_server(response: str) -> None:
    """A demoted or separated primary is the wrong server, also when a script reports it."""
    assert leads_to_wrong_server(parsed(response))


@pytest.mark.parametrize("response", [OUT_OF_MEMORY, "MISCONF Redis is configured to save RDB snapshots", *OTHERS])
def test_right_server(response: str) -> None:
    """A server without memory or with a full disk is the right one."""
    assert not leads_to_wrong_server(parsed(response))


@pytest.mark.parametrize("response", [READONLY, NOREPLICAS, OUT_OF_MEMORY, f"{IN_REDIS_6}{OUT_OF_MEMORY}"])
def test_rejected_write(response: str) -> None:
    """A rejected write is recognised, also when a script reports it."""
    assert is_rejected_write(parsed(response))


@pytest.mark.parametrize("response", [LOADING, MASTERDOWN, "BUSY Redis is busy running a script."])
def test_transient(response: str) -> None:
    """A startup waits for a server that will respond."""
    assert is_transient(parsed(response))


@pytest.mark.parametrize("response", ["WRONGPASS invalid username-password pair", "NOAUTH Authentication required."])
def test_wrong_credentials(response: str) -> None:
    """A startup does not wait for a server that rejects the user."""
    assert not is_transient(parsed(response))


def test_cluster() -> None:
    """A replica without its primary is not taken for a cluster, although its error is one of redis-py's for clusters."""
    assert is_cluster_error(parsed("MOVED 12182 127.0.0.1:7002"))
    assert is_cluster_error(parsed("CROSSSLOT Keys in request don't hash to the same slot"))
    assert not is_cluster_error(parsed(MASTERDOWN))
