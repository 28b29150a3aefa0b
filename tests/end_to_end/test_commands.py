"""The `gateway` commands that end on their own, and the messages of all commands about invalid settings."""

from signal import SIGHUP, SIGINT, SIGTERM, Signals

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from gateway.devstack.postgresql import RUNTIME_ROLE
from gateway.devstack.stack import Devstack
from gateway.process.exit_status import ExitStatus
from gateway.schema.migrate import migrate
from gateway.schema.transaction import transaction
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import assert_no_server_leaks, open_connections
from tests.support.entries import ENTRIES
from tests.support.waiting import wait_until

INVALID_SETTINGS = {
    "GATEWAY_DATABASE__URL": "mysql://root:hunter2@nowhere/x",
    "GATEWAY_REDIS__URL": "http://:hunter2@nowhere",
    "GATEWAY_RABBITMQ__URL": "amqp://user:hunter2@nowhere:notaport/",
    "GATEWAY_HTTP__WEATHER_URL": "ftp://hunter2@nowhere",
    "GATEWAY_STARTUP_TIMEOUT": "hunter2",
    "GATEWAY_MODEL__START_TIMEOUT": "1e9",
    "GATEWAY_DATABASE__STOP_TIMEOUT": "-1",
    "GATEWAY_REDIS__START_TIMEOUT": "nan",
    "GATEWAY_SHUTDOWN_TIMEOUT": "1",
    "GATEWAY_API_KEYS": "hunter2",
    "GATEWAY_INSTANCE": "two words",
}

COMMANDS = ["serve --port 0", "check", "worker", "migrate", "seed"]


class TestInvalidSettings:
    @pytest.mark.parametrize("name", INVALID_SETTINGS)
    async def test_one_line_names_the_setting(self, start: StartProcess, name: str) -> None:
        """An invalid setting fails before anything is entered, with one line that names it and has no secret."""
        process = start("serve", "--port", "0", **{name: INVALID_SETTINGS[name]})

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert name in process.output
        assert "hunter2" not in process.output
        assert len(process.output.strip().splitlines()) == 1

    @pytest.mark.parametrize("rest", ["/?apikey=hunter2", "?apikey=hunter2", "/hunter2", "#hunter2"])
    async def test_weather_url_must_be_an_origin(self, start: StartProcess, rest: str) -> None:
        """A weather URL with more than an origin is rejected, and the message does not have it."""
        process = start("serve", "--port", "0", GATEWAY_HTTP__WEATHER_URL=f"https://api.example.org{rest}")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert "GATEWAY_HTTP__WEATHER_URL" in process.output
        assert "hunter2" not in process.output

    async def test_unknown_database_option(self, start: StartProcess, environment: dict[str, str]) -> None:
        """An option that the driver does not know is named together with the setting."""
        process = start("serve", "--port", "0", GATEWAY_DATABASE__URL=environment["GATEWAY_DATABASE__URL"] + "?foo=1")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert "GATEWAY_DATABASE__URL" in process.output.splitlines()[-1]
        assert "foo" in process.output.splitlines()[-1]

    @pytest.mark.parametrize("command", ["serve", "check", "worker"])
    async def test_unknown_redis_option(self, start: StartProcess, command: str) -> None:
        """Each command reports an option of the Redis URL that is not supported in the same line."""
        options = ("--port", "0") if command == "serve" else ()
        process = start(command, *options, GATEWAY_REDIS__URL="redis://:hunter2@127.0.0.1:1/0?foo=1")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert process.output == (
            "gateway: GATEWAY_REDIS__URL: has the option 'foo', which is not supported: "
            "the options are db, protocol, ssl_cert_reqs, ssl_check_hostname\n"
        )

    async def test_wrong_password(self, start: StartProcess, environment: dict[str, str]) -> None:
        """The message about a wrong password is one line without the password."""
        url = environment["GATEWAY_DATABASE__URL"]
        password = url.split(":")[2].split("@")[0]
        process = start("serve", "--port", "0", GATEWAY_DATABASE__URL=url.replace(password, "hunter2"))

        assert await process.exit_status() == ExitStatus.START_FAILED
        last_line = process.output.strip().splitlines()[-1]
        assert last_line.startswith("gateway: database: GATEWAY_DATABASE__URL: ")
        assert "user or password" in last_line
        assert "Traceback" not in process.output
        assert "hunter2" not in process.output

    async def test_debug_shows_the_traceback(self, start: StartProcess) -> None:
        """`--debug` adds the traceback, and no password."""
        process = start("serve", "--port", "0", "--debug", GATEWAY_MODEL__PATH="/nowhere")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert "Traceback" in process.output
        assert "hunter2" not in process.output

    @pytest.mark.parametrize("option", ["--port=many", "--root-path=weather", "--root-path=/weather/"])
    async def test_wrong_usage(self, start: StartProcess, option: str) -> None:
        """An invalid option has status 2, as in other programs."""
        assert await start("serve", option).exit_status() == 2


class TestEveryCommand:
    async def test_unknown_database_option(self, start: StartProcess, environment: dict[str, str]) -> None:
        """All commands that use the database report the same line for the same error."""
        url = environment["GATEWAY_DATABASE__URL"] + "?foo=1"
        processes = [start(*command.split(), GATEWAY_DATABASE__URL=url) for command in COMMANDS]

        assert [await process.exit_status() for process in processes] == [ExitStatus.START_FAILED] * len(processes)
        (last_line,) = {process.output.strip().splitlines()[-1] for process in processes}
        assert "GATEWAY_DATABASE__URL: " in last_line
        assert "foo" in last_line

    async def test_name_that_is_almost_a_setting(self, start: StartProcess) -> None:
        """All commands warn of a variable that has no effect, with the nearest name and without the value."""
        variables = {"GATEWAY_REDIS_URL": "redis://:hunter2@host", "GATEWAY_INSTANCE": "two words"}
        processes = [start(*command.split(), **variables) for command in COMMANDS]

        assert [await process.exit_status() for process in processes] == [ExitStatus.START_FAILED] * len(processes)
        for process in processes:
            warning, _ = process.output.splitlines()
            assert warning == "gateway: warning: GATEWAY_REDIS_URL has no effect: did you mean GATEWAY_REDIS__URL?"


class TestCheck:
    async def test_shows_the_timeline(self, start: StartProcess, servers: Devstack, instance: str) -> None:
        """The check prints a table with each entry in order, and leaves no connection."""
        process = start("check")

        assert await process.exit_status() == ExitStatus.OK
        first_words = [line.split()[0] for line in process.output.splitlines() if line.strip()]
        assert first_words == ["entry", *ENTRIES]
        assert await open_connections(servers, instance) == []

    async def test_failed_start_names_the_setting(self, start: StartProcess) -> None:
        """If a resource does not start, the last line names it, its address and its setting."""
        process = start("check", GATEWAY_REDIS__URL="redis://127.0.0.1:1/0", GATEWAY_REDIS__START_TIMEOUT="1")

        assert await process.exit_status() == ExitStatus.START_FAILED
        last_line = process.output.strip().splitlines()[-1]
        assert last_line.startswith("gateway: redis: GATEWAY_REDIS__URL: ")
        assert last_line.endswith(
            "check that 127.0.0.1:1 is available, or correct the variable (not entered within 1 s)"
        )

    async def test_closed_terminal_cancels_the_check(
        self, start: StartProcess, servers: Devstack, instance: str
    ) -> None:
        """The signal of a closed terminal cancels the check, and everything is released."""

        async def is_connected() -> bool:
            return any(name.startswith(instance) for name in await servers.postgresql.clients())

        with servers.redis.suspended():
            process = start("check")
            await wait_until(is_connected, "the database is entered")
            process.send_signal(SIGHUP)

            assert await process.exit_status() == ExitStatus.INTERRUPTED

        await assert_no_server_leaks(servers, instance)

    async def test_redis_accepts_no_writes(self, start: StartProcess, environment: dict[str, str]) -> None:
        """A Redis that accepts no writes fails the check, which names the reason."""
        async with Redis.from_url(environment["GATEWAY_REDIS__URL"]) as redis:
            await redis.config_set("min-replicas-to-write", 1)
            try:
                process = start("check")
                status = await process.exit_status()
            finally:
                await redis.config_set("min-replicas-to-write", 0)

        assert status == ExitStatus.CHECK_FAILED
        assert "gateway: redis: " in process.output
        assert "NOREPLICAS" in process.output

    async def test_weather_server_unavailable(self, start: StartProcess) -> None:
        """A resource that starts but does not work fails the check."""
        process = start("check", GATEWAY_HTTP__WEATHER_URL="http://127.0.0.1:1")

        assert await process.exit_status() == ExitStatus.CHECK_FAILED
        assert "gateway: http: " in process.output


class TestMigrateAndSeed:
    async def test_empty_database(self, start: StartProcess, empty_database: str) -> None:
        """`migrate` and `seed` prepare an empty database, and grant rights on it. A second `seed` inserts nothing."""
        migrated = start("migrate", "--grant-to", RUNTIME_ROLE, GATEWAY_DATABASE__URL=empty_database)
        assert await migrated.exit_status() == ExitStatus.OK
        seeded = start("seed", GATEWAY_DATABASE__URL=empty_database)
        assert await seeded.exit_status() == ExitStatus.OK
        seeded_again = start("seed", GATEWAY_DATABASE__URL=empty_database)
        assert await seeded_again.exit_status() == ExitStatus.OK

        assert migrated.output.endswith(f"; granted the rights to {RUNTIME_ROLE}\n")
        assert "0 unchanged" in seeded.output
        assert "0 places inserted" in seeded_again.output

    async def test_seed_before_migrate(self, start: StartProcess, empty_database: str) -> None:
        """`seed` on a database that is not migrated names the command to run first."""
        process = start("seed", GATEWAY_DATABASE__URL=empty_database)

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert "gateway migrate" in process.output

    @pytest.mark.parametrize("command", ["migrate", "seed"])
    async def test_locked_table(self, start: StartProcess, empty_database: str, command: str) -> None:
        """A command that does not get its locks reports the session that holds them, gives up, and has status 3."""
        if command == "seed":
            await migrate(empty_database)
        async with transaction(empty_database, application_name="stranger") as stranger:
            await stranger.execute(text("SELECT pg_advisory_xact_lock(4711001), pg_advisory_xact_lock(4711002)"))
            process = start(command, "--lock-wait", "0.2", GATEWAY_DATABASE__URL=empty_database)
            assert await process.exit_status() == ExitStatus.START_FAILED

        waiting, failed = process.output.splitlines()
        assert " waits for pid " in waiting
        assert "(stranger, idle in transaction, " in waiting
        assert failed.startswith("gateway: database: the ")
        assert " did not get its locks within 0.2 s: end pid " in failed

    @pytest.mark.parametrize("number", [SIGINT, SIGTERM])
    async def test_signal_cancels_the_statement(
        self, start: StartProcess, empty_database: str, number: Signals
    ) -> None:
        """A stop signal ends a migration that creates an index, and cancels its statement in the server."""
        async with transaction(empty_database, application_name="stranger") as stranger:
            await stranger.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await stranger.execute(text("SELECT 1 FROM pg_class"))
            process = start("migrate", GATEWAY_DATABASE__URL=empty_database)
            await process.wait_for_output("revision 0004 waits for ")
            process.send_signal(number)
            assert await process.exit_status() == ExitStatus.INTERRUPTED
            statements = text(
                "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert (await stranger.scalars(statements)).all() == []

        assert "Traceback" not in process.output

    @pytest.mark.parametrize("command", ["migrate", "seed"])
    async def test_unavailable_database(self, start: StartProcess, command: str) -> None:
        """Without a server at the address, the output is one line with the address and without the password."""
        process = start(command, GATEWAY_DATABASE__URL="postgresql+asyncpg://u:hunter2@127.0.0.1:1/gateway")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert "127.0.0.1:1" in process.output
        assert "hunter2" not in process.output
        assert len(process.output.strip().splitlines()) == 1


async def test_plaintext_connection(start: StartProcess, environment: dict[str, str]) -> None:
    """Each command that serves or checks warns of a connection to another machine without TLS, before it enters anything."""
    variables = {
        "GATEWAY_DATABASE__URL": f"{environment['GATEWAY_DATABASE__URL']}_missing",  # ends the start at once
        "GATEWAY_REDIS__URL": "redis://:hunter2@elsewhere.example/0",
    }
    processes = [start(*command, **variables) for command in (("serve", "--port", "0"), ("worker",), ("check",))]

    for process in processes:
        assert await process.exit_status() == ExitStatus.START_FAILED
        assert (
            "GATEWAY_REDIS__URL: the connection to elsewhere.example is not encrypted: use rediss://" in process.output
        )
        assert "hunter2" not in process.output
