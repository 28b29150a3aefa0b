"""Pages of lists, and conditional requests, with the real database."""

from struct import Struct

import httpx
import pytest

from gateway.api.pages import encode_cursor
from gateway.serving.lifespan_manager import StatefulApp
from tests.end_to_end.harness import RunningGateway

THUN, CHUR, BASEL = 2658377, 2661169, 2661604  # no other test reports observations of the first two
PLACE_CURSOR = encode_cursor(Struct(">ii"), 1, 1)
OBSERVATION_CURSOR = encode_cursor(Struct(">qq"), 1, 1)
AFTER_THE_YEAR_9999 = encode_cursor(Struct(">qq"), 2**62, 1)
MAX_PAGES = 10
RAIN = {"temperature_c": 12.5, "condition": "rain"}


@pytest.fixture
async def client(gateway: RunningGateway) -> httpx.AsyncClient:
    """A client of a gateway that accepts its writes, as a program on the same machine."""
    app = gateway.app
    assert isinstance(app, StatefulApp)
    app._app.state.on_loopback = True  # type: ignore[attr-defined]
    gateway.client.base_url = "http://localhost"
    return gateway.client


async def report(client: httpx.AsyncClient, place_id: int, note: str) -> httpx.Response:
    response = await client.post(f"/v1/places/{place_id}/observations", json={**RAIN, "note": note})
    assert response.status_code == 201
    return response


async def pages(client: httpx.AsyncClient, path: str) -> list[list[dict[str, object]]]:
    """Return the items of each page, from the path on."""
    found: list[list[dict[str, object]]] = []
    next_page: str | None = path
    while next_page is not None:
        assert len(found) < MAX_PAGES
        response = await client.get(next_page)
        body = response.json()
        found.append(body["items"])
        next_page = body["next"]
        assert response.links.get("next", {}).get("url") == next_page
    return found


class TestPages:
    async def test_pages_of_places(self, client: httpx.AsyncClient) -> None:
        """The pages of a search have all places of the search once, in its order. Only the last page has no next one."""
        whole = (await client.get("/v1/places", params={"q": "zü", "limit": 100})).json()["items"]
        found = await pages(client, f"/v1/places?q=z%C3%BC&limit={len(whole) // 2}")

        assert 4 <= len(whole) < 100
        assert [place for page in found for place in page] == whole
        assert [len(page) for page in found[:-1]] == [len(whole) // 2] * (len(found) - 1)
        assert len(found[-1]) > 0

    async def test_pages_of_observations(self, client: httpx.AsyncClient) -> None:
        """A report that arrives between two pages neither repeats nor hides an observation of the following pages."""
        path = f"/v1/places/{THUN}/observations"
        for number in range(4):
            await report(client, THUN, f"old {number}")
        first = (await client.get(f"{path}?limit=2")).json()
        await report(client, THUN, "new")
        rest = await pages(client, first["next"])

        notes = [observation["note"] for page in [first["items"], *rest] for observation in page]
        assert notes == ["old 3", "old 2", "old 1", "old 0"]
        assert (await client.get(path)).json()["next"] is None

    async def test_prefix_of_a_proxy(self, gateway: RunningGateway) -> None:
        """The next page has the prefix that a proxy has removed from the path."""
        transport = httpx.ASGITransport(gateway.app, root_path="/weather")
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            response = await client.get("/weather/v1/places?limit=1")

        assert response.json()["next"].startswith("/weather/v1/places?q=&limit=1&cursor=")
        assert response.links["next"]["url"] == response.json()["next"]

    @pytest.mark.parametrize(
        ("path", "cursors"),
        [
            ("/v1/places", [OBSERVATION_CURSOR]),
            (f"/v1/places/{THUN}/observations", [PLACE_CURSOR, AFTER_THE_YEAR_9999]),
        ],
    )
    async def test_invalid_cursor(self, client: httpx.AsyncClient, path: str, cursors: list[str]) -> None:
        """A text that is no cursor of the list, such as a cursor of the other list, gets a problem with advice."""
        wrong = []
        for cursor in ("", "x", "A" * 101, *cursors):
            response = await client.get(path, params={"cursor": cursor})
            if response.status_code != 422 or response.json()["errors"][0]["parameter"] != "cursor":
                wrong.append((cursor, response.text))

        assert wrong == []


class TestConditionalRequests:
    async def test_unchanged_place(self, client: httpx.AsyncClient) -> None:
        """Places may be reused for seconds. A client that has the current body gets a 304, for GET and HEAD."""
        for path in (f"/v1/places/{BASEL}", "/v1/places?q=basel"):
            first = await client.get(path)
            tag = first.headers["ETag"]
            head = await client.head(path, headers={"If-None-Match": tag})
            again = await client.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
            changed = await client.get(path, headers={"If-None-Match": '"other"'})

            assert first.headers["Cache-Control"] == "public, max-age=10"
            assert [response.status_code for response in (head, again, changed)] == [304, 304, 200]
            assert {response.headers["ETag"] for response in (head, again, changed)} == {tag}
            assert again.headers["Cache-Control"] == "public, max-age=10"

    async def test_new_observation(self, client: httpx.AsyncClient) -> None:
        """Observations are never reused without a request. The list has another tag after a report."""
        path = f"/v1/places/{CHUR}/observations"
        empty = await client.get(path)
        location = (await report(client, CHUR, "new")).headers["Location"]
        condition = {"If-None-Match": empty.headers["ETag"]}
        changed = await client.get(path, headers=condition)
        single = await client.get(location)
        again = await client.get(location, headers={"If-None-Match": single.headers["ETag"]})

        assert (changed.status_code, len(changed.json()["items"])) == (200, 1)
        assert (single.status_code, again.status_code, again.content) == (200, 304, b"")
        assert {response.headers["Cache-Control"] for response in (empty, changed, single, again)} == {"no-cache"}

    async def test_unknown_place(self, client: httpx.AsyncClient) -> None:
        """A condition does not change the response for an unknown place."""
        response = await client.get("/v1/places/1", headers={"If-None-Match": "*"})

        assert (response.status_code, response.headers["Cache-Control"]) == (404, "no-store")
