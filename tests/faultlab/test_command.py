"""`python -m faultlab`: it convicts the specimens that leak, and clears those that do not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def examine(target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-m", "faultlab", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("app", ["tutorial", "exit_stack", "made"])
def test_an_app_that_gives_everything_back_is_cleared(app: str) -> None:
    done = examine(f"tests.faultlab.specimens:{app}")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(" 0 of them left something behind") == 2


def test_a_missing_finally_is_convicted_at_the_ticks_where_it_leaks() -> None:
    done = examine("tests.faultlab.specimens:leaking")

    assert done.returncode == 1
    assert "descriptor socket" in done.stdout
    assert "teardown: cancelled at 0 ticks" not in done.stdout


def test_a_close_that_a_cancellation_cuts_short_is_convicted() -> None:
    done = examine("tests.faultlab.specimens:goodbye")
    startup, _, teardown = done.stdout.partition("teardown:")

    assert done.returncode == 1
    assert "descriptor socket" not in startup
    assert "descriptor socket" in teardown


def test_an_app_that_swallows_its_cancellation_is_convicted() -> None:
    done = examine("tests.faultlab.specimens:swallowing")

    assert done.returncode == 1
    assert "something swallowed it" in done.stdout


def test_a_target_without_a_name_is_wrong_usage() -> None:
    done = examine("tests.faultlab.specimens")

    assert done.returncode == 2
    assert "package.module:name" in done.stderr
