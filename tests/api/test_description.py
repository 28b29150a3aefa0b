"""The OpenAPI description is complete and readable: names, examples, headers and enumerations."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from gateway.app import create_app
from gateway.settings import Settings

Json = dict[str, Any]


@pytest.fixture(scope="module")
def description() -> Json:
    return create_app(Settings()).openapi()


def operations(description: Json) -> dict[str, Json]:
    """Return all operations by their id."""
    return {
        operation["operationId"]: operation for path in description["paths"].values() for operation in path.values()
    }


def responses(description: Json) -> Iterator[tuple[str, int, Json]]:
    """Yield the id of the operation, the status and the description of each response."""
    for operation_id, operation in operations(description).items():
        for status, response in operation["responses"].items():
            yield operation_id, int(status), response


def examples(media: Json) -> list[Any]:
    """Return the examples of a body, with those of its schema."""
    named = [example["value"] for example in media.get("examples", {}).values()]
    return [*named, *([media["example"]] if "example" in media else [])]


def assert_valid(example: object, schema: Json, description: Json) -> None:
    whole = {"components": description["components"], "allOf": [schema]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(example)


def test_names_of_operations(description: Json) -> None:
    """The ids of the operations are the names that a generated client should have, and the summaries are for readers."""
    assert {name: operation["summary"] for name, operation in operations(description).items()} == {
        "get_brief": "Get a brief",
        "list_briefs": "Get several briefs",
        "list_places": "Find places",
        "get_place": "Get a place",
        "report_observation": "Report an observation",
        "list_observations": "List observations",
        "get_observation": "Get an observation",
        "predict": "Predict wet days",
        "get_liveness": "Liveness",
        "get_readiness": "Readiness",
        "get_lifecycle": "Journal",
        "watch_lifecycle": "Journal and state, live",
    }


def test_names_of_schemas(description: Json) -> None:
    """The names of the schemas are words without marks of generic types, and each schema is used."""
    names = set(description["components"]["schemas"])

    assert [name for name in names if not re.fullmatch(r"([A-Z][a-z]+)+", name)] == []
    assert {"WeatherSection", "OutlookSection", "ObservationsSection", "PopularitySection"} <= names
    used = set(re.findall(r"'#/components/schemas/(\w+)'", str(description)))
    assert used == names


def test_names_of_components(description: Json) -> None:
    """The names of all components have only the characters that OpenAPI allows."""
    names = [name for components in description["components"].values() for name in components]

    assert {"api_key", "operator_key"} <= set(names)
    assert [name for name in names if not re.fullmatch(r"[a-zA-Z0-9._-]+", name)] == []


def test_bodies_of_responses_have_valid_examples(description: Json) -> None:
    """Each response with a body has an example for each media type, and the schema accepts it. A problem has the status of its response."""
    for operation_id, status, response in responses(description):
        for media_type, media in response.get("content", {}).items():
            found = examples(media)
            assert found, (operation_id, status, media_type)
            for example in found:
                if media_type != "text/event-stream":  # JSON Schema describes each event, not their text
                    assert_valid(example, media["schema"], description)
                if media_type == "application/problem+json":
                    assert example["status"] == status


def test_requests_have_valid_examples(description: Json) -> None:
    """Each body of a request, and each parameter without a default, has an example that its schema accepts."""
    for operation in operations(description).values():
        schemas = [parameter["schema"] for parameter in operation.get("parameters", [])]
        for media in operation.get("requestBody", {}).get("content", {}).values():
            name = media["schema"]["$ref"].rpartition("/")[2]
            schemas.append(description["components"]["schemas"][name])
        for schema in schemas:
            assert "examples" in schema or "default" in schema, (operation["operationId"], schema)
            for example in schema.get("examples", []):
                assert_valid(example, schema, description)


def test_headers_of_responses(description: Json) -> None:
    """Each response has the headers that the API sends, and each reference leads to a header with a description."""
    components = description["components"]["headers"]
    headers = {(operation_id, status): set(it["headers"]) for operation_id, status, it in responses(description)}

    assert all("X-Request-ID" in names for names in headers.values())
    assert all(("Retry-After" in names) == (status in {409, 503}) for (_, status), names in headers.items())
    assert all(("WWW-Authenticate" in names) == (status == 401) for (_, status), names in headers.items())
    for name in ("Accept", "Accept-Encoding"):
        assert all((name in names) == (status == 415) for (_, status), names in headers.items())
    assert all("Cache-Control" in names for (_, status), names in headers.items() if status not in {200, 201})
    assert all("Cache-Control" in headers[name, 200] for name, status in headers if status == 200 and name != "predict")
    assert {name for (name, status), names in headers.items() if {"ETag"} & names and status == 200} == {
        "list_places",
        "get_place",
        "list_observations",
        "get_observation",
    }
    assert "Location" in headers["report_observation", 201]
    for operation_id in ("get_brief", "list_briefs"):
        assert {"Gateway-Complete", "Gateway-Incomplete", "Gateway-Stale"} <= headers[operation_id, 200]
    assert set().union(*headers.values()) == set(components)
    assert all(component["description"] for component in components.values())


def test_conditions_are_enumerated(description: Json) -> None:
    """The values of an enumeration are listed in responses as in requests."""
    schemas = description["components"]["schemas"]

    assert (
        schemas["Observation"]["properties"]["condition"]["enum"]
        == schemas["ObservationCreate"]["properties"]["condition"]["enum"]
    )
