"""The tutorial: each step runs, and prints the output that its page shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial"
STEPS = sorted(TUTORIAL.glob("[1-9]_*.py"))


def without_times(output: str) -> list[str]:
    """Return the lines without what differs between two runs: numbers, and the shape of the bars."""
    without_numbers = re.sub(r"[\d.]+(?= s\b)|:\d+|(?<=at )\d+|(?<=leaks: )\d+", "N", output)
    without_bars = re.sub(r"  +(?:[░█▒]+ *)?", "  ", without_numbers)
    return [line for line in without_bars.splitlines() if line.strip()]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.stem)
def test_step_prints_output_of_its_page(step: Path) -> None:
    """The code blocks of the page are the output of the step, but for times."""
    page = step.with_suffix(".md").read_text()
    expected = "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL))

    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-W", "error", step.relative_to(ROOT)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert without_times(done.stdout) == without_times(expected)


def test_seven_steps_are_linked() -> None:
    """The first page of the tutorial links all steps, in order, and each page links the next one."""
    names = [step.stem for step in STEPS]
    linked = re.findall(r"^\d\. \[.*?\]\((\w+)\.md\)", (TUTORIAL / "README.md").read_text(), re.MULTILINE)

    assert len(names) == 7
    assert linked == names
    for step, following in zip(STEPS, names[1:], strict=False):
        assert f"]({following}.md)" in step.with_suffix(".md").read_text()
