"""Upgrade a database to the newest revision: `gateway migrate`. Only this module imports Alembic; serving does not."""

from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from gateway.schema.revision import HEAD, REVISIONS, SchemaMismatchError, describe_mismatch
from gateway.schema.transaction import transaction

# An arbitrary number that no other lock of the gateway uses.
_LOCK = text("SELECT pg_advisory_xact_lock(4711001)")


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The result of a migration.

    Attributes:
        found: the revision before the migration, or None if the database was never migrated.
        applied: the revisions that were applied, in order.
    """

    found: str | None
    applied: tuple[str, ...]

    def __str__(self) -> str:
        if not self.applied:
            return f"already at revision {HEAD}"
        return f"from {self.found or 'nothing'} to revision {HEAD}: applied {', '.join(self.applied)}"


async def migrate(url: str, *, application_name: str = "gateway migrate") -> MigrationResult:
    """Upgrade the database at `url` to `HEAD`, in one transaction.

    It can be called repeatedly and concurrently, because it takes a lock.

    Raises:
        SchemaMismatchError: the database was migrated by a newer version.
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or reports an error.
    """
    async with transaction(url, application_name=application_name) as connection:
        await connection.execute(_LOCK)
        return await connection.run_sync(_upgrade)


def configuration(connection: Connection) -> Config:
    """Return the configuration of Alembic, which replaces an alembic.ini."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "gateway.schema:migrations")
    return config


def _upgrade(connection: Connection) -> MigrationResult:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in REVISIONS:
        raise SchemaMismatchError(describe_mismatch(found))
    command.upgrade(configuration(connection), HEAD)
    return MigrationResult(found, REVISIONS if found is None else REVISIONS[REVISIONS.index(found) + 1 :])
