"""Completes the OpenAPI that FastAPI generates."""

from typing import Any

from gateway.api import problems
from gateway.api.response_headers import header_components, header_references

_PREFIX = "#/components/schemas/"


def complete(schema: dict[str, Any]) -> None:
    """Add what all responses have in common, and give the sections of a brief readable names."""
    components = schema["components"]
    components["schemas"] |= problems.schemas()
    components["headers"] = header_components()
    for operations in schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response["headers"] = {**header_references("X-Request-ID"), **response.get("headers", {})}
    _rename_sections(components["schemas"])


def _rename_sections(schemas: dict[str, Any]) -> None:
    """Replace names such as `Section_list_Observation__`, which come from generic types, by `ObservationsSection`."""
    for field, reference in schemas["Sections"]["properties"].items():
        old, new = reference["$ref"].removeprefix(_PREFIX), f"{field.title()}Section"
        schemas[new] = {**schemas.pop(old), "title": new}
        reference["$ref"] = _PREFIX + new
