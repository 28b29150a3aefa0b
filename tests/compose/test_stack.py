"""The compose stack through HAProxy, while a backend or a replica is unavailable and after it is back."""

import faulthandler
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.compose.compose import ROOT, Compose
from tests.support.waiting import wait_until_equal

pytestmark = pytest.mark.compose

REPLICAS = 2
CLIENTS = 4
SECTIONS = {"weather", "outlook", "observations", "popularity"}
PORTS = {
    "haproxy": [8080],
    "gateway": [8000],
    "worker": [],
    "weather": [8000],
    "postgres": [5432],
    "redis": [6379],
    "rabbitmq": [5672, 15672],
}
# Docker's networks have no direction: a server reaches its clients, too.
REACHABLE = {
    "haproxy": {"gateway"},
    "gateway": {"haproxy", "weather", "postgres", "redis", "rabbitmq"},
    "worker": {"gateway", "postgres", "redis", "rabbitmq"},
    "weather": {"gateway"},
    "postgres": {"gateway"},
    "redis": {"gateway"},
    "rabbitmq": {"gateway"},
}
CONNECT = """
for target; do
    (timeout 2 bash -c "exec 3<>/dev/tcp/$target" 2>/dev/null && echo "$target") &
done
wait
"""
DAY = {
    "precipitation_mm": 0,
    "temperature_max_c": 20,
    "temperature_min_c": 10,
    "wind_speed_m_s": 3,
    "date": "2026-06-01",
    "latitude": 47.4,
}

# Run in a container of the gateway, with its own key for operators.
PRINT_START = """
import json, urllib.request
(key,) = json.load(open("/run/secrets/GATEWAY_OPERATOR_KEYS"))
request = urllib.request.Request("http://127.0.0.1:8000/lifecycle", headers={"Authorization": "Bearer " + key.partition(":")[2]})
print(json.load(urllib.request.urlopen(request, timeout=2))["began_at"])
"""


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
        """Return the replicas that respond, each by the time of its start. HAProxy does not pass on their journals."""
        found = set()
        for index in range(1, REPLICAS + 1):
            with suppress(AssertionError):  # the command fails while the replica is not running
                arguments = ("-T", "--index", str(index), "gateway", "python", "-c", PRINT_START)
                found.add(self.compose.run("exec", *arguments).strip())
        return found

    def addresses(self, service: str) -> list[str]:
        """Return the addresses of a service, one in each of its networks."""
        *hosts, hostname = self.compose.run("exec", "-T", service, "cat", "/etc/hosts", "/etc/hostname").splitlines()
        return [host.split()[0] for host in hosts if host.endswith(hostname)]

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
    wait_until_equal(stack.readiness, (200, "ok", []), timeout=30)  # while all starts, the event loop may lag
    brief = stack.brief()

    assert stack.client.get("/lifecycle").status_code == 404
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


def test_services_reach_only_what_they_need(stack: Stack) -> None:
    """A service connects to its servers and its clients, and to no port of any other service, also not by its address."""
    targets = {
        f"{address}/{port}": service
        for service, ports in PORTS.items()
        for address in stack.addresses(service)
        for port in ports
    }
    reached = {}
    for service in REACHABLE:
        others = [target for target, of in targets.items() if of != service]
        output = stack.compose.run("exec", "-T", service, "bash", "-c", CONNECT, "bash", *others)
        reached[service] = {targets[target] for target in output.splitlines()}

    assert reached == REACHABLE


def test_each_service_is_confined(stack: Stack) -> None:
    """Each service has limits of its memory, its processes and its log, a read-only root, and no capabilities."""
    services = json.loads(stack.compose.run("config", "--format", "json"))["services"]
    lacking = {
        name
        for name, service in services.items()
        if not {"mem_limit", "pids_limit", "read_only"} <= {option for option, value in service.items() if value}
        or not {"max-size", "max-file"} <= set(service.get("logging", {}).get("options", {}))
    }
    status = {
        name: dict(
            line.split(":\t")
            for line in stack.compose.run("exec", "-T", name, "cat", "/proc/1/status").splitlines()
            if line.startswith(("CapPrm:", "CapEff:", "NoNewPrivs:"))
        )
        for name in PORTS
    }

    assert set(services) == {*PORTS, "migrate"}
    assert lacking == set()
    assert all(each == {"CapPrm": "0" * 16, "CapEff": "0" * 16, "NoNewPrivs": "1"} for each in status.values()), status


def test_rabbitmq_user_is_no_administrator(stack: Stack) -> None:
    """The gateway's user has rights on names that begin with `gateway.`, and the management page rejects it."""
    url = f"http://127.0.0.1:{stack.compose.management_port}/api"
    users = json.loads((ROOT / "deploy" / "secrets" / "rabbitmq_definitions").read_text())["users"]
    passwords = {user["name"]: user["password"] for user in users}

    permissions = httpx.get(f"{url}/permissions", auth=("admin", passwords["admin"]), trust_env=False).json()
    refused = httpx.get(f"{url}/overview", auth=("gateway", passwords["gateway"]), trust_env=False)

    rights = [(each["configure"], each["write"], each["read"]) for each in permissions if each["user"] == "gateway"]
    assert rights == [("^gateway[.]",) * 3]
    assert refused.status_code == 401


def test_no_log_has_a_password(stack: Stack) -> None:
    """No log line of any service contains a password, or the secret of a key."""
    secrets = ROOT / "deploy" / "secrets"
    definitions = json.loads((secrets / "rabbitmq_definitions").read_text())
    passwords = {path.read_text().strip() for path in secrets.glob("*_password")}
    passwords |= {user["password"] for user in definitions["users"]}
    for path in secrets.glob("GATEWAY_*_KEYS"):
        passwords |= {key.partition(":")[2] for key in json.loads(path.read_text())}

    logs = stack.compose.run("logs")

    assert "serving" in logs
    assert passwords
    assert not [password for password in passwords if password in logs]
