"""Bad input, sent by accident or on purpose to a real gateway process: the responses are clear, and memory does not grow."""

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.api.predictions import MAX_BODY_BYTES
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, Process
from tests.support.waiting import TIMEOUT

THOUSAND_IDS = "&".join(f"place={number}" for number in range(1, 1001))
NESTED_LISTS = b"[" * MAX_BODY_BYTES
MAX_RESPONSE_BYTES = 20_000
MAX_GROWTH_MIB = 8


def get(target: str, *, headers: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{headers}\r\n".encode()


def post(body: bytes, *, content_type: str = "application/json") -> bytes:
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def post_chunked(body: bytes) -> bytes:
    head = b"POST /v1/predictions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    return head + b"Content-Type: application/json\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


REQUESTS = {
    "1,000 places": (get(f"/v1/briefs?{THOUSAND_IDS}"), 422),
    "body of a GET": (get("/livez", headers="Content-Length: 5\r\n") + b"12345", 200),
    "place that is not a number": (get("/v1/briefs?place=NaN"), 422),
    "place of 5,000 digits": (get(f"/v1/places/{'9' * 5000}/brief"), 422),
    "long query": (get("/v1/places?q=" + "a" * 30_000), 422),
    "long request line": (get("/v1/places?q=" + "a" * 60_000), 431),
    "long header": (get("/livez", headers=f"X: {'a' * 300_000}\r\n"), 431),
    "not HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
    "query that is not UTF-8": (get("/v1/places?q=%ff%fe%00"), 200),
    "path traversal": (get("/" + "%2e%2e/" * 100), 404),
    "4,000 parameters": (get("/v1/places?" + "&".join(f"x{number}=1" for number in range(4000))), 422),
    "500 headers": (get(f"/v1/places/{ZURICH}", headers="".join(f"X-{number}: 1\r\n" for number in range(500))), 200),
    "nested JSON": (post(NESTED_LISTS), 400),
    "NaN and Infinity": (post(b'{"days": [NaN, Infinity, -Infinity]}'), 422),
    "number of 100,000 digits": (post(b'{"days": [' + b"9" * 100_000 + b"]}"), 400),
    "50,000 errors": (post(b'{"days": [' + b"1," * 50_000 + b"1]}"), 422),
    "half a surrogate pair": (post(b'{"days": ["\\ud800"]}'), 422),
    "bytes that are not JSON": (post(b"\xff\xfe\x00"), 400),
    "form": (post(b"days=1", content_type="application/x-www-form-urlencoded"), 415),
    "large body of another type": (post(b"a" * MAX_BODY_BYTES, content_type="text/plain"), 415),
    "empty content type": (post(b"{}", content_type=""), 415),
    "body over the limit": (post(b" " * (MAX_BODY_BYTES + 1)), 413),
    "body of 10 MiB": (post(b" " * 10 * 1024 * 1024), 413),
    "chunked body over the limit": (post_chunked(b" " * (MAX_BODY_BYTES + 1)), 413),
}


class Response(NamedTuple):
    status: int
    headers: dict[str, str]  # all in lower case
    body: bytes

    @property
    def is_clear_problem(self) -> bool:
        """True if the body is a problem (RFC 9457) with the status, a detail and the id of the request."""
        if self.headers["content-type"] != "application/problem+json":
            return False
        problem = json.loads(self.body)
        return (
            problem["status"] == self.status
            and bool(problem["detail"])
            and problem["request_id"] == self.headers["x-request-id"]
        )


async def send(gateway: Process, request: bytes) -> Response:
    """Send the bytes of a request on a new connection and return the response."""
    _, _, address = (await gateway.url()).partition("://")
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(TIMEOUT):
            content = await reader.read()
    finally:
        writer.close()
    head, _, body = content.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Response(int(status_line.split()[1]), headers, body)


def resident_mib(process: Process) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.fixture
async def gateway_process(start: StartProcess) -> Process:
    process = start("serve", "--port", "0")
    await process.url()
    return process


async def test_bad_input_has_a_clear_response(gateway_process: Process) -> None:
    """Bad input has the expected status, a request ID and a short body, which is a problem if the request fails."""
    unexpected = {}
    for name, (request, expected_status) in REQUESTS.items():
        response = await send(gateway_process, request)
        is_clear = response.status < 400 or response.is_clear_problem
        is_short = len(response.body) <= MAX_RESPONSE_BYTES
        if response.status != expected_status or not is_clear or not is_short or not response.headers["x-request-id"]:
            unexpected[name] = response.status, response.headers, response.body[:500]

    assert unexpected == {}
    assert (await send(gateway_process, get("/livez"))).status == 200


async def test_bad_input_does_not_leak_memory(gateway_process: Process) -> None:
    """Twenty repetitions of all bad input hardly increase the memory of the process."""

    async def send_all(times: int) -> float:
        """Return the largest memory: it falls when the garbage collector runs, which is once in about fifteen repetitions."""
        memory = []
        for _ in range(times):
            for request, _ in REQUESTS.values():
                await send(gateway_process, request)
            memory.append(resident_mib(gateway_process))
        return max(memory)

    before = await send_all(50)  # fills the caches and pools, and the older generations of the garbage collector

    assert await send_all(20) - before < MAX_GROWTH_MIB
