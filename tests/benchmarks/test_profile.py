"""The profile calls the app as a server does, and attributes CPU time to libraries."""

import asyncio

from starlette.types import Receive, Scope, Send

from benchmarks.profile import BUILT_IN, Functions, cpu_us_by_library, library_of, send_request

GATEWAY_FUNCTION = ("/somewhere/gateway/briefs/service.py", 1, "get")
FASTAPI_FUNCTION = ("/env/lib/site-packages/fastapi/routing.py", 1, "app")
SORTED = (BUILT_IN, 0, "<built-in method builtins.sorted>")


def test_built_ins_count_for_their_caller() -> None:
    """The time of a built-in function is added to the libraries that call it."""
    functions: Functions = {
        GATEWAY_FUNCTION: (1, 1, 0.002, 0.005, {}),
        FASTAPI_FUNCTION: (1, 1, 0.003, 0.003, {}),
        SORTED: (
            3,
            3,
            0.004,
            0.004,
            {GATEWAY_FUNCTION: (1, 1, 0.003, 0.003), FASTAPI_FUNCTION: (2, 2, 0.001, 0.001)},
        ),
    }

    assert cpu_us_by_library(functions) == {"the gateway": 5000, "FastAPI, Starlette, Pydantic": 4000}


def test_file_counts_for_the_innermost_package() -> None:
    """A path may contain several known packages: the last one counts."""
    assert library_of("/home/gateway/.venv/lib/site-packages/starlette/routing.py") == "FastAPI, Starlette, Pydantic"
    assert library_of("/home/user/gateway/app.py") == "the gateway"
    assert library_of("/usr/lib/python3.11/json/decoder.py") == "the rest"


async def test_client_stays_connected() -> None:
    """After the empty body nothing arrives, as from a server. A second message would keep the app's disconnect check busy."""

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        second = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait({second}, timeout=0.01)
        assert not done
        second.cancel()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    await send_request(app, "/")
