"""The weather upstream as a child process."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import httpx
import pytest

from gateway.devstack import ports
from gateway.devstack.open_meteo import CallCounts, Faults
from gateway.devstack.weather import WeatherServer
from tests.devstack.process_probes import accepts_connections
from tests.support.waiting import wait_until

ZURICH = {"latitude": 47.36667, "longitude": 8.55}


async def test_faults_change_while_it_runs(weather: WeatherServer) -> None:
    """A status, a latency and their end take effect with the next call; all calls are counted."""
    async with httpx.AsyncClient(base_url=weather.url) as client:
        assert (await client.get("/v1/forecast", params=ZURICH)).status_code == 200
        await weather.set_faults(Faults(status=503))
        assert (await client.get("/v1/forecast", params=ZURICH)).status_code == 503
        await weather.set_faults(Faults(latency_s=30))
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/v1/forecast", params=ZURICH, timeout=0.2)
        await weather.set_faults(Faults())
        assert (await client.get("/v1/forecast", params=ZURICH)).status_code == 200
    assert await weather.calls() == CallCounts(calls=4, places=3, failed=1)


async def test_sigterm_with_a_call_in_flight() -> None:
    """As a program, it exits with 0 soon after SIGTERM, although a call is in flight, and logs no requests."""
    with ports.reserve() as reserved:
        port = reserved.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.devstack.weather", "--host", "0.0.0.0", "--port", str(port)),  # noqa: S104
            cwd=Path(__file__).parents[2],
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            await wait_until(lambda: accepts_connections(port), "it accepts connections")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.get("/livez")).json() == {"status": "ok"}
                await client.put("/faults", json={"latency_s": 30})
                in_flight = asyncio.create_task(client.get("/v1/forecast", params=ZURICH))

                async def call_is_in_flight() -> bool:
                    return bool((await client.get("/calls")).json()["calls"])

                await wait_until(call_is_in_flight, "the call is in flight")
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(20):
                    printed, _ = await process.communicate()
                await asyncio.wait([in_flight])
                assert in_flight.exception() or in_flight.result().status_code >= 500
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
    assert process.returncode == 0
    assert b"GET /" not in printed
