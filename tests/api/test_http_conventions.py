"""The conventions of all routes: query parameters, media types, OPTIONS, CORS and the headers for caches. No test needs a server."""

from collections.abc import AsyncIterator, Iterable

import httpx
import pytest
from fastapi import FastAPI, Response
from starlette.datastructures import Headers
from structlog.testing import capture_logs

from gateway.api.caching import add_cache_headers
from gateway.app import create_app
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key

PAGE_ORIGIN = "https://page.example"
SECRET = "the-secret-of-this-test"
PREFLIGHT = {"Origin": PAGE_ORIGIN, "Access-Control-Request-Method": "POST"}
OBSERVATIONS = "/v1/places/1/observations"
REPORT = {"temperature_c": 12.5, "condition": "rain"}
DOCUMENTATION = ("/openapi.json", "/docs", "/problems", "/problems/unavailable")


def client_of(app: FastAPI, base_url: str = "http://localhost") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=base_url)


@pytest.fixture
def app() -> FastAPI:
    """An app without keys, which only programs on this machine can reach. It accepts their writes."""
    app = create_app(Settings())
    app.state.on_loopback = True
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app whose lifespan is not active: the routes themselves respond with 503."""
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def cors_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that allows the pages of one origin."""
    async with client_of(create_app(Settings(cors_origins=(PAGE_ORIGIN,)))) as client:
        yield client


def paths_of(app: FastAPI, method: str) -> Iterable[str]:
    """Return the paths of the API that have a method, with 1 as the ids."""
    return (
        path.replace("{place_id}", "1").replace("{observation_id}", "1")
        for path, operations in app.openapi()["paths"].items()
        if method in operations
    )


def is_problem(response: httpx.Response, status: int) -> bool:
    """Return whether the response is a problem with this status, which caches do not store."""
    return (
        response.status_code == response.json()["status"] == status
        and response.headers["Content-Type"] == "application/problem+json"
        and response.headers["Cache-Control"] == "no-store"
    )


class TestQueryParameters:
    @pytest.mark.parametrize("method", ["get", "post"])
    async def test_unknown_parameter_of_any_route(self, app: FastAPI, client: httpx.AsyncClient, method: str) -> None:
        """Each route of /v1 rejects a parameter that it does not have, and names it."""
        paths = [path for path in paths_of(app, method) if path.startswith("/v1/")]
        responses = [await client.request(method, path, params={"limits": "1"}) for path in paths]

        assert paths
        assert [path for path, response in zip(paths, responses, strict=True) if not is_problem(response, 422)] == []
        assert {response.json()["errors"][0]["parameter"] for response in responses} == {"limits"}

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/lifecycle", *DOCUMENTATION])
    async def test_unknown_parameter_of_other_paths(self, client: httpx.AsyncClient, path: str) -> None:
        """The paths for operators and the documentation ignore parameters, such as that of a probe against caches."""
        without, with_parameter = await client.get(path), await client.get(path, params={"x": "1"})

        assert with_parameter.status_code == without.status_code != 422

    async def test_known_parameters(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        """The parameters that the OpenAPI description lists are accepted."""
        wrong = []
        for path, operations in app.openapi()["paths"].items():
            parameters = operations.get("get", {}).get("parameters", [])
            query = {each["name"]: "1" for each in parameters if each["in"] == "query" and each["name"] != "cursor"}
            url = path.replace("{place_id}", "1").replace("{observation_id}", "1")
            if query and (await client.get(url, params=query)).status_code != 503:
                wrong.append(path)

        assert wrong == []

    async def test_advice(self, client: httpx.AsyncClient) -> None:
        """The error of an unknown parameter lists those that the path has."""
        some, none = await client.get("/v1/places?query=z"), await client.get("/v1/places/1?query=z")

        assert "cursor, limit, q" in some.json()["errors"][0]["detail"]
        assert "none" in none.json()["errors"][0]["detail"]

    async def test_errors_are_bounded(self, client: httpx.AsyncClient) -> None:
        """Many long names cause a short response."""
        query = "&".join(f"{number}{'x' * 500}=1" for number in range(60))
        response = await client.get(f"/v1/places/1/brief?{query}")

        assert is_problem(response, 422)
        assert len(response.json()["errors"]) == 20
        assert len(response.content) < 10_000


class TestMediaTypes:
    @pytest.mark.parametrize(
        "value",
        ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=x", " application/json ; a"],
    )
    @pytest.mark.parametrize("path", ["/v1/predictions", OBSERVATIONS])
    async def test_json_is_accepted(self, client: httpx.AsyncClient, path: str, value: str) -> None:
        """JSON is accepted with any parameters: its encoding is always UTF-8."""
        response = await client.post(path, content=b"{", headers={"Content-Type": value})

        assert is_problem(response, 400)

    @pytest.mark.parametrize(
        "value",
        ["text/plain", "text/json", "application/x-www-form-urlencoded", "application/vnd.api+json", "json", "", None],
    )
    @pytest.mark.parametrize("path", ["/v1/predictions", OBSERVATIONS])
    async def test_other_types_are_rejected(self, client: httpx.AsyncClient, path: str, value: str | None) -> None:
        """Other media types, and none, get a 415 that names the one to send."""
        headers = {} if value is None else {"Content-Type": value}
        response = await client.post(path, content=b"{}", headers=headers)

        assert is_problem(response, 415)
        assert response.headers["Accept"] == "application/json"

    async def test_compressed_body_is_rejected(self, client: httpx.AsyncClient) -> None:
        """A compressed body gets a 415 with another advice. The coding `identity` means none."""
        compressed = await client.post("/v1/predictions", json={}, headers={"Content-Encoding": "gzip"})
        plain = await client.post("/v1/predictions", json={}, headers={"Content-Encoding": "identity"})

        assert is_problem(compressed, 415)
        assert compressed.headers["Accept-Encoding"] == "identity"
        assert plain.status_code != 415


class TestOptions:
    async def test_options_of_any_path(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        """Each path responds to OPTIONS with its methods: those of the OpenAPI description, HEAD with GET, and OPTIONS."""
        paths = app.openapi()["paths"]
        allowed = {}
        for path in paths:
            response = await client.options(path.replace("{place_id}", "1").replace("{observation_id}", "1"))
            assert (response.status_code, response.content) == (204, b"")
            allowed[path] = set(response.headers["Allow"].split(", "))

        assert allowed == {
            path: {"OPTIONS", *(method.upper() for method in operations), *(["HEAD"] if "get" in operations else [])}
            for path, operations in paths.items()
        }

    @pytest.mark.parametrize("path", DOCUMENTATION)
    async def test_options_of_the_documentation(self, client: httpx.AsyncClient, path: str) -> None:
        """The pages of the documentation support OPTIONS as well."""
        response = await client.options(path)

        assert (response.status_code, response.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")

    async def test_options_of_an_unknown_path(self, client: httpx.AsyncClient) -> None:
        """An unknown path has no methods."""
        assert is_problem(await client.options("/nowhere"), 404)


class TestCors:
    async def test_off_by_default(self, client: httpx.AsyncClient) -> None:
        """Without the setting, no response has a header of CORS, and a preflight request is an ordinary OPTIONS request."""
        responses = [
            await client.options("/v1/predictions", headers=PREFLIGHT),
            await client.get("/livez", headers={"Origin": PAGE_ORIGIN}),
        ]

        assert [response.status_code for response in responses] == [204, 200]
        assert [name for response in responses for name in response.headers if name.startswith("access-control")] == []

    async def test_preflight_of_an_allowed_origin(self, cors_client: httpx.AsyncClient) -> None:
        """A page of the origin may send the methods and headers of the API."""
        requested = "authorization, content-type, idempotency-key, if-none-match, x-request-id"
        headers = {**PREFLIGHT, "Access-Control-Request-Headers": requested}
        response = await cors_client.options(OBSERVATIONS, headers=headers)

        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == PAGE_ORIGIN
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert set(requested.split(", ")) <= set(response.headers["Access-Control-Allow-Headers"].lower().split(", "))
        assert "Access-Control-Allow-Credentials" not in response.headers

    @pytest.mark.parametrize(
        "change",
        [
            {"Origin": "https://other.example"},
            {"Origin": "null"},
            {"Access-Control-Request-Method": "DELETE"},
            {"Access-Control-Request-Headers": "x-other"},
        ],
    )
    async def test_rejected_preflight(self, cors_client: httpx.AsyncClient, change: dict[str, str]) -> None:
        """A preflight request of another origin, method or header gets a problem that names the setting."""
        response = await cors_client.options(OBSERVATIONS, headers={**PREFLIGHT, **change})

        assert is_problem(response, 400)
        assert "operator of the gateway chooses" in response.json()["detail"]
        assert response.headers.get("Access-Control-Allow-Origin") in {None, PAGE_ORIGIN}

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/livez", 200), ("/nowhere", 404), ("/v1/places?x=1", 422), ("/fail", 500), ("/v1/places", 503)],
    )
    async def test_allowed_origin_reads_any_response(self, path: str, status: int) -> None:
        """The page can read a response and its headers, also if it is an error, and caches keep it apart by the origin."""
        app = create_app(Settings(cors_origins=(PAGE_ORIGIN,)))

        @app.get("/fail")
        async def fail() -> None:
            raise ZeroDivisionError

        async with client_of(app) as client:
            with capture_logs():  # printing the traceback takes seconds
                response = await client.get(path, headers={"Origin": PAGE_ORIGIN})
                other = await client.get(path, headers={"Origin": "https://other.example"})

        assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (status, PAGE_ORIGIN)
        exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
        described = app.openapi()["components"]["headers"]  # all that the API sends, except Allow
        assert sorted(exposed) == sorted({*described, "Allow"} - {"Cache-Control"})
        assert "Access-Control-Allow-Origin" not in other.headers
        assert (response.headers["Vary"], other.headers["Vary"]) == ("Origin", "Origin")
        assert "X-Request-ID" in response.headers

    async def test_any_origin(self) -> None:
        """With `*`, the pages of all origins may use the API, without cookies."""
        async with client_of(create_app(Settings(cors_origins=("*",)))) as client:
            preflight = await client.options(OBSERVATIONS, headers=PREFLIGHT)
            response = await client.get("/livez", headers={"Origin": PAGE_ORIGIN})

        assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in response.headers

    @pytest.mark.parametrize("origins", [("*",), (PAGE_ORIGIN,)])
    async def test_local_gateway_rejects_pages(self, origins: tuple[str, ...]) -> None:
        """A local gateway without keys rejects a write of an allowed origin as well, with a problem that the page can read."""
        app = create_app(Settings(cors_origins=origins))
        app.state.on_loopback = True
        async with client_of(app) as client:
            page = await client.post(OBSERVATIONS, json=REPORT, headers={"Origin": PAGE_ORIGIN})
            program = await client.post(OBSERVATIONS, json=REPORT)

        assert is_problem(page, 403)
        assert "Access-Control-Allow-Origin" in page.headers
        assert is_problem(program, 503)  # of the route, because the lifespan is not active

    async def test_key_of_an_allowed_page(self) -> None:
        """If keys are set, a page of an allowed origin needs one, and may write with it."""
        app = create_app(Settings(cors_origins=(PAGE_ORIGIN,), api_keys=(parse_api_key(f"page:{SECRET}"),)))
        async with client_of(app) as client:
            headers = {"Origin": PAGE_ORIGIN}
            without = await client.post(OBSERVATIONS, json=REPORT, headers=headers)
            right = await client.post(
                OBSERVATIONS, json=REPORT, headers={**headers, "Authorization": f"Bearer {SECRET}"}
            )

        assert is_problem(without, 401)
        assert is_problem(right, 503)  # of the route, because the lifespan is not active


class TestCacheHeaders:
    @pytest.mark.parametrize("path", DOCUMENTATION)
    async def test_documentation_is_revalidated(self, client: httpx.AsyncClient, path: str) -> None:
        """A page of the documentation is sent again only if it has changed."""
        first = await client.get(path)
        again = await client.get(path, headers={"If-None-Match": first.headers["ETag"]})

        assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-cache")
        assert (again.status_code, again.content) == (304, b"")
        assert (again.headers["ETag"], again.headers["Cache-Control"]) == (first.headers["ETag"], "no-cache")
        assert not {"content-type", "content-length"} & set(again.headers)

    @pytest.mark.parametrize(("path", "status"), [("/livez", 200), ("/readyz", 503), ("/lifecycle", 503)])
    async def test_operations_are_not_stored(self, client: httpx.AsyncClient, path: str, status: int) -> None:
        """Responses for operators are never reused."""
        response = await client.get(path)

        assert (response.status_code, response.headers["Cache-Control"]) == (status, "no-store")
        assert "ETag" not in response.headers

    @pytest.mark.parametrize(
        ("condition", "matches"),
        [
            ("{tag}", True),
            ("W/{tag}", True),
            ('"a", {tag}', True),
            ('W/"a,b",W/{tag} , "c"', True),
            ("*", True),
            (" * ", True),
            ('"a"', False),
            ('"*"', False),
            ("{bare}", False),
            ('"{tag}"', False),
            ('w/"a"', False),
            ("", False),
            ('"', False),
        ],
    )
    def test_conditions(self, condition: str, *, matches: bool) -> None:
        """A condition is `*` or a list of tags, which are compared weakly (RFC 9110, 13.1.2)."""
        tag = add_cache_headers(Headers(), Response(b"body"), "no-cache").headers["ETag"]
        headers = Headers({"If-None-Match": condition.format(tag=tag, bare=tag.strip('"'))})

        response = add_cache_headers(headers, Response(b"body"), "no-cache")

        assert (response.status_code, bytes(response.body)) == ((304, b"") if matches else (200, b"body"))
        assert response.headers["ETag"] == tag

    def test_several_headers(self) -> None:
        """Conditions in several headers are one list."""
        tag = add_cache_headers(Headers(), Response(b"body"), "no-cache").headers["ETag"]
        headers = Headers(raw=[(b"if-none-match", b'"a"'), (b"if-none-match", tag.encode())])

        assert add_cache_headers(headers, Response(b"body"), "no-cache").status_code == 304

    def test_tag_depends_on_the_body(self) -> None:
        """Different bodies have different tags, and an error has none."""
        bodies = (b"", b"a", b"b")
        tags = {add_cache_headers(Headers(), Response(body), "no-cache").headers["ETag"] for body in bodies}
        error = add_cache_headers(Headers({"If-None-Match": "*"}), Response(b"", 503), "no-cache")

        assert len(tags) == 3
        assert (error.status_code, "ETag" in error.headers) == (503, False)
