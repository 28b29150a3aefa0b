"""asyncpg: a message whose type is zero stops the event loop, and with it every deadline, signal handler and thread."""

import subprocess
import sys

_PROGRAM = """
import asyncio, faulthandler, os, signal, sys, threading
import asyncpg

signal.signal(signal.SIGALRM, lambda *_: os.write(1, b"a signal\\n"))

async def main():
    async def serve(reader, writer):
        await reader.read(100)
        faulthandler.dump_traceback_later(2, exit=True)  # seconds; nothing that is written in Python would run
        threading.Timer(0.2, os.write, [1, b"a thread\\n"]).start()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        writer.write(bytes.fromhex(sys.argv[1]))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            await asyncpg.connect(host="127.0.0.1", port=port, user="x", password="x", ssl=False, timeout=0.5)
        except TimeoutError:
            print("in time")

asyncio.run(main())
"""


def connected_to_a_server_that_says(data: bytes) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _PROGRAM, data.hex()], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_message_of_type_zero_stops_the_event_loop_of_asyncpg_for_good() -> None:
    """It takes the type 0 for "no message yet", and looks for the next one again and again: nothing else ever runs."""
    heard = connected_to_a_server_that_says(b"!\0\0\0\4").stdout.splitlines()
    assert {*heard} == {"a signal", "a thread", "in time"}

    stopped = connected_to_a_server_that_says(b"\0\0\0\0\4")
    mended = "asyncpg is mended: tell docs/pitfalls.md, and let faultlab.wire.GARBAGE begin with a zero"
    assert "Timeout (0:00:0" in stopped.stderr, mended
    assert stopped.stdout == "", mended
