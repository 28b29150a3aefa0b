"""More clients than the gateway can serve, each of which repeats its request at once."""

import asyncio
from collections import Counter
from contextlib import closing

import httpx

from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH
from tests.support.waiting import TIMEOUT, wait_until

CLIENTS = 400
MAX_REQUESTS = 20
RESPONSES = 2 * CLIENTS  # until the end of the load
RECOVERY_TIME = 2.0

REQUEST = f"GET /v1/places/{ZURICH}/brief HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()


async def test_many_impatient_clients(start: StartProcess) -> None:
    """Clients over the bound get a 503 of the type `overloaded`, the others complete briefs, and health checks their responses.

    No connection is lost, and the gateway is as before when the load ends.
    """
    process = start("serve", "--port", "0", GATEWAY_MAX_REQUESTS=str(MAX_REQUESTS), GATEWAY_BRIEF_TIMEOUT=str(TIMEOUT))
    url = await process.url()
    host, _, port = url.removeprefix("http://").partition(":")
    responses: Counter[str] = Counter()
    connected = asyncio.Semaphore(0)

    async def send_requests() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            connected.release()
            while True:
                writer.write(REQUEST)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                body = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
                responses["complete" if "gateway-complete: true" in head else body[:40].decode()] += 1

    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client, asyncio.TaskGroup() as group:
        clients = [group.create_task(send_requests()) for _ in range(CLIENTS)]
        for _ in clients:
            await connected.acquire()
        await wait_until(lambda: responses.total() >= RESPONSES, "all clients get responses")
        alive, ready = await client.get("/livez"), await client.get("/readyz")
        for task in clients:
            task.cancel()
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client, asyncio.timeout(RECOVERY_TIME):
        while (after := await client.get(f"/v1/places/{ZURICH}/brief")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert (alive.status_code, ready.status_code) == (200, 200)
    assert after.json()["complete"]
    assert set(responses) == {"complete", '{"type":"/problems/overloaded","title":"'}
