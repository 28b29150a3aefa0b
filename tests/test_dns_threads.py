"""DNS lookups: a host name whose DNS server does not respond does not delay other lookups."""

import subprocess
import sys

COUNT_THREADS = """
import asyncio, socket, threading
import uvloop
from gateway.command import UV_THREADPOOL_SIZE, load_settings

load_settings(debug=False)

async def main():
    loop = asyncio.get_running_loop()
    await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)  # the first lookup starts the threads
    with open("/proc/self/status") as status:
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    print(threads - threading.active_count() >= int(UV_THREADPOOL_SIZE))


uvloop.run(main())
"""


def test_each_lookup_has_a_thread() -> None:
    """After the first lookup, libuv has as many threads as the command has configured."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", COUNT_THREADS], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "True"
