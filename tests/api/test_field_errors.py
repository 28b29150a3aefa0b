"""The `errors` of a problem: JSON Pointers, parameters and headers, of limited length."""

import json
from types import SimpleNamespace
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from gateway.api.field_errors import MAX_DETAIL_LENGTH, MAX_ERRORS, MAX_POINTER_LENGTH, field_errors, json_pointer
from gateway.api.predictions import EXAMPLE_DAY as DAY
from gateway.app import create_app
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    """The app with services that the tests do not use: the requests are rejected before."""
    return StatefulApp(create_app(Settings()), {"services": SimpleNamespace(model=None)})


async def errors_of(app: ASGIApp, method: str, path: str, body: str = "", *, status: int = 422) -> list[dict[str, str]]:
    """Return the errors of an invalid request."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        response = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    errors: list[dict[str, str]] = response.json()["errors"]
    return errors


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (
            {"days": [DAY, DAY, DAY, DAY | {"date": 1, "wind_speed_m_s": -1}]},
            ["#/days/3/wind_speed_m_s", "#/days/3/date"],
        ),
        ({"days": [DAY | {"a/b~c": 1}]}, ["#/days/0/a~1b~0c"]),
        ({"days": [DAY | {'ä "#%': 1}]}, ["#/days/0/%C3%A4%20%22%23%25"]),
        ({"days": [DAY], "\ud800": 1}, ["#"]),
        ({"days": [DAY], "x" * 1000: 1}, ["#"]),
        ({"days": [DAY | {"": 1}]}, ["#/days/0/"]),
        ({"days": [DAY, DAY | {"temperature_min_c": 20}]}, ["#/days/1"]),
        ({}, ["#/days"]),
        ([], ["#"]),
    ],
)
async def test_pointers_to_parts_of_the_body(app: ASGIApp, body: object, pointers: list[str]) -> None:
    """A JSON Pointer leads to each invalid part of the body, or to what contains it if the pointer would be too long."""
    errors = await errors_of(app, "POST", "/v1/predictions", json.dumps(body))

    assert [error["pointer"] for error in errors] == pointers
    assert all(error.keys() == {"pointer", "detail"} for error in errors)


async def test_position_in_malformed_json(app: ASGIApp) -> None:
    """The error of a body that is not JSON is about the whole body, and its detail has the position."""
    (error,) = await errors_of(app, "POST", "/v1/predictions", '{"days": x', status=400)

    assert error == {"pointer": "#", "detail": "JSON decode error: Expecting value at character 9"}


async def test_details_of_validators(app: ASGIApp) -> None:
    """The detail of an error is the message of the validator, without a prefix of pydantic."""
    body = json.dumps({"days": [DAY | {"date": 1}]})
    (date,) = await errors_of(app, "POST", "/v1/predictions", body)
    body = json.dumps({"days": [DAY | {"temperature_min_c": 20}]})
    (day,) = await errors_of(app, "POST", "/v1/predictions", body)

    assert date["detail"] == "should be a date like 2026-11-24"
    assert day["detail"] == "temperature_min_c should not be above temperature_max_c"


async def test_names_of_parameters(app: ASGIApp) -> None:
    """An invalid parameter of the path or the query is named, with the number of the value if it can have several."""
    (in_query,) = await errors_of(app, "GET", "/v1/briefs?place=1&place=x")
    (in_path,) = await errors_of(app, "GET", "/v1/places/0/brief")

    assert (in_query["parameter"], in_query["detail"][:9]) == ("place", "Value 2: ")
    assert (in_path["parameter"], set(in_path)) == ("place_id", {"parameter", "detail"})


def test_names_of_headers() -> None:
    """An invalid header is named."""
    (error,) = field_errors([{"type": "string_too_short", "loc": ("header", "Idempotency-Key"), "msg": "Too short"}])

    assert error.model_dump(exclude_none=True) == {"header": "Idempotency-Key", "detail": "Too short"}


def test_limits() -> None:
    """The number of errors and the length of their details and names are limited."""
    details = {"type": "x", "loc": ("query", "n" * 1000), "msg": "m" * 1000}
    errors = field_errors([details] * 1000)

    assert len(errors) == MAX_ERRORS
    assert {len(error.detail) for error in errors} == {MAX_DETAIL_LENGTH}
    assert {error.parameter for error in errors} == {"n" * 99 + "…"}


def test_pointer_with_half_a_surrogate_pair() -> None:
    """Half a surrogate pair, which UTF-8 cannot represent, is replaced."""
    assert json_pointer(["a\ud800"]) == "#/a?"


@settings(max_examples=50)
@given(
    st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), st.integers(0, 9)), max_size=8)
)
def test_pointer_can_be_decoded(location: list[str | int]) -> None:
    """The steps of a location can be decoded from its pointer (RFC 6901, section 6)."""
    pointer = json_pointer(location)

    assert len(pointer) <= MAX_POINTER_LENGTH
    assert pointer.isascii()
    steps = [step.replace("~1", "/").replace("~0", "~") for step in unquote(pointer[1:]).split("/")[1:]]
    assert steps == [str(step) for step in location][: len(steps)]
    assert pointer[0] == "#"
