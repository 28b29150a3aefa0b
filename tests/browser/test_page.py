"""The page at `/` in a real browser, with a real gateway, worker and servers."""

import re
import time
from signal import SIGTERM
from typing import Literal

import httpx
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, ViewportSize, expect

from gateway.devstack.stack import Devstack
from gateway.process.exit_status import ExitStatus
from tests.browser.conftest import DESKTOP, BrowserTab
from tests.end_to_end.conftest import StartProcess
from tests.support.entries import ENTRIES
from tests.support.waiting import wait_until

PHONE: ViewportSize = {"width": 360, "height": 780}
VARIANTS: list[tuple[str, Literal["light", "dark"], ViewportSize]] = [
    ("light", "light", DESKTOP),
    ("dark", "dark", DESKTOP),
    ("phone-dark", "dark", PHONE),
    ("phone", "light", PHONE),
]
MAX_DELAY = 2.0  # seconds from a change of a server until the page shows it
KEYS = {
    "GATEWAY_OPERATOR_KEYS": '["operator:the-secret-of-an-operator"]',
    "GATEWAY_API_KEYS": '["alice:the-secret-of-alice"]',
}

# Records each state that a plate shows, in order.
RECORD_STATES = """() => {
    window.shown = [];
    for (const label of document.querySelectorAll(".plate .label")) {
        const entry = label.closest(".plate").dataset.entry;
        new MutationObserver(() => window.shown.push(`${label.textContent} ${entry}`))
            .observe(label, {childList: true, characterData: true, subtree: true});
    }
    const phase = document.getElementById("phase");
    new MutationObserver(() => window.shown.push(phase.textContent)).observe(phase, {childList: true});
}"""


async def axe_report(page: Page) -> str:
    """Return the violations that axe-core finds, or an empty text."""
    results = await Axe().run(page)
    return results.generate_report() if results.violations_count else ""


async def wait_for_condition(tab: BrowserTab, entry: str, condition: str) -> float:
    """Wait until the plate of an entry shows a condition. Return the seconds that it took."""
    started_at = time.monotonic()

    async def is_shown() -> bool:
        return await tab.condition(entry) == condition

    await wait_until(is_shown, f"{entry} is {condition}")
    return time.monotonic() - started_at


class TestBrief:
    async def test_search_with_the_keyboard(self, tab: BrowserTab) -> None:
        """A search finds places, Enter chooses the first one, and its brief has all sections with their durations."""
        page = tab.page
        await page.focus("#search-field")
        await page.keyboard.type("lugan")
        await expect(page.locator("#search-results button").first).to_contain_text("Lugano")
        await page.keyboard.press("Enter")
        await expect(page.locator("#place-name")).to_have_text("Lugano")
        await expect(page.locator("#brief-status .label")).to_have_text("complete")
        sections = page.locator(".brief-section")

        assert await sections.locator("h4").all_inner_texts() == ["weather", "outlook", "observations", "popularity"]
        assert await sections.locator(".label").all_inner_texts() == ["ok"] * 4
        assert all(text.endswith(" ms") for text in await sections.locator(".took").all_inner_texts())
        assert "°C" in await page.inner_text("[data-section=weather] .data")
        assert await page.locator("#search-results button").count() == 0

    async def test_reported_observation(self, tab: BrowserTab) -> None:
        """A report appears in the brief as text, whatever it contains, and the worker counts it."""
        page = tab.page
        before = int(await page.inner_text("#observation-count"))
        await page.fill("#note", "<img src=x> wet")
        await page.click("#observation button")
        await expect(page.locator("#observation-result")).to_have_text(f"Counted: {before} → {before + 1}")
        await page.click("#brief-live")
        await expect(page.locator("[data-section=observations] .data")).to_contain_text("“<img src=x> wet”")

        assert await page.inner_text("#observation-count") == str(before + 1)
        assert await page.inner_text("#outbox-parked") == "0"


class TestAccess:
    async def test_accessibility(self, tab: BrowserTab) -> None:
        """axe-core finds nothing, light or dark, on a desktop or a phone, and no page scrolls sideways."""
        page = tab.page
        await page.fill("#note", "since noon")
        await page.click("#observation button")
        await expect(page.locator("#observation-result")).to_contain_text("Counted")
        reports: list[str] = []
        for name, scheme, viewport in VARIANTS:
            await page.set_viewport_size(viewport)
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            reports.append(await axe_report(page))
            overflow = await page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            reports.append(f"{name} scrolls sideways" if overflow > 0 else "")
            await tab.take_image(name, full_page=viewport is DESKTOP)

        assert [report for report in reports if report] == []

    async def test_skip_link(self, tab: BrowserTab) -> None:
        """The first tab stop leads to the content, and the link is visible while it has the focus."""
        await tab.page.keyboard.press("Tab")
        link = tab.page.locator(":focus")
        text, box = await link.inner_text(), await link.bounding_box()
        await tab.page.keyboard.press("Enter")

        assert text == "Skip to the content"
        assert box is not None
        assert box["y"] >= 0
        assert await tab.page.evaluate("document.activeElement.id") == "main"

    async def test_keys(self, page: Page, start: StartProcess) -> None:
        """With keys configured, the page requests that of an operator for the stream, and an API key for a report, but none for a brief."""
        tab = BrowserTab(page, await start("serve", "--port", "0", **KEYS).url())
        await page.goto(tab.url)
        field, problem = page.locator("#operator-key-field"), page.locator("#operator-key-problem")
        await expect(problem).to_contain_text("This path is for operators")
        await expect(page.locator("#brief-status .label")).to_have_text("complete")
        await field.fill("a-wrong-key")
        await page.keyboard.press("Enter")
        await expect(field).to_have_value("")
        await field.fill("a-key-that-no-header-carries-€")
        await page.keyboard.press("Enter")
        await expect(field).not_to_have_value("")
        await field.fill("the-secret-of-an-operator")
        await page.keyboard.press("Enter")
        await expect(page.locator("#stream")).to_have_text("live")
        await expect(field).to_be_hidden()

        await page.click("#observation button")
        await expect(page.locator("#observation-result")).to_contain_text("Send the secret of an API key")
        await page.fill("#api-key", "the-secret-of-alice")
        await page.click("#observation button")
        await expect(page.locator("#observation-result")).to_have_text(re.compile("^(Stored|Counted)"))

        assert [error for error in tab.errors if "401 (Unauthorized)" not in error] == []

    async def test_refused_stream(self, page: Page, gateway_url: str) -> None:
        """The page shows why the gateway refuses its stream, until it gets one."""
        await page.route(
            "**/lifecycle/events?*",
            lambda route: route.fulfill(status=503, json={"detail": "100 clients watch this gateway already."}),
            times=1,
        )
        await page.goto(gateway_url)
        await expect(page.locator("#notice")).to_have_text("100 clients watch this gateway already.")
        await expect(page.locator("#stream")).to_have_text("live")

        await expect(page.locator("#notice")).to_have_text("")


class TestStack:
    async def test_entries_and_journal(self, tab: BrowserTab) -> None:
        """There is a plate for each entry in the order of the stack, a bar in the timeline, and the journal as a table."""
        page = tab.page
        async with httpx.AsyncClient() as client:
            journal = (await client.get(tab.url + "/lifecycle")).json()["items"]
        await page.click("#journal summary")

        assert await page.locator(".plate h3").all_inner_texts() == list(ENTRIES)
        assert await page.locator(".plate .label").all_inner_texts() == ["active"] * len(ENTRIES)
        assert await page.locator("#timeline .name").all_text_contents() == list(ENTRIES)
        assert await page.locator("#timeline .startup rect.entering").count() == len(ENTRIES)
        assert await page.locator("#journal tbody tr").count() == len(journal)
        assert await page.inner_text("#phase") == "started"

    async def test_killed_server(self, tab: BrowserTab, servers: Devstack) -> None:
        """A button kills a server: its plate and its section show that after at most two seconds. A restart recovers both."""
        page = tab.page
        plate = page.locator("[data-entry=redis]")
        popularity = page.locator("[data-section=popularity] .label")
        try:
            async with page.expect_response("**/dev/servers/redis/kill"):
                await plate.get_by_role("button", name="kill").click()
            killed_at = time.monotonic()
            await wait_for_condition(tab, "redis", "check fails")
            await expect(popularity).to_contain_text("unavailable")
            shown_after = time.monotonic() - killed_at
            await expect(plate.get_by_role("button")).to_have_text(["restart"])
            failing_bars = await page.locator("#timeline rect.failing").count()
            report = await axe_report(page)
            await tab.take_image("outage")
            await plate.get_by_role("button", name="restart").click()
            await expect(plate.get_by_role("button")).to_have_text(["suspend", "kill", "restart"])
            returned_after = await wait_for_condition(tab, "redis", "active")
        finally:
            if not servers.redis.running:
                await servers.redis.start()
        await expect(popularity).to_have_text("ok")

        assert shown_after < MAX_DELAY
        assert returned_after < MAX_DELAY
        assert failing_bars > 0
        assert report == ""
        assert "Connect call failed" in await page.inner_text("[data-entry=redis] .last-error")

    async def test_stop(self, page: Page, start: StartProcess) -> None:
        """The page shows the drain and the teardown in reverse order, and connects to the next gateway on the same port."""
        process = start("serve", "--port", "0", GATEWAY_INSTANCE="gateway", GATEWAY_DRAIN_SECONDS="0.3")
        tab = BrowserTab(page, await process.url())
        await tab.open()
        buttons = await page.locator(".plate button").count()
        tab.assert_no_errors()
        await page.evaluate(RECORD_STATES)
        process.send_signal(SIGTERM)
        await expect(page.locator("#notice")).to_contain_text("stopped with exit status 0")
        shown = await page.evaluate("() => window.shown")
        scale = await page.locator("#timeline .stop .tick-label").all_text_contents()
        report = await axe_report(page)
        await tab.take_image("stop")

        assert buttons == 0  # no servers of `gateway dev`
        assert await process.exit_status() == ExitStatus.OK
        assert [state for state in shown if state.startswith("exited ")] == [f"exited {it}" for it in reversed(ENTRIES)]
        assert shown.index("draining") < shown.index("stopping") < shown.index("exited http") < shown.index("stopped")
        assert await page.locator("#timeline .stop rect.exiting").count() == len(ENTRIES)
        assert all(re.fullmatch(r"0|\d+ ms|[\d.]{1,4} s", label) for label in scale), scale
        assert report == ""

        start("serve", "--port", tab.url.rsplit(":")[-1], GATEWAY_INSTANCE="next")
        await expect(page.locator("#instance")).to_have_text("next")

        assert await page.locator(".plate .label").all_inner_texts() == ["active"] * len(ENTRIES)
        assert await page.locator("#timeline .stop").count() == 0
        assert await page.inner_text("#notice") == ""
        assert [error for error in tab.errors if "ERR_CONNECTION_REFUSED" not in error] == []
