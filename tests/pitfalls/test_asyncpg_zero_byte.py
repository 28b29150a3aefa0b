"""asyncpg: a message of type zero blocks the event loop, and with it all deadlines, signal handlers and threads."""

import subprocess
import sys

_PROGRAM = """
import asyncio, faulthandler, os, signal, sys, threading
import asyncpg

writers = []
signal.signal(signal.SIGALRM, lambda *_: os.write(1, b"signal handled\\n"))

async def main():
    async def serve(reader, writer):
        await reader.read(100)
        faulthandler.dump_traceback_later(2, exit=True)  # seconds; no Python code would run any more
        threading.Timer(0.2, os.write, [1, b"thread ran\\n"]).start()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        writer.write(bytes.fromhex(sys.argv[1]))
        writers.append(writer)  # without a reference, Python 3.13 and later close the connection
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await asyncpg.connect(host="127.0.0.1", port=port, user="x", password="x", ssl=False, timeout=0.5)
    except TimeoutError:
        print("timeout expired")

asyncio.run(main())
"""


def connect_to_server_sending(data: bytes) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _PROGRAM, data.hex()], capture_output=True, text=True, timeout=30, check=False
    )


def test_zero_byte_blocks_event_loop() -> None:
    """A message of another type leaves all running; after a zero neither timeout, signal handler nor thread runs."""
    harmless = connect_to_server_sending(b"!\0\0\0\4").stdout.splitlines()
    assert {*harmless} == {"signal handled", "thread ran", "timeout expired"}

    blocked = connect_to_server_sending(b"\0\0\0\0\4")
    fixed_upstream = "fixed upstream: update docs/pitfalls.md, and let faultlab.wire.GARBAGE begin with a zero byte"
    assert "Timeout (0:00:0" in blocked.stderr, fixed_upstream
    assert blocked.stdout == "", fixed_upstream
