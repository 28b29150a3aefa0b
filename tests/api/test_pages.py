"""The cursors of pages: any text that is not exactly a cursor of the list is rejected."""

from struct import Struct

import pytest
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.pages import decode_cursor, encode_cursor, link_next_page

LAYOUT = Struct(">ii")
INTEGERS = st.integers(-(2**31), 2**31 - 1)
CURSOR = encode_cursor(LAYOUT, 415367, 2657896)


@given(first=INTEGERS, second=INTEGERS)
def test_cursor_has_the_numbers(first: int, second: int) -> None:
    """A cursor is decoded to the numbers that it was made of, and needs no escapes in a URL."""
    cursor = encode_cursor(LAYOUT, first, second)

    assert decode_cursor(LAYOUT, cursor) == (first, second)
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(text=st.text(max_size=30) | st.text("ABCDwxyz0189-_+/=", min_size=10, max_size=12))
def test_any_text(text: str) -> None:
    """Any other text is rejected, or is the only cursor of its numbers."""
    try:
        numbers = decode_cursor(LAYOUT, text)
    except RequestValidationError:
        return
    assert encode_cursor(LAYOUT, *numbers) == text


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        CURSOR + "=",
        CURSOR + "A",
        CURSOR[:-1],
        CURSOR[:-1] + "B",  # the same bytes, with other unused bits
        CURSOR + "\n",
        " " + CURSOR,
        "ä" + CURSOR[1:],
        CURSOR.replace("A", "+", 1),
        encode_cursor(Struct(">qq"), 1, 2),
    ],
)
def test_invalid_cursor(cursor: str) -> None:
    """The error names the parameter and has advice, without the cursor."""
    with pytest.raises(RequestValidationError) as caught:
        decode_cursor(LAYOUT, cursor)

    (error,) = caught.value.errors()
    assert error["loc"] == ("query", "cursor")
    assert "Use `next` of the previous page" in error["msg"]


def test_link_has_the_prefix_and_escapes() -> None:
    """The next page has the prefix that a proxy has removed, and its header has ASCII characters only."""
    response = Response()
    request = Request({"type": "http", "root_path": "/prefix/"})

    next_page = link_next_page(request, response, "/v1/places", q="zü> &", cursor="a-_")

    assert next_page == "/prefix/v1/places?q=z%C3%BC%3E+%26&cursor=a-_"
    assert response.headers["Link"] == f'<{next_page}>; rel="next"'
