"""The compose stack through HAProxy, while a backend or a replica is unavailable and after it is back."""

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
CLIENTS = 4
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
    """A running stack, as seen through HAProxy."""

    def __init__(self, compose: Compose, client: httpx.Client) -> None:
        self.compose = compose
        self.client = client
        self.place = client.get("/v1/places", params={"q": "Zürich"}).json()["items"][0]["id"]

    def brief(self) -> httpx.Response:
        return self.client.get(f"/v1/places/{self.place}/brief")

    def observation_count(self) -> int:
        count: int = self.client.get(f"/v1/places/{self.place}").json()["observation_count"]
        return count

    def unavailable_sections(self) -> set[str]:
        """Return the sections that are missing in any of several briefs. HAProxy spreads the requests to all replicas."""
        briefs = [self.brief().raise_for_status().json() for _ in range(2 * REPLICAS)]
        return {
            name
            for brief in briefs
            for name, section in brief["sections"].items()
            if section["status"] == "unavailable"
        }

    def readiness(self) -> tuple[int, str, list[str]]:
        """Return the HTTP status of /readyz, the status in its body, and the names of the failed checks."""
        response = self.client.get("/readyz")
        report = response.json()
        failed = [name for name, check in report.get("checks", {}).items() if check["status"] != "ok"]
        if failed:
            print(response.text)  # noqa: T201 - pytest shows the reason with a failure
        return response.status_code, report["status"], failed

    def replicas(self) -> set[str]:
        """Return the replicas that respond, each by the time of its start."""
        responses = [self.client.get("/lifecycle") for _ in range(5 * REPLICAS)]
        return {response.json()["began_at"] for response in responses if response.is_success}

    @contextmanager
    def continuous_predictions(self) -> Iterator["Counter[str]"]:
        """Request predictions all the time inside the block. Count the outcomes: the status, or the error.

        HAProxy does not retry a POST, and a prediction needs no backend: a request that fails was lost with its replica.
        """
        outcomes: Counter[str] = Counter()
        stopping = threading.Event()

        def request_predictions() -> None:
            with httpx.Client(base_url=self.client.base_url, trust_env=False, timeout=10) as client:
                while not stopping.wait(0.02):
                    try:
                        outcome = str(client.post("/v1/predictions", json={"days": [DAY]}).status_code)
                    except httpx.HTTPError as error:
                        outcome = repr(error)
                    outcomes[outcome] += 1

        with ThreadPoolExecutor() as threads:
            clients = [threads.submit(request_predictions) for _ in range(CLIENTS)]
            try:
                yield outcomes
            finally:
                stopping.set()
        for client in clients:
            client.result()


@pytest.fixture(autouse=True)
def no_limit() -> None:
    """Disable pytest's timeout, which ends the process and would leave the stack running. Each wait has its own."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def stack(anyio_backend: str) -> Iterator[Stack]:
    del anyio_backend
    faulthandler.cancel_dump_traceback_later()  # this fixture runs before the one above
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


def test_all_replicas_are_ready(stack: Stack) -> None:
    """Each replica is ready and returns a complete brief."""
    brief = stack.brief()

    assert stack.readiness() == (200, "ok", [])
    assert brief.json()["complete"] is True
    assert brief.headers["Gateway-Complete"] == "true"
    assert set(brief.json()["sections"]) == SECTIONS
    assert stack.unavailable_sections() == set()
    assert len(stack.replicas()) == REPLICAS


def test_without_redis_only_popularity_is_missing(stack: Stack) -> None:
    """Without Redis, briefs lack popularity only, their headers say so, and readiness is degraded, until Redis is back."""
    stack.compose.run("stop", "redis")
    try:
        brief = stack.brief()
        missing = stack.unavailable_sections()
        wait_until_equal(stack.readiness, (200, "degraded", ["redis"]), timeout=5)
    finally:
        stack.compose.run("start", "redis")

    assert brief.json()["complete"] is False
    assert brief.headers["Gateway-Complete"] == "false"
    assert brief.headers["Gateway-Incomplete"].startswith("popularity;reason=")
    assert missing == {"popularity"}
    wait_until_equal(stack.unavailable_sections, set(), timeout=30)
    wait_until_equal(stack.readiness, (200, "ok", []), timeout=5)


def test_observation_without_rabbitmq_is_counted(stack: Stack) -> None:
    """Without RabbitMQ, an observation with a valid key is accepted. It is counted once RabbitMQ is back."""
    (key,) = json.loads((ROOT / "deploy" / "secrets" / "GATEWAY_API_KEYS").read_text())
    secret = key.partition(":")[2]
    count_before = stack.observation_count()

    def send_observation(authorization: str) -> int:
        path = f"/v1/places/{stack.place}/observations"
        body = {"temperature_c": 12.5, "condition": "rain"}
        return stack.client.post(path, json=body, headers={"Authorization": authorization}).status_code

    assert send_observation("Bearer of nothing") == 401
    stack.compose.run("stop", "rabbitmq")
    try:
        assert send_observation(f"Bearer {secret}") == 201
    finally:
        stack.compose.run("start", "rabbitmq")
    wait_until_equal(stack.observation_count, count_before + 1, timeout=60)
    wait_until_equal(stack.readiness, (200, "ok", []), timeout=5)


def test_restart_of_a_replica_loses_no_request(stack: Stack) -> None:
    """A replica that gets SIGTERM leaves the service and is started again, and no request fails meanwhile."""
    replicas_before = stack.replicas()

    def stopped_replicas() -> int:
        return len(replicas_before - stack.replicas())

    def responding_replicas() -> int:
        return len(stack.replicas())

    with stack.continuous_predictions() as outcomes:
        stack.compose.run("exec", "-T", "--index", "1", "gateway", "sh", "-c", "kill -TERM 1")
        wait_until_equal(stopped_replicas, 1, timeout=10)
        wait_until_equal(responding_replicas, REPLICAS, timeout=90)

    assert set(outcomes) == {"200"}, outcomes


def test_no_log_has_a_password(stack: Stack) -> None:
    """No log line of any service contains a password."""
    passwords = {path.read_text().strip() for path in (ROOT / "deploy" / "secrets").glob("*_password")}

    logs = stack.compose.run("logs")

    assert "serving" in logs
    assert passwords
    assert not [password for password in passwords if password in logs]
