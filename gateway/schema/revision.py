"""How far a database has come, told without Alembic: what the serving path needs of the migrations."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

REVISIONS: Final = ("0001", "0002")
"""Every revision that this code knows, oldest first. A test keeps it the same as `migrations/versions`."""

HEAD: Final = REVISIONS[-1]
"""The revision that this code expects."""

_SELECT = text("SELECT version_num FROM alembic_version")
_UNDEFINED_TABLE = "42P01"


class SchemaMismatchError(Exception):
    """This code cannot use the database as it is; the message says why and what to do."""


async def current_revision(connection: AsyncConnection) -> str | None:
    """Ask a database for its revision, with one SELECT. None: it was never migrated.

    Where the table is missing the SELECT fails, and with it the transaction around it, unless that is AUTOCOMMIT.
    """
    try:
        revision: str | None = await connection.scalar(_SELECT)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE:
            return None
        raise
    return revision


def describe_mismatch(revision: str | None) -> str | None:
    """Say why this code cannot use a database at `revision`, and what to do about it. None: it can."""
    if revision == HEAD:
        return None
    if revision is None:
        return f"the database was never migrated and revision {HEAD} is needed: run `gateway migrate`"
    if revision in REVISIONS:
        return f"the database is at revision {revision}, behind {HEAD}: run `gateway migrate`"
    return (
        f"the database is at revision {revision}, which this version does not know (it needs {HEAD}): upgrade gateway"
    )
