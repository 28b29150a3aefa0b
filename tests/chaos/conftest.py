"""The fixtures that run a gateway are those of the end-to-end tests."""

import pytest

from tests.end_to_end.conftest import environment, instance, run, start

__all__ = ["environment", "instance", "run", "start"]


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """Servers that boot take the machine to themselves for a second; a healthy backend is not late because of that."""
    return {"GATEWAY_BRIEF_TIMEOUT": "3"}
