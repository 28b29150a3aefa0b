"""A client that clientele generates from the OpenAPI calls a running gateway."""

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key
from tests.end_to_end.harness import ZURICH, running_gateway
from tests.serving.running_server import running_server

NAME = "generated_client"
KEY = "a-key-of-this-test"


async def generate(description: object, folder: Path) -> None:
    """Generate the client as a package in a folder."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(description))
    arguments = ["start-api", "--asyncio", "--file", str(path), "--output", str(folder / NAME)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from clientele.cli import cli_group; cli_group()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.fixture
async def client(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModuleType]:
    """The generated client, with the URL and a key of a gateway in this process."""
    settings = settings.model_copy(update={"api_keys": (parse_api_key(f"alice:{KEY}"),)})
    async with running_gateway(settings) as gateway, running_server(gateway.app) as server:
        await generate((await gateway.client.get("/openapi.json")).json(), tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("BASE_URL", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("HEADERS", json.dumps({"Authorization": f"Bearer {KEY}"}))
        generated = importlib.import_module(f"{NAME}.client")
        yield generated
        await generated.client.aclose()
    for module in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[module]


async def test_generated_client(client: ModuleType) -> None:
    """The client finds a place, gets its brief, reports an observation, and gets a problem, all as objects of the schemas."""
    schemas = client.schemas

    (place,) = (await client.list_places(q="Zürich", limit=1)).items
    brief = await client.get_brief(place_id=place.id)
    observation = await client.report_observation(
        place_id=place.id, data=schemas.ObservationCreate(temperature_c=12.5, condition="rain")
    )
    problem = await client.get_brief(place_id=1)

    assert (type(place), place.id) == (schemas.Place, ZURICH)
    assert (type(brief), brief.place, brief.sections.weather.status) == (schemas.Brief, place, schemas.Status.OK)
    assert (type(observation), observation.condition) == (schemas.Observation, "rain")
    assert (type(problem), problem.status) == (schemas.Problem, 404)
    # The attribute is `type_` from Python 3.12 on, where `type` is a soft keyword.
    assert problem.model_dump(by_alias=True)["type"] == "/problems/unknown-place"
