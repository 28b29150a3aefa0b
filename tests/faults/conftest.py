"""A gateway in front of the real servers, in this process or as one of its own, as the end-to-end tests have it."""

from tests.end_to_end.conftest import empty_database, environment, instance, run, settings

__all__ = ["empty_database", "environment", "instance", "run", "settings"]
