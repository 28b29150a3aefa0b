"""The revision of a database, and the messages about a wrong one."""

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

MODULES = (
    "gateway.schema.revision, gateway.schema.tables, gateway.places.queries, gateway.observations.queries, "
    "gateway.observations.store"
)


async def test_empty_database_has_no_revision(connection: AsyncConnection) -> None:
    """The revision of a database that was never migrated is None."""
    assert await current_revision(connection) is None


async def test_migrated_database_is_at_the_head(migrated: AsyncConnection) -> None:
    """The revision of a migrated database is the newest one."""
    assert await current_revision(migrated) == HEAD


async def test_downgraded_database_has_no_revision(migrated: AsyncConnection) -> None:
    """The revision of a database that was downgraded to nothing is None."""
    await migrated.execute(text("DELETE FROM alembic_version"))
    assert await current_revision(migrated) is None


async def test_revision_is_read_with_one_statement(migrated: AsyncConnection) -> None:
    """The revision is read with a single SELECT."""
    statements: list[str] = []
    event.listen(migrated.sync_engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
    await current_revision(migrated)
    assert statements == ["SELECT version_num FROM alembic_version"]


async def test_other_errors_are_raised(connection: AsyncConnection) -> None:
    """Only a missing table means that there is no revision; every other error is raised."""
    await connection.execute(text("CREATE TABLE alembic_version (something_else int)"))
    with pytest.raises(DBAPIError, match="version_num"):
        await current_revision(connection)


def test_revisions_match_the_migrations() -> None:
    """The list of revisions is that of the migrations in the folder."""
    config = Config()
    config.set_main_option("script_location", "gateway.schema:migrations")
    scripts = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert list(reversed(scripts)) == list(REVISIONS)


def test_head_is_no_mismatch() -> None:
    """The newest revision can be used."""
    assert describe_mismatch(HEAD) is None


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "the database was never migrated and revision 2 is needed: run `gateway migrate`"),
        ("1", "the database is at revision 1, behind 2: run `gateway migrate`"),
        ("3", "the database is at revision 3, which is unknown to this version (it needs 2): upgrade gateway"),
    ],
    ids=["never migrated", "behind", "ahead"],
)
def test_mismatch_names_the_fix(found: str | None, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that is missing, old or unknown gives a message with the command that fixes it."""
    monkeypatch.setattr(revision, "REVISIONS", ("1", "2"))
    monkeypatch.setattr(revision, "HEAD", "2")
    assert describe_mismatch(found) == problem


def test_query_modules_need_no_alembic_and_no_fastapi() -> None:
    """The modules with tables and queries import neither Alembic nor FastAPI nor Starlette."""
    program = f"import sys, {MODULES}; print(*sorted({{'alembic', 'fastapi', 'starlette'}} & set(sys.modules)))"
    imported = subprocess.check_output([sys.executable, "-c", program], text=True)  # noqa: S603 - the program is a constant
    assert imported == "\n"
