"""A private weather upstream: a stand-in for Open-Meteo on machines without internet.

`python -m gateway.devstack.weather --host 127.0.0.1 --port 8080` runs it alone.
"""

import argparse
import os
import pwd
import signal
import ssl
import sys
from pathlib import Path

import httpx
import uvicorn

from gateway.devstack import ports
from gateway.devstack.open_meteo import CallCounts, Faults, create_app
from gateway.devstack.server import Server


class WeatherServer(Server):
    """A private weather upstream, whose faults are set while it runs."""

    name = "Weather"

    @property
    def url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gateway.devstack.weather", "--host", ports.LOOPBACK, "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[2])  # found also when the gateway is not installed
        return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}

    def run_as(self) -> pwd.struct_passwd | None:
        """Ourselves: another user may not be able to read the virtual environment."""
        return None

    async def probe(self) -> bool:
        try:
            await self._ask("GET", "/livez")
        except httpx.HTTPError:
            return False
        return True

    async def set_faults(self, faults: Faults) -> None:
        """Let calls go wrong from now on; `Faults()` ends it."""
        await self._ask("PUT", "/faults", faults.model_dump_json())

    async def calls(self) -> CallCounts:
        """How often forecasts were asked for."""
        return CallCounts.model_validate_json(await self._ask("GET", "/calls"))

    async def reset_calls(self) -> None:
        """Count calls from zero."""
        await self._ask("DELETE", "/calls")

    async def _ask(self, method: str, path: str, body: str | None = None) -> bytes:
        without_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading the certificates would take 20 ms each time
        async with httpx.AsyncClient(base_url=self.url, verify=without_tls, trust_env=False) as client:
            response = await client.request(method, path, content=body)
        return response.raise_for_status().content


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.devstack.weather", description=__doc__)
    parser.add_argument("--host", default=ports.LOOPBACK)
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn stops in order, and then raises it again
    uvicorn.run(
        create_app(),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,  # seconds: calls that wait for their latency are not worth waiting for
    )


if __name__ == "__main__":
    main()
