"""Upgrade a database to the newest revision: `gateway migrate`. Only the modules for migrations import Alembic."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from gateway.schema import DEFAULT_LOCK_WAIT
from gateway.schema.connect import ConnectError
from gateway.schema.driver import asyncpg_connection, first_line
from gateway.schema.lock_waits import LIMIT_LOCK_WAITS, LockWaits, Reporter, take_advisory_lock
from gateway.schema.revision import HEAD, REVISIONS, SchemaMismatchError, describe_mismatch
from gateway.schema.rights import check_role, grant_rights
from gateway.schema.transaction import connect, transaction

_QUERY_CANCELED = "57014"
_LOCK = 4711001  # an arbitrary number that no other lock of the gateway uses

# A transaction of this level releases the snapshot of each statement. `CREATE INDEX CONCURRENTLY` waits for the snapshots of
# all others.
_READ_COMMITTED = text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
# A statement of asyncpg's extended protocol keeps its snapshot until the next statement. One of the simple protocol does not.
_RELEASE_SNAPSHOT = "SELECT /* the lock of the migrations is held */"


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """The result of a migration.

    Attributes:
        found: the revision before the migration, or None if the database was never migrated.
        applied: the revisions that were applied, in order.
        granted_to: the role that got its rights, or None.
    """

    found: str | None
    applied: tuple[str, ...]
    granted_to: str | None = None

    def __str__(self) -> str:
        granted = f"; granted the rights to {self.granted_to}" if self.granted_to is not None else ""
        if not self.applied:
            return f"already at revision {HEAD}{granted}"
        return f"from {self.found or 'nothing'} to revision {HEAD}: applied {', '.join(self.applied)}{granted}"


async def migrate(
    url: str,
    *,
    application_name: str = "gateway migrate",
    lock_wait: float = DEFAULT_LOCK_WAIT,
    grant_to: str | None = None,
    report: Reporter = lambda _: None,
) -> MigrationResult:
    """Upgrade the database at `url` to `HEAD`, each revision on its own, so that an interrupted run can be repeated.

    It can be called concurrently: an advisory lock lets one run after the other. Serving goes on meanwhile: no table is
    locked for longer than `LOCK_TIMEOUT`.

    Args:
        url: of the database, with the scheme `postgresql+asyncpg`.
        application_name: the name of the connections in `pg_stat_activity`.
        lock_wait: seconds to wait for the locks of other sessions, for each revision.
        grant_to: the role of the gateway and the worker, which gets `RUNTIME_RIGHTS` after the upgrade.
        report: called with a line about the sessions that hold them.

    Raises:
        LockWaitError: other sessions held the locks for too long. The revisions before that are applied.
        SchemaMismatchError: the database was migrated by a newer version.
        RoleError: `grant_to` is no role that rights can limit. Nothing is changed.
        ConnectError: the server cannot be used until an operator changes something.
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or reports an error.
    """
    waits = LockWaits(url, application_name=application_name, timeout=lock_wait, report=report)
    async with AsyncExitStack() as stack:
        await waits.retry("the migration", partial(_take_lock, stack, url, application_name))
        async with connect(url, application_name=application_name) as connection:
            if grant_to is not None:
                await check_role(connection, grant_to)
            found = await connection.run_sync(_current_revision)
        if found is not None and found not in REVISIONS:
            raise SchemaMismatchError(describe_mismatch(found))
        pending = REVISIONS if found is None else REVISIONS[REVISIONS.index(found) + 1 :]
        for revision in pending:
            await waits.retry(f"revision {revision}", partial(_apply, url, application_name, revision))
        if grant_to is not None:
            await waits.retry(f"the grant to {grant_to}", partial(_grant, url, application_name, grant_to))
    return MigrationResult(found, pending, grant_to)


def configuration(connection: Connection) -> Config:
    """Return the configuration of Alembic, which replaces an alembic.ini."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "gateway.schema:migrations")
    return config


async def _take_lock(stack: AsyncExitStack, url: str, application_name: str) -> None:
    """Take the lock of all migrations until `stack` is left.

    It belongs to a transaction, not to a session, so that it works through PgBouncer. The transaction has a connection of
    its own, because a revision may need several transactions.
    """
    async with AsyncExitStack() as attempt:
        connection = await attempt.enter_async_context(transaction(url, application_name=application_name))
        await connection.execute(_READ_COMMITTED)
        await connection.execute(LIMIT_LOCK_WAITS)
        await take_advisory_lock(connection, _LOCK)
        await (await asyncpg_connection(connection)).execute(_RELEASE_SNAPSHOT)
        stack.push_async_exit(attempt.pop_all())


async def _apply(url: str, application_name: str, revision: str) -> None:
    async with connect(url, application_name=application_name) as connection:
        try:
            await connection.run_sync(_upgrade, revision)
        except PendingRollbackError as error:
            # A failed or cancelled statement in `autocommit_block` ends the connection, which Alembic uses once more.
            cause = _first_context(error)
            raise cause from cause.__cause__
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _QUERY_CANCELED:
                raise _explain_cancellation(revision, error) from error
            raise


async def _grant(url: str, application_name: str, role: str) -> None:
    async with transaction(url, application_name=application_name) as connection:
        await connection.execute(LIMIT_LOCK_WAITS)
        await grant_rights(connection, role)


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _first_context(error: BaseException) -> BaseException:
    """Return the error or cancellation during whose handling `error` was raised."""
    while isinstance(error, PendingRollbackError) and error.__context__ is not None:
        error = error.__context__
    return error


def _explain_cancellation(revision: str, error: DBAPIError) -> ConnectError:
    return ConnectError(
        "url",
        f"the server cancelled revision {revision} ({first_line(error)}): if it is a connection pooler, use the address of "
        "PostgreSQL for this command, because the statement_timeout of the role applies behind a pooler",
    )


def _upgrade(connection: Connection, revision: str) -> None:
    event.listen(connection, "begin", lambda begun: begun.execute(LIMIT_LOCK_WAITS))
    command.upgrade(configuration(connection), revision)
