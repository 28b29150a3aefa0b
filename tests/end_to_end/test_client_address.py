"""A process behind a proxy, and its log lines about clients."""

import asyncio
import json
from contextlib import closing

import httpx

from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, Process, assert_complete_problem
from tests.support.waiting import TIMEOUT

FORWARDED = {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}
POST_WITHOUT_BODY = (
    b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
)


def lines(process: Process, event: str) -> list[dict[str, object]]:
    """Return the lines about an event that the process has logged."""
    logged = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    return [line for line in logged if line["event"] == event]


async def test_clients_of_a_process(start: StartProcess) -> None:
    """A trusted proxy sets the client's address in the log, and makes no client a local one. A rejected connection is logged."""
    process = start(
        "serve",
        "--port=0",
        GATEWAY_ACCESS_LOG="true",
        GATEWAY_TRUSTED_PROXIES='["127.0.0.1"]',
        GATEWAY_MAX_CONNECTIONS="1",
    )
    url = await process.url()
    async with httpx.AsyncClient(base_url=url) as client:
        await client.get("/livez", headers={"X-Forwarded-For": "192.0.2.7"})
        local = await client.get("/readyz")
        proxied = await client.get("/readyz", headers=FORWARDED)
        journal = await client.get("/lifecycle", headers=FORWARDED)
        body = {"temperature_c": 12.5, "condition": "rain"}
        write = await client.post(f"/v1/places/{ZURICH}/observations", json=body, headers=FORWARDED)

    assert [line["client"] for line in lines(process, "access")] == ["192.0.2.7", *["127.0.0.1"] * 4]
    assert "remark" in local.text
    assert "remark" not in proxied.text
    assert_complete_problem(journal, 403)
    assert_complete_problem(write, 403)
    assert "GATEWAY_" not in journal.text + write.text

    port = int(url.rpartition(":")[2])
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with closing(writer):
            writer.write(POST_WITHOUT_BODY)
            await reader.readuntil(b"100 Continue")  # it has a request in flight, so it makes no room
            rejected, rejected_writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(rejected_writer):
                response = await rejected.read()
    assert b" 503 " in response
    await process.wait_for_output('"route": "unmatched"')
    (line,) = [line for line in lines(process, "responses failed") if line["route"] == "unmatched"]
    assert (line["status"], line["count"], line["client"]) == (503, 1, "127.0.0.1")
