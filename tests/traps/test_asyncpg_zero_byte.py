"""asyncpg: a message whose type is zero stops the event loop, and with it every deadline."""

import subprocess
import sys

_PROGRAM = """
import asyncio, faulthandler, sys
import asyncpg

faulthandler.dump_traceback_later(2, exit=True)  # seconds; a thread of its own, as the loop does not run any more

async def main():
    async def serve(reader, writer):
        await reader.read(100)
        writer.write(bytes.fromhex(sys.argv[1]))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            await asyncpg.connect(host="127.0.0.1", port=port, user="x", password="x", ssl=False, timeout=0.1)
        except TimeoutError:
            print("in time")

asyncio.run(main())
"""


def connected_to_a_server_that_says(data: bytes) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _PROGRAM, data.hex()], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_message_of_type_zero_stops_the_event_loop_of_asyncpg_for_good() -> None:
    """It takes the type 0 for "no message yet", and looks for the next one again and again: no timeout is ever heard of."""
    assert connected_to_a_server_that_says(b"!\0\0\0\4").stdout == "in time\n"
    assert "Timeout (0:00:0" in connected_to_a_server_that_says(b"\0\0\0\0\4").stderr, (
        "asyncpg is mended: tell docs/traps.md, and let faultlab.wire.GARBAGE begin with a zero"
    )
