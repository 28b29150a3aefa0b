"""The endpoints for operators and load balancers."""

from datetime import datetime
from http import HTTPStatus
from typing import Literal, Self

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from gateway.api.caching import NO_STORE
from gateway.api.failed_responses import FailedResponsesDependency
from gateway.api.operators import IsOperator, OperatorRequired
from gateway.api.problem_types import INVALID_REQUEST, RETRY_AFTER, UNAVAILABLE
from gateway.api.problems import problem_responses
from gateway.api.routes import CachedRoute
from gateway.dependencies import JournalDependency, ReadinessDependency
from gateway.lifecycle import CheckResult, LifecycleEvent, format_error


class OperationRoute(CachedRoute):
    """A route that ignores unknown parameters: a probe may add one, so that no cache responds."""

    cache_control = NO_STORE


# A query with too many parameters is still invalid (`query_limit.py`).
EVENTS_PATH = "/lifecycle/events"
# Probes, scrapes and streams. They report an overload, so they are exempt from its bound, and telemetry does not record them.
OPERATION_PATHS = ("/livez", "/readyz", "/lifecycle", EVENTS_PATH, "/metrics")

router = APIRouter(tags=["operation"], route_class=OperationRoute, responses=problem_responses(INVALID_REQUEST))


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """The health check of one entry."""

    status: Literal["ok", "failed"]
    took_ms: float | None = Field(None, description="For operators: the duration of the check, in milliseconds")
    remark: str | None = Field(
        None, description="For operators: the location of the resource, other details, or the error"
    )

    @classmethod
    def of(cls, check: CheckResult, *, with_details: bool = True) -> Self:
        status: Literal["ok", "failed"] = "ok" if check.ok else "failed"
        if not with_details:
            return cls(status=status)
        return cls(status=status, took_ms=milliseconds(check.duration), remark=check.detail)


class ReadinessReport(BaseModel):
    """The readiness of this process."""

    status: str = Field(
        description="`ok`; `degraded`: a check fails; `unavailable`: the database fails for too long, or a background "
        "worker crashed; or the phase of a startup or shutdown"
    )
    checks: dict[str, Check]
    failed_responses: dict[str, int] | None = Field(
        None, description="For operators: the number of responses since the start, by status (5xx, 401, 403) and route"
    )


class JournalEvent(BaseModel):
    at_ms: float = Field(description="Milliseconds since the start of the journal")
    event: str
    name: str | None = Field(description="The entry")
    took_ms: float | None = Field(description="The duration of the step that ended, in milliseconds")
    error: str | None

    @classmethod
    def of(cls, event: LifecycleEvent) -> Self:
        return cls(
            at_ms=milliseconds(event.at),
            event=event.type,
            name=event.name,
            took_ms=None if event.duration is None else milliseconds(event.duration),
            error=None if event.error is None else format_error(event.error),
        )


class LifecycleJournal(BaseModel):
    """The events of the lifespan, in order."""

    began_at: datetime = Field(description="The start of the journal")
    items: list[JournalEvent]


@router.get("/livez", operation_id="get_liveness", summary="Liveness")
async def livez() -> Liveness:
    """The process responds."""
    return Liveness()


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Readiness",
    response_model_exclude_none=True,
    responses={
        HTTPStatus.SERVICE_UNAVAILABLE.value: {  # with a problem before the startup only
            **problem_responses(UNAVAILABLE)[HTTPStatus.SERVICE_UNAVAILABLE.value],
            "model": ReadinessReport,
        }
    },
)
async def readyz(
    readiness: ReadinessDependency, failed: FailedResponsesDependency, response: Response, *, is_operator: IsOperator
) -> ReadinessReport:
    """200 if this process should get requests, otherwise 503.

    A resource that is unavailable causes `degraded`, and so does an overload. Only the database causes 503, after a grace period.
    Details are for operators.
    """
    report = await readiness.report()
    if not report.ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        response.headers["Retry-After"] = str(RETRY_AFTER)
    counts = {f"{status} {route}": count for (status, route), count in sorted(failed.counts.items())}
    return ReadinessReport(
        status=report.status,
        checks={check.name: Check.of(check, with_details=is_operator) for check in report.checks},
        failed_responses=counts if is_operator else None,
    )


@router.get(
    "/lifecycle",
    operation_id="get_lifecycle",
    summary="Journal",
    dependencies=[OperatorRequired],
    responses=problem_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
)
async def lifecycle(journal: JournalDependency) -> LifecycleJournal:
    """The journal of this process, for operators."""
    return LifecycleJournal(began_at=journal.started_at, items=[JournalEvent.of(event) for event in journal])
