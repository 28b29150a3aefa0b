"""The page at `/` and the documentation at `/docs`: their files, and the headers that keep a browser from other hosts."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import gateway.page
from gateway.app import create_app
from gateway.settings import Settings
from tests.serving.running_server import running_server

STATIC = Path(gateway.page.__file__).parent / "static"
PAGES = {"/": "text/html", "/docs": "text/html"}
FILES = {
    "/page/page.css": "text/css",
    "/page/page.js": "text/javascript",
    "/docs/start.js": "text/javascript",
    "/docs/swagger-ui-bundle.js": "text/javascript",
    "/docs/swagger-ui.css": "text/css",
    "/docs/favicon.png": "image/png",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REFERENCE = re.compile(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose lifespan is not active: the files need no backend."""
    async with (
        running_server(create_app(Settings())) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


@pytest.mark.parametrize(("path", "media_type"), (PAGES | FILES).items())
async def test_file(client: httpx.AsyncClient, path: str, media_type: str) -> None:
    """Each file has its media type and the headers for security. It is confirmed before each use, also with HEAD."""
    response = await client.get(path)
    head = await client.head(path)
    again = await client.get(path, headers={"If-None-Match": response.headers["ETag"]})

    assert (response.status_code, head.status_code, again.status_code) == (200, 200, 304)
    assert response.headers["Content-Type"].split(";")[0] == media_type
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Content-Security-Policy"] == POLICY
    assert int(head.headers["Content-Length"]) == len(response.content) > 0
    assert head.content == again.content == b""


@pytest.mark.parametrize("path", PAGES)
async def test_references(client: httpx.AsyncClient, path: str) -> None:
    """A page refers only to files that the gateway has, without its own host and prefix. It has no script and no style inside."""
    html = (await client.get(path)).text
    references = [it for it in REFERENCE.findall(html) if not it.startswith(("#", "data:"))]
    statuses = {it: (await client.get(f"{path}/../{it}")).status_code for it in references}

    assert len(references) >= 2
    assert set(statuses.values()) == {200}
    assert [it for it in references if it.startswith(("/", "http:", "https:"))] == []
    assert re.findall(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", html) == []


@pytest.mark.parametrize(
    "path", ["/page/", "/page/nothing.js", "/page/..%2F__init__.py", "/docs/__init__.py", "/docs/"]
)
async def test_unknown_file(client: httpx.AsyncClient, path: str) -> None:
    """A path without a file is a problem, and no path leads out of the folder."""
    response = await client.get(path)

    assert (response.status_code, response.json()["type"]) == (404, "/problems/unknown-path")


async def test_no_page() -> None:
    """With `GATEWAY_PAGE=false`, there is no page. The documentation stays."""
    async with (
        running_server(create_app(Settings(page=False))) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        statuses = [(await client.get(path)).status_code for path in ("/", "/page/page.js", "/docs")]

    assert statuses == [404, 404, 200]


def test_static_files() -> None:
    """Each file in the folder of the page has a media type, and none is large."""
    files = [path for path in STATIC.iterdir() if path.is_file()]

    assert {path.suffix for path in files} <= {".html", ".css", ".js", ".svg", ".png"}
    assert all(path.stat().st_size < 100_000 for path in files)
