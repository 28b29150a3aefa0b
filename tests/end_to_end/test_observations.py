"""Reporting over HTTP: what is accepted, what is said when it is not, and who may."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.conftest import LATE, Start
from tests.end_to_end.harness import Running, running
from tests.end_to_end.test_api import is_problem

KEYS = ("old-key", "new-key")
RAIN = {"temperature_c": 12.5, "condition": "rain", "note": "wet"}
HERE = "/v1/places/3041563/observations"  # of a place that no other test looks at


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Running]:
    """A gateway with two keys, and a client that has one of them."""
    keys = tuple(map(SecretStr, KEYS))
    async with running(settings.model_copy(update={"api_keys": keys})) as it:
        it.client.headers["Authorization"] = f"Bearer {KEYS[0]}"
        yield it


class TestAReport:
    async def test_is_created_and_is_where_its_location_says(self, gateway: Running) -> None:
        created = await gateway.client.post(HERE, json=RAIN)
        found = await gateway.client.get(created.headers["Location"])
        latest = (await gateway.client.get(HERE)).json()["items"][0]

        assert created.status_code == 201
        assert created.json() == found.json() == latest
        assert created.headers["Location"] == f"{HERE}/{created.json()['id']}"
        assert {name: created.json()[name] for name in RAIN} == RAIN

    async def test_sent_again_with_its_key_is_answered_the_same(self, gateway: Running) -> None:
        headers = {"Idempotency-Key": "~once!"}
        first = await gateway.client.post(HERE, json=RAIN, headers=headers)
        again = await gateway.client.post(HERE, json=RAIN, headers=headers)

        assert (first.status_code, first.json(), first.headers["Location"]) == (
            again.status_code,
            again.json(),
            again.headers["Location"],
        )

    async def test_sent_many_times_at_once_with_its_key_is_stored_once(self, gateway: Running) -> None:
        headers = {"Idempotency-Key": gateway.stack.journal.started_at.isoformat()}
        responses = await asyncio.gather(*(gateway.client.post(HERE, json=RAIN, headers=headers) for _ in range(10)))

        assert {response.status_code for response in responses} == {201}
        assert len({response.headers["Location"] for response in responses}) == 1

    @pytest.mark.parametrize(
        ("path", "body"), [(HERE, RAIN | {"temperature_c": 0}), ("/v1/places/2660646/observations", RAIN)]
    )
    async def test_that_differs_cannot_have_the_same_key(self, gateway: Running, path: str, body: object) -> None:
        headers = {"Idempotency-Key": gateway.stack.journal.started_at.isoformat()}
        await gateway.client.post(HERE, json=RAIN, headers=headers)
        response = await gateway.client.post(path, json=body, headers=headers)

        assert is_problem(response, 409)

    async def test_about_an_unknown_place_is_not_found(self, gateway: Running) -> None:
        assert is_problem(await gateway.client.post("/v1/places/1/observations", json=RAIN), 404)
        assert is_problem(await gateway.client.get("/v1/places/1/observations"), 404)

    @pytest.mark.parametrize("path", [f"{HERE}/{2**63 - 1}", "/v1/places/1/observations/1"])
    async def test_that_was_never_made_is_not_found(self, gateway: Running, path: str) -> None:
        assert is_problem(await gateway.client.get(path), 404)

    @pytest.mark.parametrize("path", [f"{HERE}/0", f"{HERE}/{2**63}", f"{HERE}/x", f"{HERE}?limit=0"])
    async def test_is_asked_for_by_its_id(self, gateway: Running, path: str) -> None:
        assert is_problem(await gateway.client.get(path), 422)

    @pytest.mark.parametrize(
        "change",
        [
            '"temperature_c": "12.5"',
            '"temperature_c": true',
            '"temperature_c": NaN',
            '"temperature_c": Infinity',
            '"temperature_c": 1e999',
            '"temperature_c": -100.1',
            '"temperature_c": 70.1',
            '"temperature_c": null',
            '"condition": "hail"',
            '"condition": "Rain"',
            '"condition": 1',
            '"note": 1',
            '"note": "\\u0000"',
            '"note": "\\ud800"',
            f'"note": "{"x" * 1001}"',
            '"place_id": 1',
        ],
    )
    async def test_that_makes_no_sense_is_refused(self, gateway: Running, change: str) -> None:
        body = '{"temperature_c": 12.5, "condition": "rain", ' + change + "}"
        response = await gateway.client.post(HERE, content=body, headers={"Content-Type": "application/json"})

        assert is_problem(response, 422)

    @pytest.mark.parametrize("note", ["x" * 1000, "\U0001f327" * 1000, "", None, "\u0001 \u2028"])
    async def test_may_have_any_note_that_fits(self, gateway: Running, note: str | None) -> None:
        response = await gateway.client.post(HERE, json=RAIN | {"note": note})

        assert (response.status_code, response.json()["note"]) == (201, note)

    @pytest.mark.parametrize("key", ["", "two words", "x" * 256, "é", "\t"])
    async def test_has_a_key_of_visible_ascii(self, gateway: Running, key: str) -> None:
        response = await gateway.client.post(HERE, json=RAIN, headers=[(b"Idempotency-Key", key.encode())])

        assert is_problem(response, 422)

    async def test_that_is_too_large_is_refused(self, gateway: Running) -> None:
        assert is_problem(await gateway.client.post(HERE, content=b" " * (1024 * 1024 + 1)), 413)

    @pytest.mark.usefixtures("long_calls")
    async def test_may_be_stored_while_the_database_stalls_and_is_answered_in_time(
        self, gateway: Running, servers: Devstack
    ) -> None:
        headers = {"Idempotency-Key": gateway.stack.journal.started_at.isoformat()}
        with servers.postgresql.suspended():
            async with asyncio.timeout(LATE):
                response = await gateway.client.post(HERE, json=RAIN, headers=headers)
        again = await gateway.client.post(HERE, json=RAIN, headers=headers)

        assert is_problem(response, 503)
        assert "same Idempotency-Key" in response.json()["detail"]
        assert again.status_code == 201


class TestAKey:
    @pytest.mark.parametrize("key", KEYS)
    async def test_of_several_lets_one_write(self, gateway: Running, key: str) -> None:
        response = await gateway.client.post(HERE, json=RAIN, headers={"Authorization": f"bearer {key}"})

        assert response.status_code == 201

    @pytest.mark.parametrize(
        "given", ["", "Bearer", "Bearer ", "Bearer old", "Basic old-key", "old-key", "Bearer \u00e9"]
    )
    async def test_that_is_none_is_refused(self, gateway: Running, given: str) -> None:
        response = await gateway.client.post(HERE, json=RAIN, headers=[(b"Authorization", given.encode())])

        assert is_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"

    async def test_is_not_needed_to_read(self, gateway: Running) -> None:
        del gateway.client.headers["Authorization"]

        assert (await gateway.client.get(HERE)).status_code == 200

    async def test_not_set_nobody_may_write_where_who_listens_is_unknown(self, settings: Settings) -> None:
        async with running(settings) as gateway:
            response = await gateway.client.post(HERE, json=RAIN)

        assert is_problem(response, 403)
        assert "GATEWAY_API_KEYS" in response.json()["detail"]

    @pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 201), ("0.0.0.0", 403)])  # noqa: S104 - see below
    async def test_not_set_this_machine_may_write_if_no_other_can_connect(
        self, start: Start, host: str, status: int
    ) -> None:
        process = start("serve", "--host", host, "--port", "0")
        url = (await process.url()).replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is about just that
        async with httpx.AsyncClient() as client:
            response = await client.post(url + HERE, json=RAIN)

        assert response.status_code == status

    async def test_set_even_this_machine_needs_it_and_it_is_never_logged(self, start: Start) -> None:
        process = start("serve", "--port", "0", "--debug", GATEWAY_API_KEYS='["hunter2"]')
        url = await process.url()
        async with httpx.AsyncClient() as client:
            without = await client.post(url + HERE, json=RAIN)
            wrong = await client.post(url + HERE, json=RAIN, headers={"Authorization": "Bearer hunter3"})
            right = await client.post(url + HERE, json=RAIN, headers={"Authorization": "Bearer hunter2"})

        assert (without.status_code, wrong.status_code, right.status_code) == (401, 401, 201)
        assert "hunter" not in process.output

    @pytest.mark.parametrize("keys", ['[""]', '["two words"]', '["one", ""]', '["hunter2\\n"]', "{}", '"hunter2"'])
    async def test_that_could_not_be_told_is_a_bad_setting(self, start: Start, keys: str) -> None:
        process = start("serve", "--port", "0", GATEWAY_API_KEYS=keys)

        assert await process.exit_status() == 3
        assert "GATEWAY_API_KEYS" in process.output
        assert "hunter" not in process.output


async def test_the_openapi_says_what_may_happen_and_that_a_key_is_needed(gateway: Running) -> None:
    schema = (await gateway.client.get("/openapi.json")).json()

    post = schema["paths"]["/v1/places/{place_id}/observations"]["post"]
    assert set(post["responses"]) == {"201", "400", "401", "403", "404", "409", "413", "422", "500", "503"}
    assert post["responses"]["201"]["headers"]["Location"]
    assert post["security"] == [{"key": []}]
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert [parameter["name"] for parameter in post["parameters"]] == ["place_id", "Idempotency-Key"]
