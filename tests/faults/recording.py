"""What the cases of the fault lab proved: a timeline of each (`--timeline`), and a report of a whole run (`--report PATH`)."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gateway.lifecycle import EventType, Journal, format_error
from tests.faults.report import Phase, Proof, Run, data_of, markdown, summary

_RELEASED = {EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED, EventType.CRASHED}

RUN = pytest.StashKey[Run]()


class Record:
    """The fixture `record`: a test says what it has just proved."""

    def __init__(self, run: Run, test: str, *, draws: bool) -> None:
        self.drawn: list[str] = []
        self._run = run
        self._test = test
        self._draws = draws

    def __call__(
        self,
        resource: str,
        phase: Phase,
        fault: str,
        *,
        cases: int = 1,
        journal: Journal | None = None,
        wire: Sequence[str] = (),
    ) -> None:
        """Count `cases` cases.

        Args:
            resource: where the fault was; "all" if it was the whole lifespan's.
            phase: when.
            fault: what, as a short noun.
            cases: how many of this kind the test has seen.
            journal: what happened in one of them.
            wire: what was seen of it on the wire; a line each.
        """
        self._run.proofs.append(Proof(self._test, resource, phase, str(fault), cases))  # it crosses processes as text
        if self._draws:
            self.drawn += ["", f"  {resource}, {phase}: {fault}" + (f" ({cases} cases)" if cases > 1 else "")]
            self.drawn += [f"    {line}" for line in timeline(journal)] if journal is not None else []
            self.drawn += [f"    on the wire: {line}" for line in wire]

    def finding(self, name: str, line: str) -> None:
        """Put one more line into the report."""
        self._run.findings[name] = line

    def places(self, name: str, places: Iterable[str]) -> None:
        """Say where the faults of a sweep struck."""
        self._run.places[name] = sorted({*places})


def claim(test: str, of: type | None) -> str:
    """The sentence that a test proves: its name, after that of its class."""
    subject = re.sub("^A(?=[A-Z])", "A ", of.__name__.removeprefix("Test")) + ": " if of else ""
    sentence = subject + test.removeprefix("test_").replace("_", " ")
    return f"{sentence[0].upper()}{sentence[1:]}."


def timeline(journal: Journal) -> Iterator[str]:
    """The journal, with what was held after each step."""
    held: list[str] = []
    for event in journal:
        if event.name is not None and event.type is EventType.ENTERED:
            held.append(event.name)
        elif event.name in held and event.type in _RELEASED:
            held.remove(event.name)
        error = f"  {format_error(event.error)}" if event.error is not None else ""
        what = f"{event.at * 1000:8.1f} ms  {event.type.value:<15} {event.name or ''}"
        yield f"{what:<40}  holds {' '.join(held) or 'nothing'}{error}"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the fault lab")
    group.addoption("--timeline", action="store_true", help="print what happened in each case, with times")
    group.addoption("--report", metavar="PATH", help="write what the run has proved into PATH.md and PATH.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = Run()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """Says what a test has proved: see `Record`."""
    draws = bool(request.config.getoption("--timeline"))
    one = Record(request.config.stash[RUN], request.node.nodeid, draws=draws)
    yield one
    if one.drawn:
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("\n", claim(request.node.originalname, request.node.cls), *one.drawn, sep="\n")  # noqa: T201 - that was asked for


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.when == "call":
        item.config.stash[RUN].seconds[item.nodeid] = call.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash[RUN]
    if run.proofs:
        seconds = sum(run.seconds.get(test, 0) for test in {proof.test for proof in run.proofs})
        cases = sum(proof.cases for proof in run.proofs)
        terminalreporter.section(f"fault lab: {cases} cases in {seconds:.0f} s")
        for line in summary(run):
            terminalreporter.write_line(line.strip("| ").replace("`", "").replace(" | ", "  "))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what another process has proved, where xdist shares the tests out."""
    found = getattr(node, "workeroutput", {}).get("faults")
    if found is None:
        return
    run: Run = node.config.stash[RUN]
    run.proofs += [Proof(**proof) for proof in found["proofs"]]
    for name in ("seconds", "findings", "places"):
        getattr(run, name).update(found[name])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = asdict(session.config.stash[RUN])
        return
    target = session.config.getoption("--report")
    if not target or session.config.getoption("--collect-only"):
        return
    if exitstatus != pytest.ExitCode.OK:
        session.config.get_terminal_writer().line(f"\n{target} is not written: not every test passed")
        return
    run = session.config.stash[RUN]
    tests = {proof.test for proof in run.proofs}
    run.seconds = {test: took for test, took in run.seconds.items() if test in tests}
    command = f"pytest {shlex.join(session.config.invocation_params.args)}"
    Path(f"{target}.md").write_text(markdown(run, command))
    Path(f"{target}.json").write_text(json.dumps(data_of(run, command), indent=1) + "\n")
