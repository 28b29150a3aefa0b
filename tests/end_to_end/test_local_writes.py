"""Writes without API keys: only programs on this machine may send them, and no proxy and no web page of another site."""

from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, Process
from tests.end_to_end.test_bad_input import Response, send

BODY = b'{"temperature_c": 12.5, "condition": "rain"}'
LOCAL = "Host: 127.0.0.1:8000\r\n"

ACCEPTED = (
    LOCAL,
    "Host: localhost\r\n",
    "Host: LOCALHOST:8000\r\n",
    "Host: [::1]:8000\r\n",
    "Host: 127.1.2.3\r\n",
    LOCAL + "Origin: http://127.0.0.1:8000\r\n",
    LOCAL + "Origin: https://localhost:3000\r\n",
    LOCAL + "Origin: http://[::1]\r\n",
    LOCAL + "Sec-Fetch-Site: same-origin\r\n",
)
REJECTED = {  # by the name of the header that the response names
    "Host": (
        "",
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 127.0.0.1.evil.example\r\n",
        "Host: 127.0.0.1@evil.example\r\n",
        "Host: evil.example@127.0.0.1\r\n",
        "Host: 0.0.0.0:8000\r\n",
        "Host: 192.0.2.1\r\n",
        "Host: [::]\r\n",
        "Host: localhost:x\r\n",
        "Host:\r\n",
        LOCAL + "Host: evil.example\r\n",
    ),
    "Origin": (
        LOCAL + "Origin: https://evil.example\r\n",
        LOCAL + "Origin: null\r\n",
        LOCAL + "Origin:\r\n",
        LOCAL + "Origin: http://localhost.evil.example\r\n",
        LOCAL + "Origin: chrome-extension://localhost\r\n",
        LOCAL + "Origin: http://localhost\r\nOrigin: http://evil.example\r\n",
    ),
    "Sec-Fetch-Site": (LOCAL + "Sec-Fetch-Site: cross-site\r\n",),
    "Forwarded": (LOCAL + "Forwarded: for=192.0.2.1\r\n",),
    "Via": (LOCAL + "via: 1.1 proxy\r\n",),
    "X-Forwarded-For": (LOCAL + "x-forwarded-for: 127.0.0.1\r\n",),
    "X-Forwarded-Proto": (LOCAL + "X-Forwarded-Proto: http\r\n",),
    "X-Real-Ip": (LOCAL + "X-Real-IP: 127.0.0.1\r\n",),
}


async def post(gateway: Process, headers: str, *, version: str = "1.1", origin: str = "") -> Response:
    """Send an observation with exactly these headers, and those of its body. The target begins with the origin."""
    target = f"{origin}/v1/places/{ZURICH}/observations"
    head = f"POST {target} HTTP/{version}\r\n{headers}Content-Type: application/json\r\n"
    return await send(gateway, f"{head}Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)


async def test_writes_without_keys(start: StartProcess) -> None:
    """A gateway on loopback accepts a write for a loopback host. It rejects one that a proxy or another site has sent, and the
    response names the header, and no setting.
    """
    gateway = start("serve", "--port", "0")
    wrong = [headers for headers in ACCEPTED if (await post(gateway, headers)).status != 201]
    for name, examples in REJECTED.items():
        for headers in examples:
            response = await post(gateway, headers)
            named = f"the header {name} shows" in response.body.decode() and b"GATEWAY_" not in response.body
            if response.status != 403 or not response.is_clear_problem or not named:
                wrong.append(headers)
    for origin, status in (
        ("http://localhost", 201),
        ("http://evil.example", 403),
        ("http://localhost@evil.example", 403),
    ):
        if (await post(gateway, LOCAL, origin=origin)).status != status:
            wrong.append(origin)
    old_version = await post(gateway, LOCAL, version="1.0")

    assert wrong == []
    assert (old_version.status, b"HTTP/1.0" in old_version.body) == (403, True)
