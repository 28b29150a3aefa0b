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
from typing import TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.connect import ConnectError
from gateway.schema.driver import first_line
from gateway.schema.transaction import connect

T = TypeVar("T")
Reporter = Callable[[str], object]

LOCK_TIMEOUT = 1.0  # for the locks of one statement
INITIAL_DELAY = 0.5  # between two attempts; it doubles up to the maximum
MAX_DELAY = 2.0
POLL_INTERVAL = 0.25
WATCH_TIMEOUT = 5.0  # for one look at the locks
UNWATCHED_TIMEOUT = 15.0  # for a step after the deadline, since the last look that found it at work
REPORT_INTERVAL = 10.0  # between two reports about the same holders
MAX_QUERY_LENGTH = 100  # characters of a query in a report

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
# The waiting session is found by its name: behind PgBouncer, each transaction may have another process id, and the option
# application_name_add_host extends the name. Sessions of another command with this name wait for no lock, because they poll
# the advisory lock.
_HOLDERS = text("""
    SELECT DISTINCT holder.pid, application_name, state, extract(epoch FROM clock_timestamp() - xact_start)::float8, query
    FROM (
        SELECT unnest(pg_blocking_pids(pid)) AS pid FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND starts_with(application_name, left(:name, 63))
    ) AS holder
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = holder.pid
    ORDER BY holder.pid
""")
_WATCH_ERRORS = (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, ConnectError)


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

        The lock timeout does not limit `CREATE INDEX CONCURRENTLY`, which waits outside of a transaction. So an attempt that
        waits at the deadline is cancelled, and one that works is not. An attempt that cannot be watched may wait: it is
        cancelled, too.

        Raises:
            LockWaitError: it did not get them within the timeout.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self._timeout
        wait = _Wait(step, self._report)
        delay = INITIAL_DELAY
        while True:
            limit = asyncio.timeout_at(max(deadline, now() + UNWATCHED_TIMEOUT))
            try:
                async with self._watching(wait, limit, deadline), limit:
                    return await attempt()
            except AdvisoryLockHeldError as error:
                wait.set_holders(error.holders)
            except (TimeoutError, DBAPIError) as error:
                if not limit.expired() and not _is_lock_error(error):
                    raise
            if limit.expired() or now() + delay > deadline:
                raise LockWaitError(
                    f"{step} did not get its locks within {self._timeout:g} s: end {wait.describe_holders()}, or run the "
                    "command again later"
                )
            await asyncio.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)

    @asynccontextmanager
    async def _watching(self, wait: "_Wait", limit: asyncio.Timeout, deadline: float) -> AsyncIterator[None]:
        watcher = asyncio.create_task(self._watch(wait, limit, deadline))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _watch(self, wait: "_Wait", limit: asyncio.Timeout, deadline: float) -> None:
        """Report the holders of the locks that the step waits for, and adapt the limit of the attempt."""
        while not limit.expired():
            await asyncio.sleep(POLL_INTERVAL)
            try:
                async with connect(self._url, application_name=self._application_name) as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    while not limit.expired():
                        async with asyncio.timeout(WATCH_TIMEOUT):
                            rows = await connection.execute(_HOLDERS, {"name": self._application_name})
                        holders = [LockHolder(*row) for row in rows]
                        wait.set_holders(holders)
                        if not limit.expired():
                            unwatched = asyncio.get_running_loop().time() + UNWATCHED_TIMEOUT
                            limit.reschedule(deadline if holders else max(deadline, unwatched))
                        await asyncio.sleep(POLL_INTERVAL)
            except _WATCH_ERRORS as error:
                wait.set_problem(first_line(error))


class _Wait:
    """One step, and the sessions that hold its locks."""

    def __init__(self, step: str, report: Reporter) -> None:
        self._step = step
        self._report = report
        self._holders: Sequence[LockHolder] = ()
        self._problem: str | None = None
        self._reported: object = None
        self._reported_at = 0.0

    def set_holders(self, holders: Sequence[LockHolder]) -> None:
        """Report the holders, unless there are none."""
        self._problem = None
        if holders:
            self._holders = holders
            self._report_once({holder.pid for holder in holders}, f"waits for {self.describe_holders()}")

    def set_problem(self, reason: str) -> None:
        """Report why the holders are unknown."""
        self._problem = reason
        self._report_once(reason, f"may wait for locks, but they cannot be read: {reason}")

    def describe_holders(self) -> str:
        problem = f" ({self._problem})" if self._problem else ""
        return "; ".join(map(str, self._holders)) or f"an unknown session{problem}"

    def _report_once(self, subject: object, line: str) -> None:
        """Report the line, unless one about the same subject was reported shortly before."""
        now = asyncio.get_running_loop().time()
        if subject == self._reported and now < self._reported_at + REPORT_INTERVAL:
            return
        self._reported, self._reported_at = subject, now
        self._report(f"{self._step} {line}")


def _is_lock_error(error: Exception) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _LOCK_ERRORS


def _without_values(query: str) -> str:
    """Return the beginning of a statement, up to its first string, with `?` in place of each number."""
    shown, *rest = re.split(r"'|\$(?!\d)", query, maxsplit=1)
    shown = re.sub(r"(?<![\w$])\d[\d.]*", "?", " ".join(shown.split()))
    is_cut = bool(rest) or len(shown) > MAX_QUERY_LENGTH
    return f"{shown[:MAX_QUERY_LENGTH].rstrip()}..." if is_cut else shown
