"""What operators and load balancers ask."""

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.dependencies import JournalDependency, ReadinessDependency
from gateway.lifecycle import format_error

router = APIRouter(tags=["operation"])


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """How one resource is."""

    status: Literal["ok", "failed"]
    took_ms: float
    remark: str | None = Field(description="Where it is, or what is wrong with it")


class ReadinessReport(BaseModel):
    """Whether we should be sent requests."""

    status: str = Field(
        description="`ok`; `degraded`: some resource is away; `unavailable`: the database is, or a worker died; or the "
        "phase of a start or a stop"
    )
    checks: dict[str, Check]


class JournalEvent(BaseModel):
    at_s: float = Field(description="Seconds since the journal began")
    event: str
    name: str | None
    took_s: float | None
    error: str | None


class LifecycleJournal(BaseModel):
    """What was entered and exited, in order."""

    began_at: str
    items: list[JournalEvent]


@router.get("/livez")
async def livez() -> Liveness:
    """The process can answer."""
    return Liveness()


@router.get("/readyz", responses={HTTPStatus.SERVICE_UNAVAILABLE.value: {"model": ReadinessReport}})
async def readyz(readiness: ReadinessDependency, response: Response) -> ReadinessReport:
    """We should be sent requests. A resource that is away degrades us; only the database takes us out, after a grace."""
    report = await readiness.report()
    if not report.ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    checks = {
        check.name: Check(
            status="ok" if check.ok else "failed", took_ms=round(check.duration * 1000, 3), remark=check.detail
        )
        for check in report.checks
    }
    return ReadinessReport(status=report.status, checks=checks)


@router.get("/lifecycle")
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
