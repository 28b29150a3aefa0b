"""The fixtures that run a gateway are those of the end-to-end tests."""

from tests.end_to_end.conftest import environment, instance, run, start

__all__ = ["environment", "instance", "run", "start"]
