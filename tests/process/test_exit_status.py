"""The exit statuses are an interface: service managers and scripts depend on the numbers."""

from gateway.process.exit_status import ExitStatus


def test_numbers() -> None:
    """Each exit status has its documented number."""
    assert {name: int(status) for name, status in ExitStatus.__members__.items()} == {
        "OK": 0,
        "CRASHED": 1,
        "CHECK_FAILED": 1,
        "START_FAILED": 3,
        "UNCLEAN": 4,
        "FORCED": 130,
        "INTERRUPTED": 130,
    }
