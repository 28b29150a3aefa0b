"""Fixtures: a gateway as a process, and the page of it in a browser (Debian's Chromium, driven by Playwright)."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, ConsoleMessage, Page, Request, ViewportSize, async_playwright, expect

from gateway.devstack.control import ServerControl
from gateway.devstack.control_socket import serve_control
from gateway.devstack.stack import Devstack
from gateway.process.listener import bind_socket
from tests.end_to_end.conftest import environment, instance, run, start
from tests.end_to_end.harness import Process
from tests.support.waiting import TIMEOUT

__all__ = ["environment", "instance", "run", "start"]

IMAGES = os.environ.get("PAGE_IMAGES")  # the folder for the images of docs/page.md

# A busy machine delays no brief so much. The images show the default.
TIMEOUTS = {} if IMAGES else {"GATEWAY_BRIEF_TIMEOUT": "8"}

DESKTOP: ViewportSize = {"width": 1280, "height": 900}

ARGUMENTS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-lcd-text",  # smaller images
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class BrowserTab:
    """The page of a gateway in a tab, with what the browser reports.

    Attributes:
        page: drives the tab.
        url: of the gateway.
        errors: the errors on the console, and the exceptions of scripts.
        requested: the URLs of all requests.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.requested: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(f"{message.text} {message.location['url']}")

    def _on_request(self, request: Request) -> None:
        self.requested.append(request.url)

    async def open(self) -> None:
        """Load the page, and wait until it shows all entries and a brief."""
        await self.page.goto(self.url)
        await self.page.wait_for_selector("#stream[data-tone=ok]")
        await self.page.wait_for_selector(".brief-section")

    async def condition(self, entry: str) -> str:
        """Return the state on the plate of an entry."""
        return await self.page.inner_text(f".plate[data-entry={entry}] .label")

    async def take_image(self, name: str, *, full_page: bool = True) -> None:
        """Save an image of the page to the folder in `PAGE_IMAGES`, if it is set. With 256 colours it is a third as large."""
        if IMAGES:
            image = Image.open(BytesIO(await self.page.screenshot(full_page=full_page))).convert("RGB")
            image = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
            image.save(Path(IMAGES) / f"page-{name}.png", optimize=True)

    def assert_no_errors(self) -> None:
        """Assert that no error is on the console, and that no request went to another host."""
        assert self.errors == []
        assert [url for url in self.requested if not url.startswith((self.url, "data:"))] == []


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    return TIMEOUTS


@pytest.fixture(scope="session")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """Chromium without a window."""
    del anyio_backend
    path = shutil.which("chromium")
    assert path, "chromium is not installed; on Debian: apt-get install chromium"
    expect.set_options(timeout=TIMEOUT * 1000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """An empty tab with a storage of its own."""
    context = await browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    yield await context.new_page()
    await context.close()


@pytest.fixture(scope="module")
async def gateway_url(
    servers: Devstack, devstack_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The URL of a gateway as `gateway dev` runs it: with its worker, and with the control of its servers."""
    control = tmp_path_factory.mktemp("control") / "socket"

    def start_process(*command: str, descriptors: Sequence[int] = ()) -> Process:
        return Process(
            tmp_path_factory.mktemp(command[0]),
            servers.environment() | TIMEOUTS,
            "-m",
            "gateway",
            *command,
            stack_folder=devstack_folder,
            descriptors=descriptors,
        )

    async with serve_control(ServerControl(servers.by_name), control), AsyncExitStack() as processes:
        with bind_socket("127.0.0.1", 0) as listener:
            gateway = start_process("serve-dev", str(listener.fileno()), str(control), descriptors=[listener.fileno()])
        processes.callback(gateway.kill)
        processes.callback(start_process("worker").kill)
        yield await gateway.url()


@pytest.fixture
async def tab(page: Page, gateway_url: str) -> AsyncIterator[BrowserTab]:
    """The page of the gateway, without errors from the begin to the end of the test."""
    tab = BrowserTab(page, gateway_url)
    await tab.open()
    yield tab
    tab.assert_no_errors()
