"""The weather upstream as a process of its own."""

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
from tests.devstack.process_probes import takes_connections
from tests.support.waiting import wait_until

ZURICH = {"latitude": 47.36667, "longitude": 8.55}


async def test_faults_are_set_while_it_runs(weather: WeatherServer) -> None:
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


async def test_alone_it_stops_at_once_and_cleanly_with_a_call_in_flight() -> None:
    with ports.reserve() as held:
        port = held.getsockname()[1]
        alone = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.devstack.weather", "--host", "0.0.0.0", "--port", str(port)),  # noqa: S104
            cwd=Path(__file__).parents[2],
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            await wait_until(lambda: takes_connections(port), "it takes connections")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                assert (await client.get("/livez")).json() == {"status": "ok"}
                await client.put("/faults", json={"latency_s": 30})
                in_flight = asyncio.create_task(client.get("/v1/forecast", params=ZURICH))
                while (await client.get("/calls")).json()["calls"] == 0:
                    pass
                alone.send_signal(signal.SIGTERM)
                async with asyncio.timeout(20):
                    printed, _ = await alone.communicate()
                await asyncio.wait([in_flight])
                assert in_flight.exception() or in_flight.result().status_code >= 500
        finally:
            if alone.returncode is None:
                alone.kill()
                await alone.communicate()
    assert alone.returncode == 0
    assert b"GET /" not in printed
