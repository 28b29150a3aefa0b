"""The limits of `gateway serve` without a proxy: clients that send endless headers, or hold connections, do no harm."""

import asyncio
import json
from contextlib import AsyncExitStack, closing, suppress

import httpx

from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH
from tests.end_to_end.test_bad_input import resident_mib
from tests.support.waiting import TIMEOUT

MIB = 1024 * 1024
SENT_MIB = 185
MAX_GROWTH_MIB = 8

HALF_HEAD = b"GET /livez HTTP/1.1\r\nHost: gate"
HALF_REQUESTS = 200
DESCRIPTORS = 180  # below the number of half requests
HEAD_TIMEOUT = 4

# Runs `gateway` with a limit of open files.
LIMITED = f"""
import resource
from gateway.cli import main
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
main()
"""


async def test_endless_headers(start: StartProcess) -> None:
    """A client that sends 185 MiB of headers gets a 431, and the memory of the process hardly grows."""
    process = start("serve", "--port", "0")
    port = int((await process.url()).rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    before = resident_mib(process)
    with closing(writer):
        response = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n")
        with suppress(ConnectionError):  # the gateway stops reading after a while
            for _ in range(SENT_MIB):
                writer.write(b"X: " + b"x" * MIB + b"\r\n")
                await writer.drain()
        async with asyncio.timeout(TIMEOUT):
            head = await response
    with suppress(ConnectionError):
        await writer.wait_closed()

    assert head.startswith(b"HTTP/1.1 431 ")
    assert resident_mib(process) - before < MAX_GROWTH_MIB


async def test_half_requests(run: StartProcess) -> None:
    """Half requests that could hold all descriptors delay neither a health check nor a brief. They are closed at the deadline,
    and the log reports the limit once.
    """
    process = run("-c", LIMITED, "serve", "--port", "0", GATEWAY_HEAD_TIMEOUT=str(HEAD_TIMEOUT))
    url = await process.url()
    host, _, port = url.removeprefix("http://").partition(":")
    async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=url, timeout=HEAD_TIMEOUT) as client:
        readers = []
        for _ in range(HALF_REQUESTS):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(HALF_HEAD)
            readers.append(reader)
        alive = await client.get("/livez")
        brief = await client.get(f"/v1/places/{ZURICH}/brief")
        held = sum(not reader.at_eof() and reader.exception() is None for reader in readers)
        async with asyncio.timeout(TIMEOUT):
            endings = await asyncio.gather(*(reader.read() for reader in readers), return_exceptions=True)

    assert (alive.status_code, brief.json()["complete"]) == (200, True)
    assert held <= DESCRIPTORS // 2
    assert sum(b" 408 " in ending for ending in endings if isinstance(ending, bytes)) >= held - 2
    warnings = [json.loads(line) for line in process.output.splitlines() if "too many connections" in line]
    assert [line["max_connections"] for line in warnings] == [DESCRIPTORS // 2]
