"""The headers of responses in the OpenAPI."""

from typing import Any

REQUEST_ID = "15c79ca12af943768c5b8f16f3e71864"  # in all examples

_DESCRIPTIONS = {
    "X-Request-ID": ("The id of the request: the client's, if it is valid, or a new one", REQUEST_ID),
    "Cache-Control": ("The rules for caches: how long they may reuse the response", "no-cache"),
    "ETag": ("Identifies the body, for `If-None-Match`", '"e51f6bb66b8b1e0e4e9f4e2d2b3b1a54"'),
    "Link": (
        'The path and query of the next page with `rel="next"`, unless this is the last one',
        '</v1/places?q=zur&limit=1&cursor=AAZWhwAojmg>; rel="next"',
    ),
    "Retry-After": ("The seconds after which to send the request again", 1),
    "Accept": ("The media type that the body should have", "application/json"),
    "Accept-Encoding": ("The content coding that the body should have: none", "identity"),
    "WWW-Authenticate": ("The scheme of the API keys", "Bearer"),
    "Location": ("The path of the new resource", "/v1/places/2657896/observations/1"),
    "Idempotency-Replayed": (
        "Present if an earlier request with this Idempotency-Key has stored the observation",
        "true",
    ),
    "Gateway-Complete": ("`false` if a section is unavailable", "true"),
    "Gateway-Incomplete": ("The unavailable sections with their reasons, if there are any", "weather;reason=timeout"),
    "Gateway-Stale": ("The sections with old data, if there are any", "weather"),
}

# The scripts of a page of another origin can read Cache-Control anyway. The OpenAPI has no response with Allow.
EXPOSED_HEADERS = ("Allow", *(name for name in _DESCRIPTIONS if name != "Cache-Control"))


def header_references(*names: str) -> dict[str, Any]:
    """Return the `headers` of a response in the OpenAPI, as references to the components."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def header_components() -> dict[str, Any]:
    """Return the OpenAPI components that `header_references` refers to."""
    return {
        name: {
            "description": description,
            "schema": {"type": "integer" if isinstance(example, int) else "string"},
            "example": example,
        }
        for name, (description, example) in _DESCRIPTIONS.items()
    }
