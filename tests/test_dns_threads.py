"""A backend whose name nobody answers for keeps no other from being looked up."""

import subprocess
import sys

LOOK_UP = """
import asyncio, socket, threading
import uvloop
from gateway.cli import UV_THREADPOOL_SIZE, _load_settings

_load_settings(debug=False)

async def main():
    loop = asyncio.get_running_loop()
    await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)  # the first name starts the threads
    with open("/proc/self/status") as status:
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    print(threads - threading.active_count() >= int(UV_THREADPOOL_SIZE))


uvloop.run(main())
"""


def test_there_are_threads_for_all_names_that_are_looked_up_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK_UP], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - ours
    assert done.stdout.strip() == "True"
