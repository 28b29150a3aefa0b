"""Reporting observations over HTTP: validation, idempotency keys and API keys."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from gateway.devstack.stack import Devstack
from gateway.observations.reports import NewObservation
from gateway.observations.writer import ObservationWriter
from gateway.schema.tables import observations
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key
from tests.end_to_end.conftest import MAX_RESPONSE_TIME, StartProcess
from tests.end_to_end.harness import RunningGateway, running_gateway
from tests.end_to_end.test_api import is_problem
from tests.support.reports import insert_observation
from tests.support.waiting import wait_until

SECRETS = {"alice": "secret-of-alice-1", "bob": "secret-of-bob-234"}
RAIN: dict[str, Any] = {"temperature_c": 12.5, "condition": "rain", "note": "wet"}
PLACE_ID = 3041563  # that no other test uses
URL = f"/v1/places/{PLACE_ID}/observations"


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[RunningGateway]:
    """A gateway with the API keys of Alice and Bob, and a client that sends Alice's."""
    keys = tuple(parse_api_key(f"{name}:{secret}") for name, secret in SECRETS.items())
    async with running_gateway(settings.model_copy(update={"api_keys": keys})) as gateway:
        gateway.client.headers["Authorization"] = f"Bearer {SECRETS['alice']}"
        yield gateway


@pytest.fixture
def key(gateway: RunningGateway) -> dict[str, str]:
    """The headers with an idempotency key that no other test uses."""
    return {"Idempotency-Key": gateway.stack.journal.started_at.isoformat()}


class TestReports:
    async def test_created_observation_can_be_read(self, gateway: RunningGateway) -> None:
        """A report gets a 201. Its observation is at its Location and in the list of the place."""
        created = await gateway.client.post(URL, json=RAIN)
        found = await gateway.client.get(created.headers["Location"])
        latest = (await gateway.client.get(URL)).json()["items"][0]

        assert created.status_code == 201
        assert created.content == found.content
        assert created.json() == latest
        assert created.headers["Location"] == f"{URL}/{created.json()['id']}"
        assert {name: created.json()[name] for name in RAIN} == RAIN

    async def test_time_of_the_reporter(self, gateway: RunningGateway, key: dict[str, str]) -> None:
        """A report may have the time of the observation, with any offset. It is returned in UTC, also in the brief."""
        hour_ago = (datetime.now(UTC) - timedelta(hours=1)).replace(microsecond=0)
        local = hour_ago.astimezone(timezone(timedelta(hours=5, minutes=45))).isoformat()
        created = await gateway.client.post(URL, json=RAIN | {"observed_at": local}, headers=key)
        again = await gateway.client.post(URL, json=RAIN | {"observed_at": hour_ago.isoformat()}, headers=key)
        brief = (await gateway.client.get(URL.replace("observations", "brief"))).json()

        assert local.endswith("+05:45")
        assert created.status_code == 201, created.text
        assert created.json()["observed_at"] == hour_ago.isoformat().replace("+00:00", "Z")
        assert again.json() == created.json()
        assert brief["sections"]["observations"]["data"][0] == created.json()

    async def test_repeated_key_gives_the_same_response(self, gateway: RunningGateway, key: dict[str, str]) -> None:
        """A report that is sent again with its key gets the same status, body and Location, and is marked as a replay."""
        first = await gateway.client.post(URL, json=RAIN, headers=key)
        again = await gateway.client.post(URL, json=RAIN, headers=key)

        assert (first.status_code, first.content, first.headers["Location"]) == (
            again.status_code,
            again.content,
            again.headers["Location"],
        )
        assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")

    async def test_concurrent_reports_with_one_key(self, gateway: RunningGateway, key: dict[str, str]) -> None:
        """Ten concurrent reports with one key create one observation. The others are replays, or have to be sent again."""
        responses = await asyncio.gather(*(gateway.client.post(URL, json=RAIN, headers=key) for _ in range(10)))

        created = [response for response in responses if response.status_code == 201]
        assert [response.headers.get("Idempotency-Replayed") for response in created].count(None) == 1
        assert len({response.headers["Location"] for response in created}) == 1
        assert all(is_problem(response, 409) for response in responses if response not in created)

    async def test_report_in_flight(self, gateway: RunningGateway, key: dict[str, str]) -> None:
        """While a report is being stored, another one with its key gets a 409. Sent again after that, it is a replay."""
        report = NewObservation(PLACE_ID, RAIN["temperature_c"], RAIN["condition"], RAIN["note"], reporter="alice")
        async with gateway.services.database.begin() as connection:
            await insert_observation(connection, report, key["Idempotency-Key"])
            early = await gateway.client.post(URL, json=RAIN, headers=key)
        again = await gateway.client.post(URL, json=RAIN, headers=key)

        assert is_problem(early, 409)
        assert early.headers["Retry-After"] == "1"
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")

    async def test_reused_key_is_rejected(self, gateway: RunningGateway, key: dict[str, str]) -> None:
        """A different report with the same key gets a 422."""
        await gateway.client.post(URL, json=RAIN, headers=key)
        response = await gateway.client.post(URL, json=RAIN | {"temperature_c": 0}, headers=key)

        assert is_problem(response, 422)
        assert "Send this report with a new key" in response.json()["detail"]

    async def test_keys_of_others(self, gateway: RunningGateway, key: dict[str, str]) -> None:
        """The same report and idempotency key of another reporter, or for another place, is another observation."""
        first = await gateway.client.post(URL, json=RAIN, headers=key)
        other_place = await gateway.client.post("/v1/places/2660646/observations", json=RAIN, headers=key)
        gateway.client.headers["Authorization"] = f"Bearer {SECRETS['bob']}"
        other_reporter = await gateway.client.post(URL, json=RAIN, headers=key)

        responses = (first, other_place, other_reporter)
        assert [response.status_code for response in responses] == [201] * 3
        assert len({response.json()["id"] for response in responses}) == 3
        assert not any("Idempotency-Replayed" in response.headers for response in responses)

    async def test_unknown_place_is_not_found(self, gateway: RunningGateway) -> None:
        """The observations of an unknown place can be neither written nor read."""
        assert is_problem(await gateway.client.post("/v1/places/1/observations", json=RAIN), 404)
        assert is_problem(await gateway.client.get("/v1/places/1/observations"), 404)

    @pytest.mark.parametrize("path", [f"{URL}/{2**63 - 1}", "/v1/places/1/observations/1"])
    async def test_unknown_observation_is_not_found(self, gateway: RunningGateway, path: str) -> None:
        """The response for an unknown observation is a 404, also if the place does not exist."""
        assert is_problem(await gateway.client.get(path), 404)

    @pytest.mark.parametrize("path", [f"{URL}/0", f"{URL}/{2**63}", f"{URL}/x", f"{URL}?limit=0"])
    async def test_invalid_id_or_limit_is_rejected(self, gateway: RunningGateway, path: str) -> None:
        """Ids and limits are positive numbers in the range of the database."""
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
            '"condition": "frogs"',
            '"condition": "Rain"',
            '"condition": 1',
            '"note": 1',
            '"note": "\\u0000"',
            '"note": "\\ud800"',
            f'"note": "{"x" * 1001}"',
            '"place_id": 1',
            '"observed_at": "2026-11-24T14:15:00"',
        ],
    )
    async def test_invalid_report_is_rejected(self, gateway: RunningGateway, change: str) -> None:
        """A report with an unknown field, or a field of a wrong type or value, gets a 422."""
        body = '{"temperature_c": 12.5, "condition": "rain", ' + change + "}"
        response = await gateway.client.post(URL, content=body, headers={"Content-Type": "application/json"})

        assert is_problem(response, 422)

    @pytest.mark.parametrize("note", ["x" * 1000, "\U0001f327" * 1000, "", None, "\u0001 \u2028"])
    async def test_any_short_note_is_accepted(self, gateway: RunningGateway, note: str | None) -> None:
        """A note of up to a thousand characters is stored as it was sent."""
        response = await gateway.client.post(URL, json=RAIN | {"note": note})

        assert (response.status_code, response.json()["note"]) == (201, note)

    @pytest.mark.parametrize("key", ["", "two words", "x" * 256, "é", "\t"])
    async def test_invalid_idempotency_key_is_rejected(self, gateway: RunningGateway, key: str) -> None:
        """An idempotency key consists of 1 to 255 visible ASCII characters."""
        response = await gateway.client.post(URL, json=RAIN, headers=[(b"Idempotency-Key", key.encode())])

        assert is_problem(response, 422)

    async def test_large_body_is_rejected(self, gateway: RunningGateway) -> None:
        """A body of more than 16 KiB gets a 413."""
        assert is_problem(await gateway.client.post(URL, content=b" " * (16 * 1024 + 1)), 413)

    @pytest.mark.usefixtures("long_calls")
    async def test_paused_database_is_unavailable(
        self, gateway: RunningGateway, servers: Devstack, key: dict[str, str]
    ) -> None:
        """While the database does not respond, a report gets a 503 in time, with the advice to retry with its key.

        A report without a key gets other advice.
        """
        with servers.postgresql.suspended():
            async with asyncio.timeout(MAX_RESPONSE_TIME):
                response, without_key = await asyncio.gather(
                    *(gateway.client.post(URL, json=RAIN, headers=headers) for headers in (key, {}))
                )

        async def is_stored() -> bool:
            again = await gateway.client.post(URL, json=RAIN, headers=key)
            assert again.status_code == 201 or is_problem(again, 409)  # the first write may still be in flight
            return again.status_code == 201

        await wait_until(is_stored, "the report is stored")
        assert is_problem(response, 503)
        assert is_problem(without_key, 503)
        assert "same Idempotency-Key" in response.json()["detail"]
        assert "may have been stored" in without_key.json()["detail"]
        assert "Idempotency-Key" not in without_key.json()["detail"]


class TestApiKeys:
    @pytest.mark.parametrize("name", SECRETS)
    async def test_reporter_is_stored_and_not_shown(self, gateway: RunningGateway, name: str) -> None:
        """Each of several keys is accepted. Its name is stored with the observation, and no response has it."""
        created = await gateway.client.post(URL, json=RAIN, headers={"Authorization": f"bearer {SECRETS[name]}"})
        shown = [created, *[await gateway.client.get(path) for path in (URL, created.headers["Location"])]]

        by_id = select(observations.c.reporter).where(observations.c.id == created.json()["id"])
        async with gateway.services.database.connect() as connection:
            assert await connection.scalar(by_id) == name
        assert created.status_code == 201
        assert not any(name in response.text for response in shown)

    async def test_reporter_is_in_the_log(self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
        """All log lines of a request with a key have its name, and no others."""
        bound: list[object] = []

        async def fail(*_: object) -> None:
            bound.append(get_contextvars().get("reporter"))
            raise ZeroDivisionError

        monkeypatch.setattr(ObservationWriter, "write", fail)
        with capture_logs(processors=[merge_contextvars]) as lines:
            await gateway.client.post(URL, json=RAIN)

        assert bound == ["alice"]
        assert [line["reporter"] for line in lines if line["event"] == "request failed"] == ["alice"]
        assert "reporter" not in get_contextvars()

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {SECRETS['alice'][:-1]}",
            f"Basic {SECRETS['alice']}",
            SECRETS["alice"],
            f"Bearer alice:{SECRETS['alice']}",
            "Bearer \u00e9",
        ],
    )
    async def test_wrong_key_is_rejected(self, gateway: RunningGateway, given: str) -> None:
        """A missing, malformed or unknown key gets a 401 with the scheme."""
        response = await gateway.client.post(URL, json=RAIN, headers=[(b"Authorization", given.encode())])

        assert is_problem(response, 401)
        assert response.headers["WWW-Authenticate"] == "Bearer"

    async def test_reading_needs_no_key(self, gateway: RunningGateway) -> None:
        """Observations can be read without a key."""
        del gateway.client.headers["Authorization"]

        assert (await gateway.client.get(URL)).status_code == 200

    async def test_unknown_listener_forbids_writing(self, settings: Settings) -> None:
        """Without keys and with an unknown listening address, writing is forbidden. A stranger learns no name of a setting."""
        async with running_gateway(settings) as gateway:
            response = await gateway.client.post(URL, json=RAIN)

        assert is_problem(response, 403)
        assert "GATEWAY_" not in response.json()["detail"]

    async def test_writing_without_keys(self, start: StartProcess) -> None:
        """Without keys, writing is forbidden if other machines can reach the gateway. A client on this machine gets the setting.

        test_local_writes.py has the other case.
        """
        process = start("serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104 - the case under test
        url = (await process.url()).replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - not bound here
        async with httpx.AsyncClient() as client:
            response = await client.post(url + URL, json=RAIN)

        assert is_problem(response, 403)
        assert "GATEWAY_API_KEYS" in response.json()["detail"]

    async def test_keys_are_required_and_not_logged(self, start: StartProcess) -> None:
        """If keys are configured, writing needs one on loopback, too. No key appears in the output."""
        process = start("serve", "--port", "0", "--debug", GATEWAY_API_KEYS='["alice:hunter2hunter2hunter2"]')
        url = await process.url()
        async with httpx.AsyncClient() as client:
            without = await client.post(url + URL, json=RAIN)
            wrong = await client.post(url + URL, json=RAIN, headers={"Authorization": "Bearer hunter3"})
            authorized = {"Authorization": "Bearer hunter2hunter2hunter2"}
            right = await client.post(url + URL, json=RAIN, headers=authorized)
            foreign = authorized | {"Host": "evil.example", "Origin": "null", "Via": "1.1 proxy"}
            proxied = await client.post(url + URL, json=RAIN, headers=foreign)

        assert (without.status_code, wrong.status_code) == (401, 401)
        assert (right.status_code, proxied.status_code) == (201, 201)
        assert "hunter" not in process.output
        assert process.output.count('"event": "observation stored"') == 2

    async def test_invalid_keys_fail_the_startup(self, start: StartProcess) -> None:
        """A key without a name fails the startup. The error names the variable and the advice, not the key."""
        process = start("serve", "--port", "0", GATEWAY_API_KEYS='["hunter2hunter2hunter2"]')

        assert await process.exit_status() == 3
        assert process.output.startswith("gateway: GATEWAY_API_KEYS: item 1: should begin with a name")
        assert "hunter" not in process.output


async def test_openapi_of_reporting(gateway: RunningGateway) -> None:
    """The OpenAPI document lists the responses, the Location header, the parameters and the API key."""
    schema = (await gateway.client.get("/openapi.json")).json()

    post = schema["paths"]["/v1/places/{place_id}/observations"]["post"]
    assert set(post["responses"]) == {"201", "400", "401", "403", "404", "409", "413", "415", "422", "500", "503"}
    assert set(post["responses"]["201"]["headers"]) == {"Location", "Idempotency-Replayed", "X-Request-ID"}
    assert "report-in-progress" in post["responses"]["409"]["description"]
    assert "idempotency-key-reused" in post["responses"]["422"]["description"]
    assert post["security"] == [{"api_key": []}]
    assert schema["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    assert [parameter["name"] for parameter in post["parameters"]] == ["place_id", "Idempotency-Key"]
