"""How far a database has come."""

import subprocess
import sys

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema import revision
from gateway.schema.revision import HEAD, REVISIONS, current_revision, describe_mismatch

SERVING = "gateway.schema.revision, gateway.schema.tables, gateway.places.queries, gateway.observations.queries"


async def test_an_empty_database_has_none(connection: AsyncConnection) -> None:
    assert await current_revision(connection) is None


async def test_a_migrated_database_is_at_the_head(migrated: AsyncConnection) -> None:
    assert await current_revision(migrated) == HEAD


async def test_a_database_that_was_migrated_back_to_nothing_has_none(migrated: AsyncConnection) -> None:
    await migrated.execute(text("DELETE FROM alembic_version"))
    assert await current_revision(migrated) is None


async def test_asking_is_one_statement(migrated: AsyncConnection) -> None:
    statements: list[str] = []
    event.listen(migrated.sync_engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    await current_revision(migrated)
    assert statements == ["SELECT version_num FROM alembic_version"]


async def test_an_error_that_is_not_a_missing_table_is_raised(connection: AsyncConnection) -> None:
    await connection.execute(text("CREATE TABLE alembic_version (something_else int)"))
    with pytest.raises(DBAPIError, match="version_num"):
        await current_revision(connection)


def test_the_code_knows_exactly_the_migrations_in_its_folder() -> None:
    config = Config()
    config.set_main_option("script_location", "gateway.schema:migrations")
    in_the_folder = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert list(reversed(in_the_folder)) == list(REVISIONS)


def test_the_head_fits() -> None:
    assert describe_mismatch(HEAD) is None


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "the database was never migrated and revision 2 is needed: run `gateway migrate`"),
        ("1", "the database is at revision 1, behind 2: run `gateway migrate`"),
        ("3", "the database is at revision 3, which this version does not know (it needs 2): upgrade gateway"),
    ],
    ids=["never migrated", "behind", "ahead"],
)
def test_anything_else_says_what_to_do(found: str | None, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "REVISIONS", ("1", "2"))
    monkeypatch.setattr(revision, "HEAD", "2")
    assert describe_mismatch(found) == problem


def test_serving_imports_no_alembic_and_no_fastapi() -> None:
    program = f"import sys, {SERVING}; print(*sorted({{'alembic', 'fastapi', 'starlette'}} & set(sys.modules)))"
    imported = subprocess.check_output([sys.executable, "-c", program], text=True)  # noqa: S603 - our own program
    assert imported == "\n"
