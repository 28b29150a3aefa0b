"""The stack as people run it: what they see through HAProxy while a backend or a replica goes away and comes back."""

import faulthandler
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.compose.compose import ROOT, Compose
from tests.support.waiting import wait_until_equal

pytestmark = pytest.mark.compose

REPLICAS = 2
SECTIONS = {"weather", "outlook", "observations", "popularity"}
DAY = {
    "precipitation_mm": 0,
    "temperature_max_c": 20,
    "temperature_min_c": 10,
    "wind_m_s": 3,
    "date": "2026-06-01",
    "latitude": 47.4,
}


class Stack:
    """A stack that is up, seen through HAProxy."""

    def __init__(self, compose: Compose, client: httpx.Client) -> None:
        self.compose = compose
        self.client = client
        self.place = client.get("/v1/places", params={"q": "Zürich"}).json()["items"][0]["id"]

    def brief(self) -> httpx.Response:
        return self.client.get(f"/v1/places/{self.place}/brief")

    def observation_count(self) -> int:
        count: int = self.client.get(f"/v1/places/{self.place}").json()["observation_count"]
        return count

    def unavailable(self) -> set[str]:
        """The sections that are missing from any of several briefs: each replica is asked."""
        briefs = [self.brief().raise_for_status().json() for _ in range(2 * REPLICAS)]
        return {
            name
            for brief in briefs
            for name, section in brief["sections"].items()
            if section["status"] == "unavailable"
        }

    def readiness(self) -> tuple[int, str, list[str]]:
        """What /readyz says: the status, of the answer and in it, and the resources that are away."""
        answer = self.client.get("/readyz")
        report = answer.json()
        away = [name for name, check in report.get("checks", {}).items() if check["status"] != "ok"]
        if away:
            print(answer.text)  # noqa: T201 - pytest shows it with a failure: it says why
        return answer.status_code, report["status"], away

    def replicas(self) -> set[str]:
        """Those that answer, told apart by when they began."""
        answers = [self.client.get("/lifecycle") for _ in range(5 * REPLICAS)]
        return {answer.json()["began_at"] for answer in answers if answer.is_success}

    @contextmanager
    def asked_all_the_time(self) -> Iterator["Counter[str]"]:
        """Let predictions be asked for while this is entered. Count how they ended: by status, or by what was raised.

        They are POSTs, which HAProxy never asks twice, and they need no backend: one that fails was lost with its replica.
        """
        ends: Counter[str] = Counter()
        enough = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.client.base_url, trust_env=False, timeout=10) as client:
                while not enough.wait(0.02):
                    try:
                        end = str(client.post("/v1/predictions", json={"days": [DAY]}).status_code)
                    except httpx.HTTPError as error:
                        end = repr(error)
                    ends[end] += 1

        with ThreadPoolExecutor() as threads:
            asking = [threads.submit(ask) for _ in range(4)]
            try:
                yield ends
            finally:
                enough.set()
        for each in asking:
            each.result()


@pytest.fixture(autouse=True)
def no_limit() -> None:
    """Do without pytest's limit on a test, which ends the process and would leave the stack up: every wait has its own."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def stack(anyio_backend: str) -> Iterator[Stack]:
    del anyio_backend
    faulthandler.cancel_dump_traceback_later()  # this comes before the fixture above
    compose = Compose()
    try:
        try:
            compose.up("--scale", f"gateway={REPLICAS}")
        except BaseException:
            print(compose.run("logs", "--tail", "50"))  # noqa: T201 - pytest shows it with the failure
            raise
        with httpx.Client(base_url=f"http://127.0.0.1:{compose.port}", trust_env=False, timeout=10) as client:
            yield Stack(compose, client)
    finally:
        compose.down()


def test_every_replica_is_ready_and_answers_with_a_complete_brief(stack: Stack) -> None:
    brief = stack.brief()

    assert stack.readiness() == (200, "ok", [])
    assert brief.json()["complete"] is True
    assert brief.headers["Gateway-Complete"] == "true"
    assert set(brief.json()["sections"]) == SECTIONS
    assert stack.unavailable() == set()
    assert len(stack.replicas()) == REPLICAS


def test_without_redis_only_popularity_is_unavailable_until_it_is_back(stack: Stack) -> None:
    stack.compose.run("stop", "redis")
    try:
        brief = stack.brief()
        missing = stack.unavailable()
        wait_until_equal(stack.readiness, (200, "degraded", ["redis"]), timeout=5)
    finally:
        stack.compose.run("start", "redis")

    assert brief.json()["complete"] is False
    assert brief.headers["Gateway-Complete"] == "false"
    assert brief.headers["Gateway-Incomplete"].startswith("popularity;reason=")
    assert missing == {"popularity"}
    wait_until_equal(stack.unavailable, set(), timeout=30)
    wait_until_equal(stack.readiness, (200, "ok", []), timeout=5)


def test_a_report_is_counted_and_accepted_without_rabbitmq(stack: Stack) -> None:
    (key,) = json.loads((ROOT / "deploy" / "secrets" / "GATEWAY_API_KEYS").read_text())
    before = stack.observation_count()

    def report(authorization: str) -> int:
        path = f"/v1/places/{stack.place}/observations"
        body = {"temperature_c": 12.5, "condition": "rain"}
        return stack.client.post(path, json=body, headers={"Authorization": authorization}).status_code

    assert report("Bearer of nothing") == 401
    stack.compose.run("stop", "rabbitmq")
    try:
        assert report(f"Bearer {key}") == 201
    finally:
        stack.compose.run("start", "rabbitmq")
    wait_until_equal(stack.observation_count, before + 1, timeout=60)
    wait_until_equal(stack.readiness, (200, "ok", []), timeout=5)


def test_a_replica_that_is_told_to_stop_leaves_and_comes_back_unnoticed(stack: Stack) -> None:
    before = stack.replicas()

    def have_left() -> int:
        return len(before - stack.replicas())

    def answer() -> int:
        return len(stack.replicas())

    with stack.asked_all_the_time() as ends:
        stack.compose.run("exec", "-T", "--index", "1", "gateway", "sh", "-c", "kill -TERM 1")
        wait_until_equal(have_left, 1, timeout=10)
        wait_until_equal(answer, REPLICAS, timeout=90)

    assert set(ends) == {"200"}, ends


def test_no_log_has_a_password(stack: Stack) -> None:
    passwords = {path.read_text().strip() for path in (ROOT / "deploy" / "secrets").glob("*_password")}
    logs = stack.compose.run("logs")

    assert "serving" in logs
    assert passwords
    assert not [password for password in passwords if password in logs]
