"""Groups of reports that are stored together. Each gets its own outcome, also if the database rejects another one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.observations.queries import Observation
from gateway.observations.reports import Report, ReportError, Stored
from gateway.observations.store import explain_unstored, insert_reports
from gateway.resources.database_errors import is_deadlock, is_outdated, is_reported_by_server, is_unavailable

T = TypeVar("T")

log = structlog.get_logger("gateway.writer")


class Submission:
    """A report on its way into the database, with the log context of its request.

    Attributes:
        report: what is to be stored.
        outcome: the future that the caller awaits. The caller may cancel it at any time.
        is_started: true as soon as a transaction may have stored it.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.outcome: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self.is_started = False
        self._context = copy_context()

    def succeed(self, stored: Stored) -> None:
        """Set the outcome, and log a new observation, also if the caller is gone."""
        if stored.is_new:
            self._context.run(_log_stored, stored.observation, self.report.new.reporter)
        if not self.outcome.done():
            self.outcome.set_result(stored)

    def fail(self, error: Exception) -> None:
        """Set the error, unless there is an outcome."""
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # marks it as retrieved, in case the caller is cancelled now


class GroupStore:
    """Stores groups of reports, each group in one transaction."""

    def __init__(self, database: AsyncEngine, on_stored: Callable[[], object]) -> None:
        """Open nothing yet. `on_stored` is called after each commit of new observations."""
        self._database = database.execution_options(isolation_level="AUTOCOMMIT")
        self._on_stored = on_stored

    async def store(self, group: Sequence[Submission]) -> None:
        """Store the reports, and set all outcomes.

        If the database rejects the transaction, each report is stored in one of its own, so that the others do not suffer from
        a bad one. An unavailable database fails all of them at once.
        """
        try:
            await self._store_together(group)
        except Exception as error:  # noqa: BLE001 - the callers get it
            if len(group) == 1 or not _is_rejection(error):
                _fail(group, error)
                return
            await self._store_one_by_one(group)

    async def _store_one_by_one(self, group: Sequence[Submission]) -> None:
        for submission in group:
            if submission.outcome.done():
                continue
            try:
                await self._store_together([submission])
            except Exception as error:  # noqa: BLE001 - the callers get it
                if not _is_rejection(error):
                    _fail(group, error)
                    return
                submission.fail(error)

    async def _store_together(self, group: Sequence[Submission]) -> None:
        inserted = await self._run(insert_reports, group)
        if any(inserted):
            self._on_stored()
        unstored: list[Submission] = []
        for submission, observation in zip(group, inserted, strict=True):
            if observation is None:
                unstored.append(submission)
            else:
                submission.succeed(Stored(observation, is_new=True))
        if unstored:
            outcomes = await self._run(explain_unstored, unstored)
            for submission, outcome in zip(unstored, outcomes, strict=True):
                if isinstance(outcome, ReportError):
                    submission.fail(outcome)
                else:
                    submission.succeed(outcome)

    async def _run(
        self, function: Callable[[AsyncConnection, Sequence[Report]], Awaitable[T]], group: Sequence[Submission]
    ) -> T:
        """Call the function with a connection, and again if the connection or its prepared statement was outdated."""
        reports = [submission.report for submission in group]
        try:
            return await self._run_once(function, reports)
        except Exception as error:
            if not is_outdated(error):
                raise
        return await self._run_once(function, reports)

    async def _run_once(
        self, function: Callable[[AsyncConnection, Sequence[Report]], Awaitable[T]], reports: Sequence[Report]
    ) -> T:
        async with self._database.connect() as connection:
            return await function(connection, reports)


def _is_rejection(error: Exception) -> bool:
    """Return whether the database has rejected the statement because of its rows, and not all statements.

    A group waits for the locks of several places, so it may be part of a deadlock. A single report locks only one.
    """
    return is_deadlock(error) or (is_reported_by_server(error) and not is_unavailable(error))


def _fail(group: Sequence[Submission], error: Exception) -> None:
    for submission in group:
        submission.fail(error)


def _log_stored(observation: Observation, reporter: str) -> None:
    log.info(
        "observation stored", observation_id=observation.id, place_id=observation.place_id, reporter=reporter or None
    )
