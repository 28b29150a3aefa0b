"""The rights of the runtime role: it gets exactly those of the table, and can do nothing else."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.devstack.postgresql import OWNER_ROLE, RUNTIME_ROLE, PostgreSQLServer
from gateway.resources.base import PermanentError
from gateway.resources.database import DatabaseEngine
from gateway.schema.migrate import MigrationResult, migrate
from gateway.schema.revision import HEAD, REVISIONS
from gateway.schema.rights import RUNTIME_RIGHTS, Right, RoleError, describe_missing_rights
from gateway.schema.tables import metadata
from gateway.schema.transaction import transaction
from gateway.settings import DatabaseSettings

# The rights of a role on tables and columns, in the catalogue of PostgreSQL.
GRANTED = """
    SELECT privilege_type, relname, '' FROM pg_class, aclexplode(relacl)
    WHERE relnamespace = 'public'::regnamespace AND grantee = $1::regrole
    UNION ALL
    SELECT privilege_type, relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
    WHERE relnamespace = 'public'::regnamespace AND grantee = $1::regrole
"""
INSUFFICIENT_PRIVILEGE = "42501"
FORBIDDEN = [
    "CREATE TABLE mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "DROP TABLE outbox",
    "ALTER TABLE places ADD mine integer",
    "ALTER TABLE observations DISABLE TRIGGER ALL",
    "CREATE INDEX ON places (name)",
    "TRUNCATE outbox",
    "DELETE FROM places",
    "DELETE FROM observations",
    "INSERT INTO places (id) VALUES (1)",
    "UPDATE places SET name = ''",
    "UPDATE observations SET note = ''",
    "UPDATE alembic_version SET version_num = ''",
    "UPDATE consumed_events SET consumed_at = now()",
    f"SET ROLE {OWNER_ROLE}",
    "SELECT * FROM pg_authid",
    "SELECT pg_read_file('PG_VERSION')",
    "COPY places TO PROGRAM 'true'",
]


@pytest.fixture(scope="module")
async def database(postgresql_server: PostgreSQLServer) -> str:
    """The name of a database whose tables and schema only the owner may use, migrated with `grant_to`."""
    name = "schema_rights"
    url = await postgresql_server.create_database(name)
    async with postgresql_server.superuser(name) as superuser:
        await superuser.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC, {RUNTIME_ROLE}")
        await superuser.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    assert await migrate(url, grant_to=RUNTIME_ROLE) == MigrationResult(None, REVISIONS, RUNTIME_ROLE)
    return name


@pytest.fixture
async def runtime(postgresql_server: PostgreSQLServer, database: str) -> AsyncIterator[AsyncConnection]:
    """A connection of the runtime role, in a transaction that is rolled back after the test."""
    async with transaction(postgresql_server.url_of(database), application_name="test") as connection:
        yield connection
        await connection.rollback()


async def granted(server: PostgreSQLServer, database: str) -> list[Right]:
    """Return the rights of the runtime role, in order."""
    async with server.superuser(database) as superuser:
        return sorted(Right(*row) for row in await superuser.fetch(GRANTED, RUNTIME_ROLE))


def test_every_table_has_rights() -> None:
    """Each table has a row in the table of rights. A table without one could not even be read."""
    assert {right.table for right in RUNTIME_RIGHTS} == {*metadata.tables, "alembic_version"}


async def test_exactly_the_rights(postgresql_server: PostgreSQLServer, database: str) -> None:
    """The role gets the rights of the table. A second migration takes others away, and leaves those of other roles."""
    assert await granted(postgresql_server, database) == sorted(RUNTIME_RIGHTS)
    async with postgresql_server.superuser(database) as superuser:
        await superuser.execute(f"GRANT TRUNCATE, UPDATE ON observations TO {RUNTIME_ROLE}")
        await superuser.execute(f"GRANT UPDATE (name) ON places TO {RUNTIME_ROLE}")
        await superuser.execute("GRANT SELECT ON places TO pg_monitor")

    result = await migrate(postgresql_server.owner_url_of(database), grant_to=RUNTIME_ROLE)

    assert result == MigrationResult(HEAD, (), RUNTIME_ROLE)
    assert await granted(postgresql_server, database) == sorted(RUNTIME_RIGHTS)
    async with postgresql_server.superuser(database) as superuser:
        assert await superuser.fetchval("SELECT has_table_privilege('pg_monitor', 'places', 'SELECT')")


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_forbidden(runtime: AsyncConnection, statement: str) -> None:
    """The role can change no table, delete no observation and change no place. It can read no secret of the server."""
    with pytest.raises(DBAPIError) as caught:
        await runtime.exec_driver_sql(statement)

    assert getattr(caught.value.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        ("unknown", "does not exist"),
        (OWNER_ROLE, "is a superuser, owns the database, its schema or tables, or is the user of the URL"),
        ("postgres", "is a superuser"),
    ],
)
async def test_unusable_role(empty_database: str, role: str, reason: str) -> None:
    """A role that does not exist, or that rights do not limit, is rejected before anything is changed."""
    with pytest.raises(RoleError, match=reason):
        await migrate(empty_database, grant_to=role)

    async with transaction(empty_database, application_name="test") as connection:
        assert await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None


async def test_owner_of_existing_tables(postgresql_server: PostgreSQLServer) -> None:
    """A role that owns tables keeps its rights, also if another user migrates."""
    name = "schema_owned"
    url = await postgresql_server.create_database(name)
    await migrate(url)
    async with postgresql_server.superuser(name) as superuser:
        await superuser.execute(f"ALTER TABLE outbox OWNER TO {RUNTIME_ROLE}")
    with pytest.raises(RoleError, match="or tables"):
        await migrate(url, grant_to=RUNTIME_ROLE)


@pytest.mark.parametrize("owned", ["DATABASE {name}", "SCHEMA public"])
async def test_owner_of_what_has_the_tables(postgresql_server: PostgreSQLServer, owned: str) -> None:
    """A role that owns the database or the schema can drop the tables, and is rejected."""
    name = "rights_owned"
    url = await postgresql_server.create_database(name)
    async with postgresql_server.superuser(name) as superuser:
        await superuser.execute(f"GRANT ALL ON SCHEMA public TO {OWNER_ROLE}")
        await superuser.execute(f"GRANT CONNECT ON DATABASE {name} TO PUBLIC")
        await superuser.execute(f"ALTER {owned.format(name=name)} OWNER TO {RUNTIME_ROLE}")
    try:
        with pytest.raises(RoleError, match="owns the database"):
            await migrate(url, grant_to=RUNTIME_ROLE)
    finally:
        await postgresql_server.drop_database(name)


async def test_rights_of_a_group(postgresql_server: PostgreSQLServer) -> None:
    """A role that has more rights as a member of another role is rejected, and gets nothing."""
    name, group = "rights_grouped", "group_of_writers"
    url = await postgresql_server.create_database(name)
    await migrate(url)
    async with postgresql_server.superuser(name) as superuser:
        await superuser.execute(f"CREATE ROLE {group}")
        try:
            await superuser.execute(f"GRANT DELETE ON observations TO {group}")
            await superuser.execute(f"GRANT {group} TO {RUNTIME_ROLE}")
            with pytest.raises(RoleError, match="has DELETE ON observations by other grants"):
                await migrate(url, grant_to=RUNTIME_ROLE)
            assert not await superuser.fetchval(f"SELECT has_table_privilege('{RUNTIME_ROLE}', 'places', 'SELECT')")
        finally:
            await superuser.execute(f"REVOKE ALL ON observations FROM {group}")
            await superuser.execute(f"DROP ROLE {group}")
    await postgresql_server.drop_database(name)


async def test_names_that_need_quotes(postgresql_server: PostgreSQLServer) -> None:
    """The names of the role, the database and the schema may need quotes. The rights are those in the schema of the session."""
    name, role = "schema-Unusual", 'a "role" :of %s'
    quoted = '"a ""role"" :of %s"'
    url = f"{await postgresql_server.create_database(name)}?options=-c%20search_path%3D%22My-schema%22"
    async with postgresql_server.superuser(name) as superuser:
        await superuser.execute(f'CREATE SCHEMA "My-schema" AUTHORIZATION {OWNER_ROLE}; CREATE ROLE {quoted}')
        try:
            await migrate(url, grant_to=role)
            rights = await superuser.fetchrow(f"""
                SELECT has_database_privilege('{role}', '{name}', 'CONNECT'),
                    has_schema_privilege('{role}', 'My-schema', 'USAGE'),
                    has_table_privilege('{role}', '"My-schema".outbox', 'DELETE')
            """)
            assert tuple(rights or ()) == (True, True, True)
        finally:
            await superuser.execute(f"DROP OWNED BY {quoted}; DROP ROLE {quoted}")


async def test_missing_rights(postgresql_server: PostgreSQLServer, database: str) -> None:
    """A startup without all rights fails at once, and names them and the command that grants them."""
    url = postgresql_server.url_of(database)
    async with postgresql_server.superuser(database) as superuser:
        await superuser.execute(f"REVOKE INSERT ON outbox FROM {RUNTIME_ROLE}")
        await superuser.execute(f"REVOKE UPDATE (observation_count) ON places FROM {RUNTIME_ROLE}")
    with pytest.raises(PermanentError) as caught:
        async with DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test").open():
            pass
    await migrate(postgresql_server.owner_url_of(database), grant_to=RUNTIME_ROLE)

    assert str(caught.value) == (
        "GATEWAY_DATABASE__URL: the user gateway lacks UPDATE (observation_count) ON places, INSERT ON outbox: "
        "run `gateway migrate --grant-to gateway` with the URL of the owner"
    )
    async with DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test").open():
        pass


async def test_owner_has_all_rights(migrated: AsyncConnection) -> None:
    """The owner itself can serve, as in a database with a single role."""
    assert await describe_missing_rights(migrated) is None
