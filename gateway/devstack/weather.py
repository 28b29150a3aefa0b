"""A private weather upstream: a fake Open-Meteo for machines without internet.

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
    """A private weather upstream. Its faults can be changed while it runs."""

    name = "Weather"
    url_variable = "GATEWAY_HTTP__WEATHER_URL"

    @property
    def url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gateway.devstack.weather", "--host", ports.LOOPBACK, "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[2])  # the gateway need not be installed
        return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}

    def run_as(self) -> pwd.struct_passwd | None:
        """Return None, for the current user: another one may not be able to read the virtual environment."""
        return None

    async def probe(self) -> bool:
        try:
            await self._request("GET", "/livez")
        except httpx.HTTPError:
            return False
        return True

    async def set_faults(self, faults: Faults) -> None:
        """Inject faults into the calls from now on; `Faults()` has none."""
        await self._request("PUT", "/faults", faults.model_dump_json())

    async def calls(self) -> CallCounts:
        """Return how many forecasts were requested."""
        return CallCounts.model_validate_json(await self._request("GET", "/calls"))

    async def reset_calls(self) -> None:
        """Reset the counts to zero."""
        await self._request("DELETE", "/calls")

    async def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        without_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the default context loads certificates for 20 ms
        async with httpx.AsyncClient(base_url=self.url, verify=without_tls, trust_env=False) as client:
            response = await client.request(method, path, content=body)
        return response.raise_for_status().content


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.devstack.weather", description=__doc__)
    parser.add_argument("--host", default=ports.LOOPBACK)
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn shuts down and then raises the signal again
    uvicorn.run(
        create_app(),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,  # do not wait for calls with an injected latency
    )


if __name__ == "__main__":
    main()
