"""The rest of the HTTP interface."""

import asyncio
import time

import httpx
import pytest

from gateway.app import create_app
from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.harness import ORDER, ZURICH, Running, running
from tests.support.waiting import wait_until

DAY = {
    "precipitation_mm": 10,
    "temperature_max_c": 12,
    "temperature_min_c": 8,
    "wind_m_s": 4,
    "date": "2026-11-24",
    "latitude": 47.4,
}


def is_problem(response: httpx.Response, status: int) -> bool:
    body = response.json()
    return (
        response.status_code == body["status"] == status
        and response.headers["Content-Type"] == "application/problem+json"
        and {"type", "title", "status", "detail"} <= set(body)
    )


class TestPlaces:
    @pytest.mark.parametrize("q", ["zur", "zür", "ZÜR", "Zurich"])
    async def test_are_found_by_the_beginning_of_their_name_in_any_spelling(self, gateway: Running, q: str) -> None:
        response = await gateway.client.get("/v1/places", params={"q": q})

        assert response.json()["items"][0]["id"] == ZURICH

    async def test_come_by_their_population(self, gateway: Running) -> None:
        items = (await gateway.client.get("/v1/places", params={"limit": 100})).json()["items"]

        populations = [item["population"] for item in items]
        assert populations == sorted(populations, reverse=True)
        assert len(items) == 100

    async def test_one_by_its_id(self, gateway: Running) -> None:
        place = (await gateway.client.get(f"/v1/places/{ZURICH}")).json()

        assert (place["name"], place["country_code"], place["observation_count"]) == ("Zürich", "CH", 0)

    @pytest.mark.parametrize("q", ["\0", "%", "'; DROP TABLE places; --", "\U0010ffff", "é" * 100])
    async def test_odd_names_find_nothing_and_break_nothing(self, gateway: Running, q: str) -> None:
        response = await gateway.client.get("/v1/places", params={"q": q})

        assert (response.status_code, response.json()) == (200, {"items": []})

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/places?limit=0",
            "/v1/places?limit=1000",
            "/v1/places?limit=x",
            "/v1/places?q=" + "a" * 101,
            "/v1/places/x",
            "/v1/places/-1",
            "/v1/places/99999999999999999999",
            "/v1/places/NaN/brief",
        ],
    )
    async def test_malformed_requests_are_problems_that_say_where(self, gateway: Running, path: str) -> None:
        response = await gateway.client.get(path)

        assert is_problem(response, 422)
        assert response.json()["errors"]

    async def test_the_database_away_is_a_problem(self, gateway: Running, servers: Devstack) -> None:
        async with servers.postgresql.killed():
            response = await gateway.client.get(f"/v1/places/{ZURICH}")

        assert is_problem(response, 503)
        assert (await gateway.client.get(f"/v1/places/{ZURICH}")).status_code == 200


class TestPredictions:
    async def test_one_for_each_day(self, gateway: Running) -> None:
        response = await gateway.client.post("/v1/predictions", json={"days": [DAY, DAY | {"precipitation_mm": 0}]})

        wet, dry = (item["wet_tomorrow_probability"] for item in response.json()["items"])
        assert 0 < dry < wet < 1

    async def test_a_large_batch(self, gateway: Running) -> None:
        response = await gateway.client.post("/v1/predictions", json={"days": [DAY] * 1000})

        assert len(response.json()["items"]) == 1000

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"days": []}',
            b'{"days": [{}]}',
            b'{"days": "x"}',
            b'{"days": [{"precipitation_mm": NaN}]}',
            b'{"days": ["\\ud800"]}',
            b"\xff\xfe",
        ],
    )
    async def test_bad_bodies_are_problems(self, gateway: Running, body: bytes) -> None:
        response = await gateway.client.post(
            "/v1/predictions", content=body, headers={"Content-Type": "application/json"}
        )

        assert is_problem(response, 422)

    async def test_a_body_too_deep_to_read_is_a_problem(self, gateway: Running) -> None:
        deep = b'{"days": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        response = await gateway.client.post(
            "/v1/predictions", content=deep, headers={"Content-Type": "application/json"}
        )

        assert is_problem(response, 400)

    @pytest.mark.parametrize(
        "change",
        [
            {"precipitation_mm": -1},
            {"temperature_max_c": 1000},
            {"temperature_min_c": 20},
            {"wind_m_s": "fast"},
            {"date": "2026-02-30"},
            {"latitude": 91},
            {"extra": 1},
            {"precipitation_mm": "1"},
            {"precipitation_mm": True},
            {"date": 86400},
        ],
    )
    async def test_impossible_days_are_problems(self, gateway: Running, change: dict[str, object]) -> None:
        response = await gateway.client.post("/v1/predictions", json={"days": [DAY | change]})

        assert is_problem(response, 422)

    async def test_a_body_that_is_too_large_is_a_problem(self, gateway: Running) -> None:
        response = await gateway.client.post("/v1/predictions", content=b" " * (1024 * 1024 + 1))

        assert is_problem(response, 413)


class TestEveryAnswer:
    @pytest.mark.parametrize("path", ["/livez", "/v1/places/1", "/v1/places/x", "/nowhere"])
    async def test_has_the_request_id_of_its_request(self, gateway: Running, path: str) -> None:
        response = await gateway.client.get(path, headers={"X-Request-ID": "mine-1"})

        assert response.headers["X-Request-ID"] == "mine-1"

    @pytest.mark.parametrize("given", ["", "two words", "é", "x" * 129])
    async def test_has_one_of_ours_where_the_callers_is_unusable(self, gateway: Running, given: str) -> None:
        response = await gateway.client.get("/livez", headers=[(b"X-Request-ID", given.encode())])

        assert response.headers["X-Request-ID"].isalnum()
        assert len(response.headers["X-Request-ID"]) == 32

    async def test_an_unknown_path_is_a_problem(self, gateway: Running) -> None:
        assert is_problem(await gateway.client.get("/nowhere"), 404)

    async def test_a_method_that_a_path_lacks_is_a_problem(self, gateway: Running) -> None:
        response = await gateway.client.delete("/v1/places")

        assert is_problem(response, 405)
        assert response.headers["Allow"] == "GET"


class TestOperation:
    async def test_alive(self, gateway: Running) -> None:
        assert (await gateway.client.get("/livez")).json() == {"status": "ok"}

    async def test_ready_with_a_check_of_each_resource(self, gateway: Running) -> None:
        response = await gateway.client.get("/readyz")

        assert response.status_code == 200
        assert response.json()["status"] == "ok"
        assert list(response.json()["checks"]) == ORDER

    @pytest.mark.parametrize("name", ["redis", "rabbitmq"])
    async def test_degraded_and_ready_while_a_resource_stalls(
        self, gateway: Running, servers: Devstack, name: str
    ) -> None:
        with getattr(servers, name).suspended():
            response = await gateway.client.get("/readyz")

        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        failed = [check for check, it in response.json()["checks"].items() if it["status"] == "failed"]
        assert failed == [name]

        async def ok() -> bool:
            return bool((await gateway.client.get("/readyz")).json()["status"] == "ok")

        await wait_until(ok, "it is ok again")

    async def test_a_database_that_stalls_does_not_make_readiness_slow(
        self, gateway_with_deadline: Running, servers: Devstack
    ) -> None:
        """A load balancer would give up on it, and take every replica out long before the grace has passed."""
        gateway = gateway_with_deadline
        await asyncio.gather(*(gateway.client.get(f"/v1/places/{ZURICH}/brief") for _ in range(20)))
        with servers.postgresql.suspended():
            for _ in range(3):
                began = time.monotonic()
                response = await gateway.client.get("/readyz")
                assert time.monotonic() - began < 20  # a check has one second; a call to the database has sixty
                assert (response.status_code, response.json()["status"]) == (200, "degraded")

    async def test_not_ready_once_the_database_was_away_longer_than_the_grace(
        self, servers: Devstack, settings: Settings
    ) -> None:
        async with running(settings.model_copy(update={"ready_grace": 0.5})) as gateway:

            async def answered(status: int) -> bool:
                return (await gateway.client.get("/readyz")).status_code == status

            with servers.postgresql.suspended():
                first = await gateway.client.get("/readyz")
                await wait_until(lambda: answered(503), "it is not ready any more")
            await wait_until(lambda: answered(200), "it is ready again")

        assert (first.status_code, first.json()["status"]) == (200, "degraded")

    async def test_not_ready_from_the_stop_signal_on(self, gateway: Running) -> None:
        gateway.stack.begin_shutdown()
        response = await gateway.client.get("/readyz")

        assert (response.status_code, response.json()["status"]) == (503, "stopping")

    async def test_the_journal_is_there_to_read(self, gateway: Running) -> None:
        journal = (await gateway.client.get("/lifecycle")).json()

        entered = [event["name"] for event in journal["items"] if event["event"] == "entered"]
        assert entered == ORDER

    async def test_a_server_that_enters_no_lifespan_is_told_in_a_problem(self, settings: Settings) -> None:
        transport = httpx.ASGITransport(create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            assert is_problem(await client.get("/v1/places"), 503)
            assert is_problem(await client.get("/readyz"), 503)

    async def test_the_openapi_names_every_problem(self, gateway: Running) -> None:
        schema = (await gateway.client.get("/openapi.json")).json()

        answers = schema["paths"]["/v1/places/{place_id}/brief"]["get"]["responses"]
        assert set(answers) == {"200", "404", "422", "500", "503"}
        assert list(answers["404"]["content"]) == ["application/problem+json"]
        assert "Problem" in schema["components"]["schemas"]
