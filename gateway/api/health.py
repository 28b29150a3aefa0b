"""The endpoints for operators and load balancers."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.api.problem_types import RETRY_AFTER, UNAVAILABLE
from gateway.api.problems import problem_responses
from gateway.dependencies import JournalDependency, ReadinessDependency
from gateway.lifecycle import format_error

router = APIRouter(tags=["operation"])


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """The health check of one entry."""

    status: Literal["ok", "failed"]
    took_ms: float = Field(description="The duration of the check, in milliseconds")
    remark: str | None = Field(description="The location of the resource, other details, or the error")


class ReadinessReport(BaseModel):
    """The readiness of this process."""

    status: str = Field(
        description="`ok`; `degraded`: a check fails; `unavailable`: the database fails for too long, or a background "
        "worker crashed; or the phase of a startup or shutdown"
    )
    checks: dict[str, Check]


class JournalEvent(BaseModel):
    at_s: float = Field(description="Seconds since the start of the journal")
    event: str
    name: str | None = Field(description="The entry")
    took_s: float | None = Field(description="The duration of the step that ended, in seconds")
    error: str | None


class LifecycleJournal(BaseModel):
    """The events of the lifespan, in order."""

    began_at: str = Field(description="The start of the journal (ISO 8601)")
    items: list[JournalEvent]


@router.get("/livez", operation_id="get_liveness")
async def livez() -> Liveness:
    """The process responds."""
    return Liveness()


@router.get(
    "/readyz",
    operation_id="get_readiness",
    responses={
        HTTPStatus.SERVICE_UNAVAILABLE.value: {  # with a problem before the startup only
            **problem_responses(UNAVAILABLE)[HTTPStatus.SERVICE_UNAVAILABLE.value],
            "model": ReadinessReport,
        }
    },
)
async def readyz(readiness: ReadinessDependency, response: Response) -> ReadinessReport:
    """200 if this process should get requests, otherwise 503.

    A resource that is unavailable causes `degraded`. Only the database causes 503, after a grace period.
    """
    report = await readiness.report()
    if not report.ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        response.headers["Retry-After"] = str(RETRY_AFTER)
    checks = {
        check.name: Check(
            status="ok" if check.ok else "failed", took_ms=round(check.duration * 1000, 3), remark=check.detail
        )
        for check in report.checks
    }
    return ReadinessReport(status=report.status, checks=checks)


@router.get("/lifecycle", operation_id="get_lifecycle")
async def lifecycle(journal: JournalDependency) -> LifecycleJournal:
    """The journal of this process."""
    return LifecycleJournal(
        began_at=journal.started_at.isoformat(),
        items=[
            JournalEvent(
                at_s=round(event.at, 6),
                event=event.type,
                name=event.name,
                took_s=None if event.duration is None else round(event.duration, 6),
                error=None if event.error is None else format_error(event.error),
            )
            for event in journal
        ],
    )
