"""Storing one report without a writer."""

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.observations.reports import NewObservation, Report, ReportError, Stored
from gateway.observations.store import explain_unstored, insert_reports


async def insert_observation(
    connection: AsyncConnection, new: NewObservation, idempotency_key: str | None = None
) -> Stored:
    """Store an observation in the transaction of the connection.

    Raises:
        ReportError: it is not stored.
    """
    reports = [Report(new, idempotency_key)]
    (inserted,) = await insert_reports(connection, reports)
    if inserted is not None:
        return Stored(inserted, is_new=True)
    (outcome,) = await explain_unstored(connection, reports)
    if isinstance(outcome, ReportError):
        raise outcome
    return outcome
