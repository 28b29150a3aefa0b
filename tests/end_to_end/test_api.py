"""The HTTP interface: places, predictions, request IDs, unsupported requests, readiness and the API description.

A *problem* is an error response with problem details (RFC 9457).
"""

import asyncio
import sys
import time

import httpx
import pytest

from gateway.api.predictions import MAX_BODY_BYTES
from gateway.app import create_app
from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.harness import OPERATOR, ZURICH, RunningGateway, running_gateway
from tests.serving.running_server import running_server
from tests.support.entries import CONNECTED, ENTRIES, server_for
from tests.support.waiting import wait_until

NEUCHATEL = 2659496  # no test reports observations of this place
DAY = {
    "precipitation_mm": 10,
    "temperature_max_c": 12,
    "temperature_min_c": 8,
    "wind_speed_m_s": 4,
    "date": "2026-11-24",
    "latitude": 47.4,
}


def is_problem(response: httpx.Response, status: int) -> bool:
    """Return whether the response is a problem with this status, the id of the request and, if it helps, `Retry-After`."""
    body = response.json()
    return (
        response.status_code == body["status"] == status
        and response.headers["Content-Type"] == "application/problem+json"
        and {"type", "title", "status", "detail"} <= set(body)
        and body["request_id"] == response.headers["X-Request-ID"]
        and ("Retry-After" in response.headers) == (status in {409, 503})
    )


class TestPlaces:
    @pytest.mark.parametrize("q", ["zur", "zür", "ZÜR", "Zurich"])
    async def test_search_by_prefix(self, gateway: RunningGateway, q: str) -> None:
        """A search finds the places whose name begins with the query, with or without diacritics and capitals."""
        response = await gateway.client.get("/v1/places", params={"q": q})

        assert response.json()["items"][0]["id"] == ZURICH

    async def test_largest_places_first(self, gateway: RunningGateway) -> None:
        """Places are sorted by population, and `limit` sets the number of them."""
        items = (await gateway.client.get("/v1/places", params={"limit": 100})).json()["items"]

        populations = [item["population"] for item in items]
        assert populations == sorted(populations, reverse=True)
        assert len(items) == 100

    async def test_place_by_id(self, gateway: RunningGateway) -> None:
        """A place is returned with its name, its country and the number of its observations."""
        place = (await gateway.client.get(f"/v1/places/{NEUCHATEL}")).json()

        assert (place["name"], place["country_code"], place["observation_count"]) == ("Neuchâtel", "CH", 0)

    @pytest.mark.parametrize("q", ["\0", "%", "'; DROP TABLE places; --", "\U0010ffff", "é" * 100])
    async def test_search_for_unusual_text(self, gateway: RunningGateway, q: str) -> None:
        """Control characters, wildcards, SQL and long text find no place and cause no error."""
        response = await gateway.client.get("/v1/places", params={"q": q})

        assert (response.status_code, response.json()) == (200, {"items": [], "next": None})

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
    async def test_malformed_parameters(self, gateway: RunningGateway, path: str) -> None:
        """The response to a malformed parameter is a problem that lists the invalid parameters."""
        response = await gateway.client.get(path)

        assert is_problem(response, 422)
        assert response.json()["errors"]

    async def test_place_without_database(self, gateway: RunningGateway, servers: Devstack) -> None:
        """While the database is down, a request for a place gets a problem. The next one after the restart succeeds."""
        async with servers.postgresql.killed():
            response = await gateway.client.get(f"/v1/places/{ZURICH}")

        assert is_problem(response, 503)
        assert (await gateway.client.get(f"/v1/places/{ZURICH}")).status_code == 200


class TestPredictions:
    async def test_prediction_for_each_day(self, gateway: RunningGateway) -> None:
        """Each day has its own probability: rain is more likely after a wet day than after a dry one."""
        response = await gateway.client.post("/v1/predictions", json={"days": [DAY, DAY | {"precipitation_mm": 0}]})

        wet, dry = (item["wet_tomorrow_probability"] for item in response.json()["items"])
        assert 0 < dry < wet < 1

    async def test_predictions_of_a_year(self, gateway: RunningGateway) -> None:
        """One request can have the days of a leap year."""
        response = await gateway.client.post("/v1/predictions", json={"days": [DAY] * 366})

        assert len(response.json()["items"]) == 366

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"null",
            b'{"days": []}',
            b'{"days": [{}]}',
            b'{"days": "x"}',
            b'{"days": [{"precipitation_mm": NaN}]}',
            b'{"days": ["\\ud800"]}',
        ],
    )
    async def test_invalid_body(self, gateway: RunningGateway, body: bytes) -> None:
        """A body that has no valid days gets a problem."""
        response = await gateway.client.post(
            "/v1/predictions", content=body, headers={"Content-Type": "application/json"}
        )

        assert is_problem(response, 422)

    @pytest.mark.parametrize("body", [b"{", b"\xff\xfe"])
    async def test_malformed_body(self, gateway: RunningGateway, body: bytes) -> None:
        """A body that cannot be parsed as JSON gets a problem."""
        response = await gateway.client.post(
            "/v1/predictions", content=body, headers={"Content-Type": "application/json"}
        )

        assert is_problem(response, 400)

    async def test_deeply_nested_body(self, gateway: RunningGateway) -> None:
        """A body that is nested deeply gets a problem: of the parser, or of the validation on Python 3.14, which parses it."""
        body = b'{"days": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"

        response = await gateway.client.post(
            "/v1/predictions", content=body, headers={"Content-Type": "application/json"}
        )

        assert is_problem(response, 400 if sys.version_info < (3, 14) else 422)

    @pytest.mark.parametrize(
        "change",
        [
            {"precipitation_mm": -1},
            {"temperature_max_c": 1000},
            {"temperature_min_c": 20},
            {"wind_speed_m_s": "fast"},
            {"date": "2026-02-30"},
            {"latitude": 91},
            {"extra": 1},
            {"precipitation_mm": "1"},
            {"precipitation_mm": True},
            {"date": 86400},
        ],
    )
    async def test_impossible_day(self, gateway: RunningGateway, change: dict[str, object]) -> None:
        """A day with an impossible value, a value of another type or an unknown field gets a problem."""
        response = await gateway.client.post("/v1/predictions", json={"days": [DAY | change]})

        assert is_problem(response, 422)

    async def test_body_over_the_limit(self, gateway: RunningGateway) -> None:
        """A body over the limit gets a problem."""
        response = await gateway.client.post("/v1/predictions", content=b" " * (MAX_BODY_BYTES + 1))

        assert is_problem(response, 413)


class TestRequestId:
    @pytest.mark.parametrize("path", ["/livez", "/v1/places/1", "/v1/places/x", "/nowhere"])
    async def test_request_id_is_returned(self, gateway: RunningGateway, path: str) -> None:
        """Every response has the request ID that the client sent, also if it is a problem."""
        response = await gateway.client.get(path, headers={"X-Request-ID": "mine-1"})

        assert response.headers["X-Request-ID"] == "mine-1"

    @pytest.mark.parametrize("request_id", ["", "two words", "é", "x" * 129])
    async def test_invalid_request_id_is_replaced(self, gateway: RunningGateway, request_id: str) -> None:
        """Without a valid request ID from the client, the gateway generates one."""
        response = await gateway.client.get("/livez", headers=[(b"X-Request-ID", request_id.encode())])

        assert response.headers["X-Request-ID"].isalnum()
        assert len(response.headers["X-Request-ID"]) == 32


class TestUnsupportedRequests:
    async def test_unknown_path(self, gateway: RunningGateway) -> None:
        """A request for an unknown path gets a problem."""
        assert is_problem(await gateway.client.get("/nowhere"), 404)

    async def test_unsupported_method(self, gateway: RunningGateway) -> None:
        """An unsupported method gets a problem, whose header `Allow` has the supported methods."""
        response = await gateway.client.delete("/v1/places")

        assert is_problem(response, 405)
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS"


HEAD_STATUSES = {
    "/livez": 200,
    "/readyz": 200,
    "/lifecycle": 200,
    "/metrics": 404,
    "/openapi.json": 200,
    f"/v1/places/{NEUCHATEL}": 200,
    f"/v1/places/{NEUCHATEL}/brief": 200,
    f"/v1/briefs?place={NEUCHATEL}": 200,
    f"/v1/places/{NEUCHATEL}/observations": 200,
    "/v1/places?q=neu": 200,
    "/v1/places/1": 404,
    "/v1/places/x/brief": 422,
    "/nowhere": 404,
}


class TestHead:
    async def test_head_is_get_without_body(self, gateway: RunningGateway) -> None:
        """HEAD has the status and the headers of GET, and no body, which would corrupt the next response."""
        statuses = {}
        async with running_server(gateway.app) as server, httpx.AsyncClient(headers=OPERATOR) as client:
            for path in HEAD_STATUSES:
                head = await client.head(f"http://127.0.0.1:{server.port}{path}")
                got = await client.get(f"http://127.0.0.1:{server.port}{path}")
                statuses[path] = head.status_code
                assert (head.status_code, head.content) == (got.status_code, b"")
                assert head.headers.keys() == got.headers.keys()
                assert head.headers["Content-Type"] == got.headers["Content-Type"]
                assert int(head.headers["Content-Length"]) > 0

        assert statuses == HEAD_STATUSES

    async def test_head_of_a_path_without_get(self, gateway: RunningGateway) -> None:
        """A path that does not support GET supports no HEAD either, and `Allow` does not list it."""
        response = await gateway.client.head("/v1/predictions")

        assert (response.status_code, response.headers["Allow"]) == (405, "OPTIONS, POST")

    async def test_head_is_not_described(self, gateway: RunningGateway) -> None:
        """The API description lists each path once."""
        paths = (await gateway.client.get("/openapi.json")).json()["paths"]

        assert {method for operations in paths.values() for method in operations} == {"get", "post"}


class TestOperations:
    async def test_liveness(self, gateway: RunningGateway) -> None:
        """The liveness check succeeds."""
        assert (await gateway.client.get("/livez")).json() == {"status": "ok"}

    async def test_readiness_checks_every_entry(self, gateway: RunningGateway) -> None:
        """Readiness has the result of a health check for each entry of the lifespan, in their order, and for the event loop."""
        response = await gateway.client.get("/readyz")

        assert response.status_code == 200
        assert response.json()["status"] == "ok"
        assert list(response.json()["checks"]) == [*ENTRIES, "event_loop"]

    @pytest.mark.parametrize("name", [name for name in CONNECTED if name != "database"])
    async def test_degraded_while_server_is_paused(self, gateway: RunningGateway, servers: Devstack, name: str) -> None:
        """While a server other than the database does not respond, the gateway is ready but degraded; afterwards it recovers."""
        with server_for(name, servers).suspended():
            response = await gateway.client.get("/readyz")

        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        failed = [check for check, result in response.json()["checks"].items() if result["status"] == "failed"]
        assert failed == [name]

        async def recovered() -> bool:
            return bool((await gateway.client.get("/readyz")).json()["status"] == "ok")

        await wait_until(recovered, "readiness is ok again")

    async def test_readiness_while_database_is_paused(
        self, gateway_with_deadline: RunningGateway, servers: Devstack
    ) -> None:
        """The readiness response does not wait for a paused database.

        Otherwise a load balancer would time out, and remove every replica long before the end of the grace period.
        """
        gateway = gateway_with_deadline
        await asyncio.gather(*(gateway.client.get(f"/v1/places/{ZURICH}/brief") for _ in range(20)))
        with servers.postgresql.suspended():
            for _ in range(3):
                started_at = time.monotonic()
                response = await gateway.client.get("/readyz")
                assert time.monotonic() - started_at < 20  # a health check has 1 s, a call to the database has 60 s
                assert (response.status_code, response.json()["status"]) == (200, "degraded")

    async def test_not_ready_after_the_grace_period(self, servers: Devstack, settings: Settings) -> None:
        """Without the database, the gateway is ready for the grace period only. It recovers with the database."""
        async with running_gateway(settings.model_copy(update={"ready_grace": 0.5})) as gateway:

            async def responds_with(status: int) -> bool:
                return (await gateway.client.get("/readyz")).status_code == status

            with servers.postgresql.suspended():
                first = await gateway.client.get("/readyz")
                await wait_until(lambda: responds_with(503), "the gateway is not ready")
            await wait_until(lambda: responds_with(200), "the gateway is ready again")

        assert (first.status_code, first.json()["status"]) == (200, "degraded")

    async def test_not_ready_during_shutdown(self, gateway: RunningGateway) -> None:
        """The gateway is not ready as soon as its shutdown begins."""
        gateway.stack.begin_shutdown()
        response = await gateway.client.get("/readyz")

        assert (response.status_code, response.json()["status"]) == (503, "stopping")
        assert response.headers["Retry-After"] == "1"

    async def test_lifecycle_lists_entries(self, gateway: RunningGateway) -> None:
        """`/lifecycle` shows the journal of the lifespan, with the entries in the order of the startup."""
        lifecycle = (await gateway.client.get("/lifecycle")).json()

        entered = [event["name"] for event in lifecycle["items"] if event["event"] == "entered"]
        assert entered == ENTRIES

    async def test_missing_lifespan(self, settings: Settings) -> None:
        """If the server does not run the lifespan, a request gets a problem."""
        transport = httpx.ASGITransport(create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            assert is_problem(await client.get("/v1/places"), 503)
            assert is_problem(await client.get("/readyz"), 503)

    async def test_openapi_lists_every_problem(self, gateway: RunningGateway) -> None:
        """The API description lists every status of a brief and the media type of problems."""
        schema = (await gateway.client.get("/openapi.json")).json()

        responses = schema["paths"]["/v1/places/{place_id}/brief"]["get"]["responses"]
        assert set(responses) == {"200", "404", "422", "500", "503"}
        assert list(responses["404"]["content"]) == ["application/problem+json"]
        assert "Problem" in schema["components"]["schemas"]
