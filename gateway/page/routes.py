"""The routes of the page at `/`, and of Swagger UI at `/docs`."""

from fastapi import APIRouter, Response

from gateway.api.routes import CachedRoute
from gateway.page.files import file_response

page_router = APIRouter(include_in_schema=False, route_class=CachedRoute)
docs_router = APIRouter(include_in_schema=False, route_class=CachedRoute)


@page_router.get("/")
async def get_page() -> Response:
    return file_response("gateway.page", "static", "index.html")


@page_router.get("/page/{file}")
async def get_page_file(file: str) -> Response:
    return file_response("gateway.page", "static", file)


@docs_router.get("/docs")
async def get_docs() -> Response:
    return file_response("gateway.page", "swagger", "index.html")


@docs_router.get("/docs/start.js")
async def get_docs_script() -> Response:
    return file_response("gateway.page", "swagger", "start.js")


@docs_router.get("/docs/{file}")
async def get_swagger_file(file: str) -> Response:
    """Return a file of Swagger UI, as `fastapi_offline` ships it."""
    return file_response("fastapi_offline", "static", file)
