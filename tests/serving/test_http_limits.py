"""The limit of open files, which limits the connections."""

import subprocess
import sys

import pytest

from gateway.serving.http_limits import RESERVED_DESCRIPTORS

# Prints the connections that are possible, and the soft limit after that.
ALLOW = """
import resource, sys
from gateway.serving.http_limits import allow_connections
soft, hard, limit = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow_connections(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised"),
    [
        (256, 1000, 500, 500 + RESERVED_DESCRIPTORS),  # the hard limit permits all
        (256, 600, 600 - RESERVED_DESCRIPTORS, 600),  # it permits fewer
        (180, 180, 90, 180),  # half of them remain for the backends
        (900, 1000, 500, 900),  # enough already
    ],
)
def test_limit_of_open_files(soft: int, hard: int, connections: int, raised: int) -> None:
    """The soft limit is raised for the connections as far as the hard limit permits, and never lowered."""
    command = [sys.executable, "-c", ALLOW, str(soft), str(hard), "500"]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout  # noqa: S603 - our own command

    assert list(map(int, output.split())) == [connections, raised]
