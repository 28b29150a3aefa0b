"""The classes of the routes: they reject unknown query parameters and bodies that are not JSON, or set the headers of caches."""

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from gateway.api.caching import NO_CACHE, add_cache_headers
from gateway.api.content_type import require_json
from gateway.api.query import reject_unknown_parameters

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """A route that rejects what it would otherwise ignore: unknown query parameters, and bodies of other media types."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        known = _query_parameters(self.dependant)
        has_body = self.body_field is not None

        async def handle_strictly(request: Request) -> Response:
            if request.scope["query_string"]:
                reject_unknown_parameters(request.query_params, known)
            if has_body:
                await require_json(request)
            return await handle(request)

        return handle_strictly


class CachedRoute(APIRoute):
    """A route whose GET responses have a `Cache-Control`, and an `ETag` if they may be stored. It ignores unknown parameters."""

    cache_control: ClassVar[str] = NO_CACHE

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if "GET" not in (self.methods or ()):
            return handle

        async def handle_cached(request: Request) -> Response:
            return add_cache_headers(request.headers, await handle(request), self.cache_control)

        return handle_cached


def _query_parameters(dependant: Dependant) -> frozenset[str]:
    """Return the names of the query parameters of a route and of its dependencies."""
    names = {parameter.alias for parameter in dependant.query_params}
    return frozenset(names.union(*map(_query_parameters, dependant.dependencies)))
