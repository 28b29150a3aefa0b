"""A pytest plugin: draws the timelines of the fault tests (`--timeline`) and writes their report (`--report FOLDER`)."""

import inspect
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.faults.families import BY_MODULE
from tests.faults.harness import FaultLab
from tests.faults.report import CaseRecord, RunData, data_of, summary, timeline_of, write_report

RUN = pytest.StashKey[RunData]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "fault tests")
    group.addoption("--timeline", action="store_true", help="print what happened in each run, with times")
    group.addoption("--report", metavar="FOLDER", help="write the report of this run to FOLDER")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = RunData()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Record a test that has passed, if it uses the fault lab."""
    lab = getattr(item, "funcargs", {}).get("lab")
    if call.when != "call" or call.excinfo is not None or not isinstance(lab, FaultLab):
        return
    if Path(item.location[0]).stem not in BY_MODULE:
        return
    assert isinstance(item, pytest.Function)
    item.config.stash[RUN].cases.append(record(item, lab, call.duration))
    if item.config.getoption("--timeline"):
        capture = item.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("", *drawing(claim_of(item.function), lab), sep="\n")  # noqa: T201 - the option demands it


def record(item: pytest.Function, lab: FaultLab, seconds: float) -> CaseRecord:
    """Return what a test has proved."""
    module = Path(item.location[0]).stem
    is_sample = item.nodeid == BY_MODULE[module].sample_id
    return CaseRecord(
        test=item.nodeid,
        module=module,
        cases=dict(lab.cases or Counter([entry_of(item)])),
        seconds=seconds,
        locations=sorted(lab.locations),
        slowest_run=lab.slowest_run,
        timeline=timeline_of(lab.runs) if is_sample else None,
    )


def entry_of(item: pytest.Function) -> str:
    """Return the entry that a test is about: its parameter `entry` or `later`, its marker `entry`, or "all"."""
    marker = item.get_closest_marker("entry")
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(parameters.get("entry") or parameters.get("later") or (marker.args[0] if marker else "all"))


def claim_of(function: object) -> str:
    """Return the docstring of a test, in one line."""
    return " ".join((inspect.getdoc(function) or "").split())


def drawing(claim: str, lab: FaultLab) -> Iterator[str]:
    """Yield the claim of a test and the timelines of its runs."""
    yield claim
    for run in lab.runs:
        yield ""
        if run.point:
            yield f"  {run.active_entry}: injected at {run.point}"
        yield from (f"  {line}" for line in run.timeline())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash[RUN]
    if run.cases:
        terminalreporter.section(f"fault lab: {run.total} cases in {run.seconds:.0f} s")
        for line in summary(run):
            terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect the records of an xdist worker."""
    records = getattr(node, "workeroutput", {}).get("faults", [])
    node.config.stash[RUN].cases += [CaseRecord(**values) for values in records]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    run = session.config.stash[RUN]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = [asdict(case) for case in run.cases]
        return
    target = session.config.getoption("--report")
    if not target or session.config.getoption("--collect-only"):
        return
    if exitstatus != pytest.ExitCode.OK:
        session.config.get_terminal_writer().line(f"\n{target} is not written: not every test passed")
        return
    command = f"pytest {shlex.join(session.config.invocation_params.args)}"
    write_report(Path(target), data_of(run, command))
