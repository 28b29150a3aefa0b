"""Caches of clients and proxies: how long a response may be reused, and whether it has changed (RFC 9110, RFC 9111)."""

import hashlib
import re
from http import HTTPStatus
from typing import Any

from fastapi import Response
from starlette.datastructures import Headers

from gateway.api.response_headers import header_references

NO_STORE = "no-store"
NO_CACHE = "no-cache"  # may be stored, but each use needs a confirmation with `If-None-Match`

CONDITIONAL: dict[str, Any] = {  # the argument `openapi_extra` of a route whose responses have an ETag
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The ETags of the bodies that the client has",
            "schema": {"type": "string", "examples": ['"e51f6bb66b8b1e0e4e9f4e2d2b3b1a54"']},
        }
    ]
}

_TAG = re.compile(r'("[\x21\x23-\x7e\x80-\xff]*")')


def cached_responses(*headers: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` argument of a route whose responses have an ETag and perhaps other headers, for the OpenAPI."""
    return {
        HTTPStatus.OK.value: {"headers": header_references("ETag", *headers)},
        HTTPStatus.NOT_MODIFIED.value: {
            "description": "The client has this body already",
            "headers": header_references("ETag"),
        },
    }


def add_cache_headers(request_headers: Headers, response: Response, cache_control: str) -> Response:
    """Add `Cache-Control` to the response of a GET request and, if it has status 200 and may be stored, the `ETag` of its body.

    Returns:
        The response, or one with status 304 and without a body if the client has this body already.
    """
    response.headers["Cache-Control"] = cache_control
    if response.status_code != HTTPStatus.OK or cache_control == NO_STORE:
        return response
    digest = hashlib.blake2b(response.body, digest_size=16).hexdigest()
    response.headers["ETag"] = tag = f'"{digest}"'
    if not _matches(tag, request_headers.getlist("If-None-Match")):
        return response
    headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)


def _matches(tag: str, conditions: list[str]) -> bool:
    """Compare weakly, as RFC 9110 requires for `If-None-Match`: proxies that compress a response make its tag weak."""
    condition = ",".join(conditions)
    return condition.strip() == "*" or tag in _TAG.findall(condition)
