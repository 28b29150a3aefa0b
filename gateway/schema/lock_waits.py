"""Steps that need locks of other sessions: short attempts, reports about the holders, and a limit for the whole wait.

A statement that waits for a lock blocks the later statements that conflict with it: an `ALTER TABLE` behind one long
reader blocks all other readers. So each attempt waits only for `LOCK_TIMEOUT`, and the blocked statements run before the
next attempt.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.transaction import connect

T = TypeVar("T")
Reporter = Callable[[str], object]

LOCK_TIMEOUT = 1.0  # for the locks of one statement
INITIAL_DELAY = 0.5  # between two attempts; it doubles up to the maximum
MAX_DELAY = 2.0
POLL_INTERVAL = 0.25
REPORT_INTERVAL = 10.0  # between two reports about the same holders
MAX_QUERY_LENGTH = 100  # characters of a query in a report

_QUERY_CANCELED = "57014"
_LOCK_ERRORS = {"55P03", "40P01"}  # a lock timeout, a deadlock

# ruff: noqa: S608 - the statements consist of constants

# The timeouts of a role or a database must not end a step. A version of PostgreSQL may lack one of them. They are set for
# one transaction only, because PgBouncer may use the connection for another client afterwards.
LIMIT_LOCK_WAITS = text(f"""
    SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '{LOCK_TIMEOUT:g}s' ELSE '0' END, true)
    FROM pg_settings
    WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
""")

_TRY_ADVISORY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
_ADVISORY_LOCK_HOLDERS = text("""
    SELECT pid, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8, query
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key AND objsubid = 1
        AND database = datid AND datname = current_database()
""")
# The waiting session is found by its name: behind PgBouncer, each transaction may have another process id. Sessions of
# another command with this name wait for no lock, because they poll the advisory lock.
_WAITING = "datname = current_database() AND application_name = left(:name, 63) AND wait_event_type = 'Lock'"
_HOLDERS = text(f"""
    SELECT DISTINCT holder.pid, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8, query
    FROM (SELECT unnest(pg_blocking_pids(pid)) AS pid FROM pg_stat_activity WHERE {_WAITING}) AS holder
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = holder.pid
    ORDER BY holder.pid
""")
_CANCEL = text(f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {_WAITING}")


class LockWaitError(Exception):
    """A step did not get its locks in time. The message names the sessions that hold them."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session of the server that holds a lock, or that waits for it in front of us.

    Attributes:
        pid: its process id; 0 for a prepared transaction.
        application: its name, or None if there is no session.
        state: such as `active` or `idle in transaction`, or None if our user may not see it.
        seconds: the age of its transaction.
        query: its current or last statement.
    """

    pid: int
    application: str | None = None
    state: str | None = None
    seconds: float | None = None
    query: str | None = None

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction (see pg_prepared_xacts)"
        details = [detail for detail in (self.application, self.state) if detail]
        if self.seconds is not None:
            details.append(f"{self.seconds:.0f} s")
        return f"pid {self.pid} ({', '.join(details) or 'unknown'}): {_without_values(self.query or '-')}"


class AdvisoryLockHeldError(Exception):
    """Another session holds the advisory lock."""

    def __init__(self, holders: Sequence[LockHolder]) -> None:
        super().__init__()
        self.holders = holders


async def take_advisory_lock(connection: AsyncConnection, key: int) -> None:
    """Take the lock until the end of the transaction of `connection`.

    It does not wait for the lock. A session that waits has a snapshot, and `CREATE INDEX CONCURRENTLY` in the session that
    holds the lock would wait for the end of that snapshot.

    Raises:
        AdvisoryLockHeldError: another session holds it.
    """
    if not await connection.scalar(_TRY_ADVISORY_LOCK, {"key": key}):
        rows = await connection.execute(_ADVISORY_LOCK_HOLDERS, {"key": key})
        raise AdvisoryLockHeldError([LockHolder(*row) for row in rows])


class LockWaits:
    """Retries the steps of a command while other sessions hold the locks."""

    def __init__(self, url: str, *, application_name: str, timeout: float, report: Reporter) -> None:
        """Configure the retries.

        Args:
            url: of the database.
            application_name: the name of the connections of the steps.
            timeout: seconds for each step.
            report: called with a line about the sessions that hold the locks, when they change and every ten seconds.
        """
        self._url = url
        self._application_name = application_name
        self._timeout = timeout
        self._report = report

    async def retry(self, step: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await `attempt()` until it gets its locks. `step` is its name in reports.

        Raises:
            LockWaitError: it did not get them within the timeout.
        """
        wait = _Wait(step, monotonic() + self._timeout, self._report)
        delay = INITIAL_DELAY
        while True:
            try:
                async with self._watching(wait):
                    return await attempt()
            except AdvisoryLockHeldError as error:
                wait.report(error.holders)
            except DBAPIError as error:
                if not wait.is_cause_of(error):
                    raise
            if monotonic() + delay > wait.deadline:
                raise LockWaitError(
                    f"{step} did not get its locks within {self._timeout:g} s: end {wait.describe_holders()}, or run the "
                    "command again later"
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)

    @asynccontextmanager
    async def _watching(self, wait: "_Wait") -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch(wait))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _watch(self, wait: "_Wait") -> None:
        """Report the holders of the locks that the step waits for, and cancel its statement after the deadline.

        The lock timeout does not limit `CREATE INDEX CONCURRENTLY`, which waits outside of a transaction.
        """
        await asyncio.sleep(POLL_INTERVAL)
        try:
            async with connect(self._url, application_name=self._application_name) as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                while True:
                    rows = await connection.execute(_HOLDERS, {"name": self._application_name})
                    wait.report([LockHolder(*row) for row in rows])
                    if monotonic() > wait.deadline:
                        await connection.execute(_CANCEL, {"name": self._application_name})
                    await asyncio.sleep(POLL_INTERVAL)
        except (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._report(f"{wait.step}: cannot find out which locks it waits for: {type(error).__name__}")


class _Wait:
    """One step: its deadline, and the sessions that hold its locks."""

    def __init__(self, step: str, deadline: float, report: Reporter) -> None:
        self.step = step
        self.deadline = deadline
        self._report = report
        self._holders: Sequence[LockHolder] = ()
        self._reported_at = -REPORT_INTERVAL

    def report(self, holders: Sequence[LockHolder]) -> None:
        """Report the holders, unless they were reported shortly before."""
        if not holders:
            return
        known = {holder.pid for holder in self._holders}
        self._holders = holders
        if {holder.pid for holder in holders} == known and monotonic() < self._reported_at + REPORT_INTERVAL:
            return
        self._reported_at = monotonic()
        self._report(f"{self.step} waits for {self.describe_holders()}")

    def describe_holders(self) -> str:
        return "; ".join(map(str, self._holders)) or "an unknown session"

    def is_cause_of(self, error: DBAPIError) -> bool:
        """Return whether the step failed because of a lock. After the deadline, its statement is cancelled for that."""
        sqlstate = getattr(error.orig, "sqlstate", None)
        return sqlstate in _LOCK_ERRORS or (sqlstate == _QUERY_CANCELED and monotonic() > self.deadline)


def _without_values(query: str) -> str:
    """Return the beginning of a statement, up to its first string, with `?` in place of each number."""
    shown, *rest = re.split(r"'|\$(?!\d)", query, maxsplit=1)
    shown = re.sub(r"(?<![\w$])\d[\d.]*", "?", " ".join(shown.split()))
    is_cut = bool(rest) or len(shown) > MAX_QUERY_LENGTH
    return f"{shown[:MAX_QUERY_LENGTH].rstrip()}..." if is_cut else shown
