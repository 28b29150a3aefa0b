"""The formats of the log, and the log lines of libraries."""

import json
import logging
import os
import pty
import subprocess
import sys

import pytest
from opentelemetry._logs import NoOpLoggerProvider

from gateway.telemetry.log_export import LogExport

PROGRAM = """
import logging, sys, structlog
from gateway.logs import configure_logging

configure_logging(log_format=sys.argv[1])
structlog.contextvars.bind_contextvars(request_id="the-id")
structlog.get_logger("gateway.test").info("own line", count=1)
logging.getLogger("library").warning("line of %s", "a library")
"""


def log_lines(log_format: str, *, on_terminal: bool = False) -> list[str]:
    """Return the lines that a process logs in a format to a pipe, or to a terminal."""
    command = [sys.executable, "-c", PROGRAM, log_format]
    if not on_terminal:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
        return done.stderr.splitlines()
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb") as output:
        subprocess.run(command, stderr=terminal, check=True)  # noqa: S603 - our own code
        os.close(terminal)
        return os.read(output.fileno(), 64 * 1024).decode().splitlines()


@pytest.mark.parametrize(("log_format", "on_terminal"), [("auto", False), ("json", True)])
def test_json_lines(log_format: str, on_terminal: bool) -> None:
    """A line of the gateway and one of a library are JSON with the id of the request, by default where there is no terminal."""
    own, of_library = map(json.loads, log_lines(log_format, on_terminal=on_terminal))

    assert own | {"timestamp": ""} == {
        "event": "own line",
        "count": 1,
        "request_id": "the-id",
        "level": "info",
        "timestamp": "",
    }
    assert of_library.keys() == own.keys() - {"count"}
    assert (of_library["event"], of_library["level"]) == ("line of a library", "warning")


@pytest.mark.parametrize(("log_format", "on_terminal"), [("auto", True), ("console", False)])
def test_lines_for_people(log_format: str, on_terminal: bool) -> None:
    """Both lines are text for people, by default on a terminal."""
    own, of_library = log_lines(log_format, on_terminal=on_terminal)

    assert "own line" in own
    assert "line of a library" in of_library
    assert not own.startswith("{")


def test_export_of_a_bad_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a library with wrong arguments is reported on standard error, and does not fail the code that logs it."""
    record = logging.LogRecord("library", logging.INFO, __file__, 1, "%d parts", ("many",), None)
    LogExport(NoOpLoggerProvider()).emit(record)

    assert "Logging error" in capsys.readouterr().err
