"""Bring a database to the newest revision: `gateway migrate`. The one module that imports Alembic; serving never does."""

from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from gateway.schema.revision import HEAD, REVISIONS, SchemaMismatchError, describe_mismatch
from gateway.schema.transaction import transaction

# Any number will do, as long as everybody who migrates takes the same one and nobody else does.
_LOCK = text("SELECT pg_advisory_xact_lock(4711001)")


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What `migrate` did: the revision it found (None: never migrated) and those that it applied, in order."""

    found: str | None
    applied: tuple[str, ...]

    def __str__(self) -> str:
        if not self.applied:
            return f"already at revision {HEAD}"
        return f"from {self.found or 'nothing'} to revision {HEAD}: applied {', '.join(self.applied)}"


async def migrate(url: str, *, application_name: str = "gateway migrate") -> MigrationResult:
    """Upgrade the database at `url` to `HEAD`, all or nothing.

    It happens in one transaction behind a lock: several may run it at once, and as often as they like.

    Raises:
        SchemaMismatchError: a newer version of this code has migrated it.
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or refuses.
    """
    async with transaction(url, application_name=application_name) as connection:
        await connection.execute(_LOCK)
        return await connection.run_sync(_upgrade)


def configuration(connection: Connection) -> Config:
    """Tell Alembic where the migrations are and which connection to use, without an alembic.ini."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "gateway.schema:migrations")
    return config


def _upgrade(connection: Connection) -> MigrationResult:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in REVISIONS:
        raise SchemaMismatchError(describe_mismatch(found))
    command.upgrade(configuration(connection), HEAD)
    return MigrationResult(found, REVISIONS if found is None else REVISIONS[REVISIONS.index(found) + 1 :])
