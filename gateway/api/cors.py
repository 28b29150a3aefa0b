"""CORS: which web pages of other origins may use the API in a browser (the Fetch standard).

CORS protects only the user of a browser. A gateway without API keys rejects the writes of all pages of other sites, also of
those that it allows here (`local_requests.py`).
"""

from collections.abc import Collection, Iterable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware as StarletteCORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.problem_types import FOREIGN_PAGE
from gateway.api.problems import problem
from gateway.api.response_headers import EXPOSED_HEADERS

ALLOWED_METHODS = ("GET", "HEAD", "POST", "OPTIONS")
ALLOWED_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "X-Request-ID")


class CORSMiddleware(StarletteCORSMiddleware):
    """Starlette's middleware with the methods and headers of this API. A rejected preflight request gets a problem."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "OPTIONS":
            headers = Headers(scope=scope)
            if "Origin" in headers and "Access-Control-Request-Method" in headers:
                response = self.preflight_response(headers)
                if response.status_code != HTTPStatus.OK:
                    response = _problem(response, scope)
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def cors_fields(headers: Iterable[tuple[bytes, bytes]], origins: Collection[str]) -> list[tuple[bytes, bytes]]:
    """Return the header fields with which a page may read a response that is sent without the app, by the headers of its request."""
    origin = next((value for name, value in headers if name == b"origin"), None)
    if origin is None or not {"*", origin.decode("latin-1")} & set(origins):
        return []
    exposed = (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode())
    if "*" in origins:
        return [(b"access-control-allow-origin", b"*"), exposed]
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin"), exposed]


def _problem(response: Response, scope: Scope) -> Response:
    """Return the response to a rejected preflight request as a problem. Its headers are those that a page may send."""
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    detail = (
        f"{bytes(response.body).decode()}. The headers of this response list the methods and headers that pages may send. The "
        "operator of the gateway chooses their origins."
    )
    return problem(FOREIGN_PAGE, detail, scope, headers=headers)
