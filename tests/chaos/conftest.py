"""The gateway's processes run with the fixtures of the end-to-end tests, and with longer timeouts."""

import pytest

from tests.end_to_end.conftest import environment, instance, run, start

__all__ = ["environment", "instance", "run", "start"]


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """Timeouts for a busy machine: a starting RabbitMQ takes many seconds and slows healthy backends down."""
    return {
        "GATEWAY_BRIEF_TIMEOUT": "3",
        "GATEWAY_RABBITMQ__START_TIMEOUT": "60",
        "GATEWAY_STARTUP_TIMEOUT": "90",
    }
