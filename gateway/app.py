"""The application."""

import asyncio
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp

from gateway.api import (
    briefs,
    description,
    health,
    lifecycle_events,
    metrics,
    observations,
    places,
    predictions,
    problem_pages,
    problems,
)
from gateway.api.access_log import AccessLogMiddleware
from gateway.api.body_limit import PayloadTooLargeMiddleware
from gateway.api.caching import NO_CACHE, add_cache_headers
from gateway.api.cors import CORSMiddleware
from gateway.api.failed_responses import FailedResponses
from gateway.api.head import HeadMiddleware
from gateway.api.query_limit import QueryLimitMiddleware
from gateway.api.request_id import RequestIdMiddleware
from gateway.api.routes import StrictRoute
from gateway.api.telemetry import telemetry_config
from gateway.lifespan import lifespan
from gateway.page import routes as pages
from gateway.settings import Settings, read_settings


class GatewayApp(FastAPI):
    """FastAPI with the briefs and reports as its first routes, CORS and request ids around all middleware, and a complete OpenAPI."""

    def setup(self) -> None:
        """Add the routes of the briefs and of reports before those of the documentation: the first routes are matched first."""
        self.router.route_class = StrictRoute
        briefs.add_routes(self)
        observations.add_routes(self)
        super().setup()

    def add_route(self, path: str, route: Callable[[Request], Any], *args: Any, **kwargs: Any) -> None:
        """Add a page of the documentation, with headers for caches. FastAPI's `setup()` adds them by this method."""

        async def respond(request: Request) -> Response:
            return add_cache_headers(request.headers, await route(request), NO_CACHE)

        super().add_route(path, respond, *args, **kwargs)

    def build_middleware_stack(self) -> ASGIApp:
        """Add CORS and the request ids outside of Starlette's own error handler, where `add_middleware` cannot add them.

        Otherwise the response to an internal error would have no headers of CORS, and no `X-Request-ID`.
        """
        stack = super().build_middleware_stack()
        if origins := self.state.settings.cors_origins:
            stack = CORSMiddleware(stack, origins)
        stack = RequestIdMiddleware(stack, self.state.failed_responses)
        return AccessLogMiddleware(stack) if self.state.settings.access_log else stack

    def openapi(self) -> dict[str, Any]:
        """Return the API description, and complete it the first time."""
        if self.openapi_schema is None:
            description.complete(super().openapi())
        return self.openapi_schema  # type: ignore[return-value]  # super().openapi() has set it


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application. It opens nothing before its lifespan is entered.

    Args:
        settings: read from the environment if None.

    Raises:
        InvalidSettingsError: the environment contains invalid settings.
    """
    app = GatewayApp(
        title="gateway",
        description="Weather, observations and popularity of places, combined from several backends.",
        version=version("gateway"),
        lifespan=lifespan,
        exception_handlers=problems.EXCEPTION_HANDLERS,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page needs files of other hosts (see `page/`)
        redoc_url=None,
        telemetry=telemetry_config(),
        responses=problems.problem_responses(*problems.COMMON),
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings or read_settings()
    app.state.failed_responses = FailedResponses()
    app.state.stream_slots = asyncio.Semaphore(lifecycle_events.MAX_STREAMS)
    # The command or the server sets these to what only it knows (see `dependencies.py`).
    app.state.scrape = app.state.exit_status = None
    app.state.dev_servers = False
    app.add_middleware(PayloadTooLargeMiddleware)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(QueryLimitMiddleware)
    for module in (observations, places, predictions, health, lifecycle_events, metrics, problem_pages):
        app.include_router(module.router)
    app.include_router(pages.docs_router)
    if app.state.settings.page:
        app.include_router(pages.page_router)
    return app
