"""The invalid parts of a request, as the `errors` of a problem."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

MAX_ERRORS = 20  # in one response; a request can contain a hundred thousand
MAX_POINTER_LENGTH = 200  # a client chooses the names of unknown fields
MAX_NAME_LENGTH = 100
MAX_DETAIL_LENGTH = 300

_FRAGMENT = "~!$&'()*+,;=:@?"  # the characters that a fragment may contain, without letters, digits and `/` (RFC 3986)

_PREFIX = "Value error, "  # of pydantic, for the errors of our validators


class FieldError(BaseModel):
    """One invalid part of a request. It has one of `pointer`, `parameter` and `header`."""

    pointer: str | None = Field(
        None,
        description="The part of the body: a JSON Pointer as a URI fragment (RFC 6901). `#` is the whole body.",
        max_length=MAX_POINTER_LENGTH,
        examples=["#/days/3/date"],
    )
    parameter: str | None = Field(
        None, description="The name of a parameter in the path or the query", max_length=MAX_NAME_LENGTH
    )
    header: str | None = Field(None, description="The name of a header", max_length=MAX_NAME_LENGTH)
    detail: str = Field(description="The reason", max_length=MAX_DETAIL_LENGTH)


def field_errors(errors: Iterable[Mapping[str, Any]]) -> list[FieldError]:
    """Return the first errors of a validation by FastAPI."""
    return [_field_error(details) for details, _ in zip(errors, range(MAX_ERRORS), strict=False)]


def is_malformed_json(details: Mapping[str, Any]) -> bool:
    """Return whether an error of a validation by FastAPI is that of a body that cannot be parsed."""
    return bool(details["type"] == "json_invalid")


def _field_error(details: Mapping[str, Any]) -> FieldError:
    source, *location = details["loc"]
    detail = str(details["msg"]).removeprefix(_PREFIX)
    if is_malformed_json(details):  # the location is a position, not a field
        return FieldError(pointer="#", detail=f"{detail}: {details['ctx']['error']} at character {location[0]}")
    if source == "body":
        return FieldError(pointer=json_pointer(location), detail=_shorten(detail, MAX_DETAIL_LENGTH))
    name, *index = location
    if index:
        detail = f"Value {index[0] + 1}: {detail}"
    name = _shorten(str(name), MAX_NAME_LENGTH)
    detail = _shorten(detail, MAX_DETAIL_LENGTH)
    if source == "header":
        return FieldError(header=name, detail=detail)
    return FieldError(parameter=name, detail=detail)


def json_pointer(location: Sequence[str | int]) -> str:
    """Return the URI fragment with the JSON Pointer of a location. If it is too long, it points to what contains the location."""
    pointer = "#"
    for step in location:
        token = str(step).replace("~", "~0").replace("/", "~1")
        longer = f"{pointer}/{quote(token, safe=_FRAGMENT, errors='replace')}"
        if len(longer) > MAX_POINTER_LENGTH:
            break
        pointer = longer
    return pointer


def _shorten(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
