"""Query parameters that a route does not have: a misspelled one would otherwise have no effect, without an error."""

from collections.abc import Collection, Iterable
from itertools import islice

from fastapi.exceptions import RequestValidationError

from gateway.api.field_errors import MAX_ERRORS


def reject_unknown_parameters(names: Iterable[str], known: Collection[str]) -> None:
    """Check the names of the query parameters of a request.

    Raises:
        RequestValidationError: some are unknown. It has an error for each of the first ones.
    """
    unknown = islice((name for name in names if name not in known), MAX_ERRORS)
    message = f"Unknown parameter. {_advice(known)}"
    if errors := [
        {"type": "extra_forbidden", "loc": ("query", name), "msg": message, "input": None} for name in unknown
    ]:
        raise RequestValidationError(errors)


def _advice(known: Collection[str]) -> str:
    return f"Those of this path are: {', '.join(sorted(known))}." if known else "This path has none in its query."
