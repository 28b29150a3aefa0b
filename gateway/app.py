"""The application."""

from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from gateway.api import briefs, health, observations, places, predictions, problems
from gateway.api.body_limit import PayloadTooLargeMiddleware
from gateway.api.request_id import RequestIdMiddleware
from gateway.api.telemetry import telemetry
from gateway.lifespan import lifespan
from gateway.settings import Settings, read_settings


class GatewayApp(FastAPI):
    """FastAPI with our request ids around everything, and our problems in its description."""

    def setup(self) -> None:
        """Add the first routes. They are tried in their order, and what is asked most comes even before the documentation."""
        briefs.add_routes(self)
        super().setup()

    def build_middleware_stack(self) -> ASGIApp:
        return RequestIdMiddleware(PayloadTooLargeMiddleware(super().build_middleware_stack()))

    def openapi(self) -> dict[str, Any]:
        """Describe the interface, with the one shape of all errors among the components."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schema["components"]["schemas"] |= problems.schemas()
        return self.openapi_schema  # type: ignore[return-value]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application. Nothing is opened before its lifespan is entered.

    Args:
        settings: read from the environment if it is None.

    Raises:
        InvalidSettingsError: what is in the environment cannot be used.
    """
    app = GatewayApp(
        title="gateway",
        description="What is known about a place, from several backends at once.",
        version=version("gateway"),
        lifespan=lifespan,
        exception_handlers=problems.EXCEPTION_HANDLERS,
        redirect_slashes=False,
        telemetry=telemetry(),
        responses=problems.problem_responses(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE),
    )
    app.state.settings = settings or read_settings()
    for router in (observations.router, places.router, predictions.router, health.router):
        app.include_router(router)
    return app
