"""The commands for operators: `gateway observations`, `gateway outbox` and `gateway dead-letters`."""

import json
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from sqlalchemy import func, insert, text

from gateway.devstack.stack import Devstack
from gateway.events.topology import DEAD_LETTERS, declare
from gateway.observations.reports import NewObservation
from gateway.process.exit_status import ExitStatus
from gateway.schema.migrate import migrate
from gateway.schema.tables import outbox
from gateway.schema.transaction import transaction
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import RunningGateway, open_connections
from tests.end_to_end.test_worker import broker
from tests.events.conftest import vhost

__all__ = ["broker", "vhost"]

NOTED_PLACE_ID = 2659310  # that no other test uses


@pytest.fixture
async def parked(servers: Devstack) -> AsyncIterator[list[int]]:
    """The ids of two parked events of a type that no queue takes."""
    entry = {"type": "of.\x1bno.queue", "body": "{}", "attempts": 10, "parked_at": func.now(), "last_error": "no queue"}
    async with transaction(servers.postgresql.url, application_name="test") as connection:
        ids = [
            (
                await connection.execute(insert(outbox).values(event_id=uuid4(), **entry).returning(outbox.c.id))
            ).scalar_one()
            for _ in range(2)
        ]
    yield ids
    async with transaction(servers.postgresql.url, application_name="test") as connection:
        await connection.execute(outbox.delete().where(outbox.c.id.in_(ids)))


@pytest.fixture
async def migrated_database(empty_database: str) -> str:
    """The URL of a new database with the tables."""
    await migrate(empty_database)
    return empty_database


class TestObservations:
    async def test_remove_notes(self, start: StartProcess, servers: Devstack, gateway: RunningGateway) -> None:
        """The notes of a reporter are removed. A brief that has shown one does not show it again, nor do other responses."""
        new = NewObservation(NOTED_PLACE_ID, 12.5, "rain", "a spiteful note", reporter="mallory")
        observation, _ = await gateway.services.writer.write(new, None)
        place = f"/v1/places/{NOTED_PLACE_ID}"
        paths = (f"{place}/brief", f"{place}/observations", f"{place}/observations/{observation.id}")
        before = [(await gateway.client.get(path)).text for path in paths]

        command = partial(start, "observations", "remove-notes", GATEWAY_DATABASE__URL=servers.postgresql.owner_url)
        later = command("--reporter", "mallory", "--since", "2999-01-01T00:00:00Z")
        assert (await later.exit_status(), later.output) == (ExitStatus.OK, "0 removed\n")
        removed = command("--reporter", "mallory", "--since", "2026-01-01")
        assert (await removed.exit_status(), removed.output) == (ExitStatus.OK, "1 removed\n")
        after = [(await gateway.client.get(path)).text for path in paths]
        assert all("a spiteful note" in text for text in before)
        assert after[1:] == [text.replace('"a spiteful note"', "null") for text in before[1:]]
        assert "a spiteful note" not in after[0]

    async def test_empty_name(self, start: StartProcess) -> None:
        """An empty name, for instance of an unset variable, is rejected: all observations without a key have it."""
        process = start("observations", "remove-notes", "--reporter", "")

        assert await process.exit_status() == 2
        assert "the name of an API key" in process.output


class TestOutbox:
    async def test_list_replay_and_drop(
        self, start: StartProcess, servers: Devstack, instance: str, parked: list[int]
    ) -> None:
        """Parked events are listed, and then one is replayed and the other one dropped. No connection is left."""
        listed = start("outbox", "list")
        assert await listed.exit_status() == ExitStatus.OK
        header, *rows = listed.output.splitlines()
        assert header.split() == ["id", "event_id", "type", "age_s", "attempts", "parked", "size", "error"]
        assert [int(row.split()[0]) for row in rows] == parked
        assert "of.?no.queue" in rows[0]

        replayed = start("outbox", "replay", str(parked[0]))
        assert (await replayed.exit_status(), replayed.output) == (ExitStatus.OK, "1 replayed\n")
        as_json = start("outbox", "list", "--json", "--body")
        assert await as_json.exit_status() == ExitStatus.OK
        (entry,) = json.loads(as_json.output)["items"]
        assert (entry["id"], entry["body"]) == (parked[1], "{}")

        dropped = start("outbox", "drop", "--all")
        assert (await dropped.exit_status(), dropped.output) == (ExitStatus.OK, "1 dropped\n")
        empty = start("outbox", "list")
        assert (await empty.exit_status(), empty.output) == (ExitStatus.OK, "none\n")
        assert await open_connections(servers, instance) == []

    async def test_unknown_id(self, start: StartProcess, servers: Devstack) -> None:
        """An id that is not parked is reported."""
        del servers
        process = start("outbox", "drop", "999999999")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert process.output.splitlines() == ["0 dropped", "gateway: not found: 999999999"]

    @pytest.mark.parametrize(
        "arguments", [["outbox", "drop"], ["dead-letters", "replay", "--all", "one"]], ids=" ".join
    )
    async def test_selection_is_explicit(self, start: StartProcess, arguments: list[str]) -> None:
        """Without ids and without `--all`, or with both, nothing is changed, and the status is 2."""
        process = start(*arguments)

        assert await process.exit_status() == 2
        assert "ids or --all" in process.output

    async def test_missing_right(self, start: StartProcess, servers: Devstack, migrated_database: str) -> None:
        """A database without rights for the user is reported in the line of all commands, with the command that grants them."""
        url = servers.postgresql.url_of(urlsplit(migrated_database).path[1:])
        process = start("outbox", "drop", "--all", GATEWAY_DATABASE__URL=url)

        assert await process.exit_status() == ExitStatus.START_FAILED
        (line,) = process.output.splitlines()
        assert line.startswith("gateway: database: GATEWAY_DATABASE__URL: the server at 127.0.0.1:")
        assert " does not permit this to the user: grant its rights with `gateway migrate --grant-to`, or " in line

    async def test_locked_table(self, start: StartProcess, migrated_database: str) -> None:
        """A lock of another session is reported as a timeout, and no variable is blamed."""
        async with transaction(migrated_database, application_name="test") as connection:
            await connection.execute(text("LOCK TABLE outbox"))
            process = start("outbox", "list", GATEWAY_DATABASE__URL=migrated_database)
            status = await process.exit_status()

        assert status == ExitStatus.START_FAILED
        (line,) = process.output.splitlines()
        assert line.startswith("gateway: database: the server at 127.0.0.1:")
        assert line.endswith(" did not respond in time: another session may hold a lock, or the server is overloaded")

    @pytest.mark.parametrize("command", ["drop", "replay"])
    async def test_id_that_is_too_large(self, start: StartProcess, command: str) -> None:
        """An id that does not fit into the column is a wrong argument."""
        process = start("outbox", command, str(2**63))

        assert await process.exit_status() == 2
        assert str(2**63 - 1) in process.output
        assert "GATEWAY" not in process.output


class TestDeadLetters:
    @pytest.fixture
    async def environment(self, environment: dict[str, str], vhost: str, broker: AbstractChannel) -> dict[str, str]:
        """The variables for a new virtual host with a dead letter that no queue takes and one that can be processed."""
        await declare(broker)
        for message in (Message(b"{}", message_id="a", type="x"), Message(b"{}", message_id="b", type="brief.viewed")):
            await broker.default_exchange.publish(message, DEAD_LETTERS)
        return environment | {"GATEWAY_RABBITMQ__URL": vhost}

    async def test_list_replay_and_drop(self, start: StartProcess) -> None:
        """Dead letters are listed. A replay keeps those that no queue takes, and reports them. They can be dropped."""
        listed = start("dead-letters", "list")
        assert await listed.exit_status() == ExitStatus.OK
        assert [line.split()[:2] for line in listed.output.splitlines()] == [
            ["id", "type"],
            ["a", "x"],
            ["b", "brief.viewed"],
        ]

        replayed = start("dead-letters", "replay", "--all")
        assert await replayed.exit_status() == ExitStatus.START_FAILED
        assert set(replayed.output.splitlines()) == {"gateway: no queue takes a: kept", "1 replayed"}
        dropped = start("dead-letters", "drop", "a")
        assert (await dropped.exit_status(), dropped.output) == (ExitStatus.OK, "1 dropped\n")

    async def test_replay_during_an_alarm(self, start: StartProcess, servers: Devstack) -> None:
        """An alarm of the broker is reported with its reason, and no variable is blamed."""
        async with servers.rabbitmq.memory_alarm():
            replayed = start("dead-letters", "replay", "--all")
            status = await replayed.exit_status()

        message = "gateway: rabbitmq: blocked by an alarm of the broker: low on memory\n"
        assert (status, replayed.output) == (ExitStatus.START_FAILED, message)


@pytest.mark.parametrize(
    ("command", "variable"), [("outbox", "GATEWAY_DATABASE__URL"), ("dead-letters", "GATEWAY_RABBITMQ__URL")]
)
async def test_unavailable_server(start: StartProcess, command: str, variable: str) -> None:
    """Without a server at the address, the last line names the variable."""
    scheme = "amqp" if command == "dead-letters" else "postgresql+asyncpg"
    url = f"{scheme}://u:hunter2@127.0.0.1:1/gateway"
    timeout = variable.replace("URL", "START_TIMEOUT")
    process = start(command, "list", **{variable: url, timeout: "1"})

    assert await process.exit_status() == ExitStatus.START_FAILED
    assert variable in process.output.strip().splitlines()[-1]
    assert "hunter2" not in process.output
