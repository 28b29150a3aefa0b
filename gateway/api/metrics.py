"""The metrics for Prometheus."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from gateway.api.health import OperationRoute
from gateway.api.operators import OperatorRequired
from gateway.api.problem_types import INVALID_REQUEST, UNKNOWN_PATH
from gateway.api.problems import ProblemError, problem_responses
from gateway.dependencies import ScrapeDependency

EXAMPLE = 'gateway_brief_sections_total{gateway_section="weather",gateway_section_status="ok"} 17.0\n'

router = APIRouter(tags=["operation"], route_class=OperationRoute)


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Metrics",
    dependencies=[OperatorRequired],
    response_class=PlainTextResponse,
    responses={
        HTTPStatus.OK.value: {"content": {"text/plain": {"example": EXAMPLE}}},
        **problem_responses(INVALID_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, UNKNOWN_PATH),
    },
)
async def get_metrics(request: Request, scrape: ScrapeDependency) -> Response:
    """The metrics of this process in the format of Prometheus, for operators, if they are configured."""
    if scrape is None:
        raise ProblemError(UNKNOWN_PATH, "This gateway has no metrics: set OTEL_METRICS_EXPORTER=prometheus.")
    content, content_type = await run_in_threadpool(scrape, request.headers.get("Accept", ""))
    return Response(content, headers={"Content-Type": content_type})
