"""Completes the OpenAPI that FastAPI generates."""

from typing import Any

from fastapi.encoders import jsonable_encoder

from gateway.api import problems
from gateway.api.examples import EXAMPLES
from gateway.api.response_headers import header_components, header_references

_PREFIX = "#/components/schemas/"


def complete(schema: dict[str, Any]) -> None:
    """Add what all responses have in common, and give the sections of a brief readable names."""
    components = schema["components"]
    components["schemas"] |= problems.schemas()
    components["headers"] = header_components()
    for operations in schema["paths"].values():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                is_cacheable = method == "get" or status >= "400"
                names = ("X-Request-ID", "Cache-Control") if is_cacheable else ("X-Request-ID",)
                response["headers"] = {**header_references(*names), **response.get("headers", {})}
            _add_examples(operation)
    _rename_sections(components["schemas"])


def _add_examples(operation: dict[str, Any]) -> None:
    """Add the examples here, because FastAPI removes null from those that a route has."""
    for (operation_id, status), example in EXAMPLES.items():
        if operation_id == operation["operationId"]:
            content = operation["responses"][str(status)]["content"]
            media = content.get("application/json") or content["text/event-stream"]
            media["example"] = jsonable_encoder(example)


def _rename_sections(schemas: dict[str, Any]) -> None:
    """Replace names such as `Section_list_Observation__`, which come from generic types, by `ObservationsSection`."""
    for field, reference in schemas["Sections"]["properties"].items():
        old, new = reference["$ref"].removeprefix(_PREFIX), f"{field.title()}Section"
        schemas[new] = {**schemas.pop(old), "title": new}
        reference["$ref"] = _PREFIX + new
