"""The files for the roles of the stack's PostgreSQL, run by psql against a private server as the container runs them."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import yaml

from gateway.devstack import ports
from gateway.devstack.postgresql import PostgreSQLServer, find_postgresql_program
from gateway.resources.database import DatabaseEngine
from gateway.schema.migrate import migrate
from gateway.schema.revision import REVISIONS
from gateway.settings import DatabaseSettings

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "deploy" / "postgres"


class ContainerPostgreSQL(PostgreSQLServer):
    """A PostgreSQL with the access rules of the container: passwords over TCP, and none over its Unix socket."""

    @property
    def socket(self) -> str:
        """The name of the socket, which is no file: the path of the folder may be too long for one."""
        return f"@gateway-{self.port}"

    def command(self) -> list[str]:
        return [*super().command(), f"--unix_socket_directories={self.socket}"]

    async def prepare(self) -> None:
        await super().prepare()
        self.write("data/pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")

    async def initialize(self) -> None:
        """Create nothing."""

    async def psql(self, user: str, database: str, script: str) -> None:
        """Run a script as a user, with psql."""
        process = await asyncio.create_subprocess_exec(
            find_postgresql_program("psql"),
            *("--no-psqlrc", "--quiet", "-h", self.socket, "-p", str(self.port), "-U", user, "-d", database),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        )
        output, _ = await process.communicate(script.encode())
        assert process.returncode == 0, output.decode()


@pytest.fixture
def stack_secrets(tmp_path: Path) -> Path:
    """The folder that `deploy/new-secrets` creates."""
    folder = tmp_path / "secrets"
    subprocess.run([ROOT / "deploy" / "new-secrets", folder], check=True)  # noqa: S603 - our own script
    return folder


@pytest.fixture
async def server(devstack_folder: Path) -> AsyncIterator[ContainerPostgreSQL]:
    async with ContainerPostgreSQL(devstack_folder / "container") as server:
        yield server


def url_of(server: PostgreSQLServer, secrets: Path, name: str) -> str:
    """Return the URL in a secret, with the address of the server."""
    return (secrets / name).read_text().strip().replace("@postgres:5432", f"@{ports.LOOPBACK}:{server.port}")


def test_every_secret_exists(stack_secrets: Path) -> None:
    """The stack has the same secrets as the public folder and as a new one."""
    stack = yaml.safe_load((ROOT / "compose.yaml").read_text())
    names = {secret["file"].rpartition("/")[2] for secret in stack["secrets"].values()}

    assert {path.name for path in stack_secrets.iterdir()} == names
    assert {path.name for path in (ROOT / "deploy" / "secrets").iterdir()} == {*names, "README.md"}


async def test_volume_of_the_previous_version(server: ContainerPostgreSQL, stack_secrets: Path, tmp_path: Path) -> None:
    """A volume whose superuser is `gateway` gets the roles. The tables belong to the owner, and the data is still there."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for script in ("roles.sql", "upgrade.sql"):
        text = (SCRIPTS / script).read_text().replace("/run/secrets", str(stack_secrets))
        (scripts / script).write_text(text.replace("/docker-entrypoint-initdb.d", str(scripts)))
    await server.psql("postgres", "postgres", "CREATE ROLE other SUPERUSER LOGIN")
    await server.psql("other", "postgres", "ALTER ROLE postgres RENAME TO gateway")
    await server.psql("gateway", "postgres", "DROP ROLE other; ALTER ROLE gateway PASSWORD 'old'")
    await server.psql("gateway", "postgres", "CREATE DATABASE gateway")
    await migrate(f"postgresql+asyncpg://gateway:old@{ports.LOOPBACK}:{server.port}/gateway")
    await server.psql("gateway", "gateway", "INSERT INTO consumed_events VALUES (gen_random_uuid())")

    await server.psql("gateway", "gateway", (scripts / "upgrade.sql").read_text())

    server.superuser_password = (stack_secrets / "postgres_password").read_text().strip()
    owner_url = url_of(server, stack_secrets, "owner_database_url")
    url = url_of(server, stack_secrets, "GATEWAY_DATABASE__URL")
    result = await migrate(owner_url, grant_to="gateway")
    assert (result.found, result.applied) == (REVISIONS[-1], ())
    async with DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test").open():
        pass
    async with server.superuser("gateway") as superuser:
        roles = await superuser.fetch("SELECT rolname, rolsuper FROM pg_roles WHERE rolcanlogin ORDER BY rolname")
        owners = await superuser.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert [tuple(role) for role in roles] == [("gateway", False), ("gateway_owner", False), ("postgres", True)]
        assert [owner[0] for owner in owners] == ["gateway_owner"]
        assert await superuser.fetchval("SELECT count(*) FROM consumed_events") == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(url.replace("+asyncpg", "").removesuffix("gateway") + "postgres", ssl=False)
