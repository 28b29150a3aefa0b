"""The reference of the HTTP API as Markdown, from its OpenAPI description."""

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

PROBLEM_TYPE = re.compile(r"^`([a-z-]+)`", re.MULTILINE)

HEAD = """# HTTP API: reference

All paths, generated from the OpenAPI description. A running gateway has the same at `/docs`, where requests can be sent, and at
`/openapi.json`. [The HTTP API](../docs/http_api.md) explains what all paths have in common, and
[Problems](../docs/problems.md) the errors.
"""


def http_reference(spec: Json) -> str:
    """Return a section for each operation: its parameters, its body and its responses."""
    sections = [
        _operation(spec, method.upper(), path, operation)
        for path, operations in spec["paths"].items()
        for method, operation in operations.items()
    ]
    objects = [_schema(name, schema) for name, schema in spec["components"]["schemas"].items()]
    return "\n".join([HEAD, *sections, "## Objects\n", *objects])


def _operation(spec: Json, method: str, path: str, operation: Json) -> str:
    lines = [f"## {operation['summary']}", "", f"`{method} {path}`", "", operation.get("description", ""), ""]
    parameters = [_resolved(spec, parameter) for parameter in operation.get("parameters", [])]
    if parameters:
        lines += ["| parameter | in | type | description |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{one['name']}`{'' if one.get('required') else ' (optional)'} | {one['in']} | {_type(one['schema'])} "
            f"| {_cell(one.get('description', ''))} |"
            for one in parameters
        ]
        lines.append("")
    if "requestBody" in operation:
        (content,) = operation["requestBody"]["content"].values()
        lines += [f"Body: {_type(content['schema'])}", ""]
    lines += ["| status | response |", "| --- | --- |"]
    lines += [
        f"| {status} | {_cell(_response(_resolved(spec, response)))} |"
        for status, response in sorted(operation["responses"].items())
    ]
    return "\n".join([*lines, ""])


def _response(response: Json) -> str:
    types = [_type(content["schema"]) for content in response.get("content", {}).values() if "schema" in content]
    if "[Problem](#problem)" in types:
        return PROBLEM_TYPE.sub(r"[`\1`](../docs/problems.md#\1)", response["description"])
    if not types:
        return str(response["description"])
    return ", ".join(types)


def _schema(name: str, schema: Json) -> str:
    lines = [f"### {name}", "", schema.get("description", ""), ""]
    if "properties" not in schema:
        return "\n".join([*lines, _type(schema), ""])
    required = schema.get("required", [])
    lines += ["| field | type | description |", "| --- | --- | --- |"]
    lines += [
        f"| `{field}`{'' if field in required else ' (optional)'} | {_type(value)} | {_cell(value.get('description', ''))} |"
        for field, value in schema["properties"].items()
    ]
    return "\n".join([*lines, ""])


def _type(schema: Json) -> str:
    """Return the type in words, with a link if it is an object of its own."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(map(_type, schema[word])))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    return " ".join([str(schema.get("type", "any")), *_limits(schema)])


def _limits(schema: Json) -> Iterator[str]:
    for key, sign in (("minimum", "≥"), ("maximum", "≤"), ("minLength", "length ≥"), ("maxLength", "length ≤")):
        if key in schema:
            yield f"{sign} {schema[key]}"


def _resolved(spec: Json, value: Json) -> Json:
    while "$ref" in value:
        _, *parts = value["$ref"].split("/")
        value = spec
        for part in parts:
            value = value[part]
    return value


def _cell(text: str) -> str:
    return "<br>".join(line for line in text.replace("|", "\\|").splitlines() if line)
