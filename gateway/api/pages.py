"""Pages of lists: each has the path of the next one, which contains the position of its last item as a cursor.

A cursor has no secret and no state of this process: it remains valid after a restart and in all replicas.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field

Limit = Annotated[int, Query(ge=1, le=100, description="The maximum number of items")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=100,
        description="The cursor in `next` of the previous page; none for the first page. Each list has cursors of its own.",
        examples=["AAZWhwAojmg"],
    ),
]
NextPage = Annotated[str | None, Field(description="The path and query of the next page, or null on the last page")]


def encode_cursor(layout: struct.Struct, *numbers: int) -> str:
    return urlsafe_b64encode(layout.pack(*numbers)).rstrip(b"=").decode()


def decode_cursor(layout: struct.Struct, cursor: str) -> tuple[Any, ...]:
    """Return the numbers of a cursor.

    Raises:
        RequestValidationError: the text is not a cursor of this layout, exactly as `encode_cursor` returns it.
    """
    try:
        numbers = layout.unpack(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (struct.error, ValueError):
        raise invalid_cursor() from None
    if encode_cursor(layout, *numbers) != cursor:  # the decoder ignores some characters
        raise invalid_cursor()
    return numbers


def invalid_cursor() -> RequestValidationError:
    message = "Not a cursor of this list. Use `next` of the previous page as it is, or leave the cursor out for the first page."
    return RequestValidationError([{"type": "value_error", "loc": ("query", "cursor"), "msg": message, "input": None}])


def link_next_page(request: Request, response: Response, path: str, **parameters: str | int) -> str:
    """Add the header `Link` with the next page to a response, and return its path and query."""
    next_page = public_path(request, f"{path}?{urlencode(parameters)}")
    response.headers["Link"] = f'<{next_page}>; rel="next"'
    return next_page


def public_path(request: Request, path: str) -> str:
    """Return a path as the client sees it, with the prefix that a proxy has removed."""
    root_path: str = request.scope["root_path"]
    return root_path.rstrip("/") + path
