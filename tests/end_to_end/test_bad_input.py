"""What people and programs send by mistake or on purpose, to the real process: a clear answer each, and memory stays flat."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Start
from tests.end_to_end.harness import ZURICH, Process
from tests.support.waiting import TIMEOUT

MANY_IDS = "&".join(f"place={number}" for number in range(1, 1001))
DEEP = b"[" * 500_000
BODY_LIMIT = 1024 * 1024


def get(target: str, *, headers: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n{headers}\r\n".encode()


def post(body: bytes, *, kind: str = "application/json") -> bytes:
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    head = b"POST /v1/predictions HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


REQUESTS = {
    "a thousand places": (get(f"/v1/briefs?{MANY_IDS}"), 422),
    "a body where there is none": (get("/livez", headers="Content-Length: 5\r\n") + b"12345", 200),
    "a place that is no number": (get("/v1/briefs?place=NaN"), 422),
    "an id of many digits": (get(f"/v1/places/{'9' * 5000}/brief"), 422),
    "a long query": (get("/v1/places?q=" + "a" * 60_000), 422),
    "bytes that are no text": (get("/v1/places?q=%ff%fe%00"), 200),
    "an unknown path of any kind": (get("/" + "%2e%2e/" * 100), 404),
    "many parameters": (get("/v1/places?" + "&".join(f"x{number}=1" for number in range(5000))), 200),
    "many headers": (get(f"/v1/places/{ZURICH}", headers="".join(f"X-{number}: 1\r\n" for number in range(500))), 200),
    "deep JSON": (post(DEEP), 400),
    "numbers that are none": (post(b'{"days": [NaN, Infinity, -Infinity]}'), 422),
    "a number of many digits": (post(b'{"days": [' + b"9" * 100_000 + b"]}"), 400),
    "a hundred thousand mistakes": (post(b'{"days": [' + b"1," * 100_000 + b"1]}"), 422),
    "half a surrogate": (post(b'{"days": ["\\ud800"]}'), 422),
    "bytes for JSON": (post(b"\xff\xfe\x00"), 400),
    "a form": (post(b"days=1", kind="application/x-www-form-urlencoded"), 422),
    "no kind of body": (post(b"{}", kind=""), 422),
    "a body that is too large": (post(b" " * (BODY_LIMIT + 1)), 413),
    "one that is ten times too large": (post(b" " * 10 * BODY_LIMIT), 413),
    "the same without its length": (chunked(b" " * (BODY_LIMIT + 1)), 413),
}


async def answer(gateway: Process, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are. Return status, headers and body."""
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
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def resident_mib(gateway: Process) -> float:
    """How much memory the process has."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def test_bad_input_has_a_clear_answer(gateway_process: Process) -> None:
    wrong = {}
    for what, (request, expected) in REQUESTS.items():
        status, headers, body = await answer(gateway_process, request)
        told = status < 400 or is_clear(status, headers, body)
        if status != expected or not told or not headers["x-request-id"] or len(body) > 20_000:
            wrong[what] = status, headers, body[:500]

    assert wrong == {}
    assert (await answer(gateway_process, get("/livez")))[0] == 200


def is_clear(status: int, headers: dict[str, str], body: bytes) -> bool:
    """Whether it is a problem that says what to do."""
    if headers["content-type"] != "application/problem+json":
        return False
    problem = json.loads(body)
    return problem["status"] == status and bool(problem["detail"])


async def test_bad_input_leaves_memory_as_it_was(gateway_process: Process) -> None:
    async def send_all(times: int) -> None:
        for _ in range(times):
            for request, _ in REQUESTS.values():
                await answer(gateway_process, request)

    await send_all(3)  # what is made once is made now
    before = resident_mib(gateway_process)
    await send_all(20)

    assert resident_mib(gateway_process) - before < 8


@pytest.fixture
async def gateway_process(start: Start) -> Process:
    process = start("serve", "--port", "0")
    await process.url()
    return process
