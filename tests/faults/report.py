"""The report of a run: the matrix of resource, phase and fault with counts, and the command that replays each cell."""

import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tests.end_to_end.running import ORDER

Phase = Literal["startup", "serving", "teardown"]
PHASES: tuple[Phase, ...] = ("startup", "serving", "teardown")
HEAD = Path(__file__).with_name("report_head.md")


@dataclass(frozen=True)
class Proof:
    """Some cases of one test, with the same fault in the same phase of the same resource."""

    test: str
    resource: str
    phase: Phase
    fault: str
    cases: int


@dataclass
class Run:
    """What a whole run of pytest has proved, and how long each test took."""

    proofs: list[Proof] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    """What else a test has counted: a line for each, by its name."""
    places: dict[str, list[str]] = field(default_factory=dict)
    """Where faults struck, by the name of the sweep: file, line and function."""


def summary(run: Run) -> Iterator[str]:
    """How many cases each test has seen, and how long it took; a line for each."""
    for function in sorted({_function(proof.test) for proof in run.proofs}):
        cases = sum(proof.cases for proof in run.proofs if _function(proof.test) == function)
        seconds = sum(took for test, took in run.seconds.items() if _function(test) == function)
        yield f"| `{function}` | {cases} | {seconds:.1f} |"


def _cells(run: Run) -> dict[tuple[str, Phase, str], list[Proof]]:
    cells: dict[tuple[str, Phase, str], list[Proof]] = {}
    for proof in run.proofs:
        cells.setdefault((proof.resource, proof.phase, proof.fault), []).append(proof)
    return cells


def _function(test: str) -> str:
    return test.partition("[")[0]


def _replay(proofs: Sequence[Proof]) -> str:
    """The command that runs just the tests of one cell: by their names if those are few, else all of the function's."""
    tests = sorted({proof.test for proof in proofs})
    if len(tests) > 2:  # a command should fit on a line
        tests = sorted({_function(test) for test in tests})
    return shlex.join(["pytest", "-m", "", *tests])


def data_of(run: Run, command: str) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "cases": sum(proof.cases for proof in run.proofs),
        "findings": run.findings,
        "places": run.places,
        "cells": [
            {
                "resource": resource,
                "phase": phase,
                "fault": fault,
                "cases": sum(proof.cases for proof in proofs),
                "tests": sorted({proof.test for proof in proofs}),
                "replay": _replay(proofs),
            }
            for (resource, phase, fault), proofs in sorted(_cells(run).items())
        ],
        "seconds": {test: round(seconds, 2) for test, seconds in sorted(run.seconds.items())},
    }


def markdown(run: Run, command: str) -> str:
    data = data_of(run, command)
    lines = [
        HEAD.read_text().rstrip(),
        "",
        "## The run",
        "",
        (
            f"{data['date']}, `{command}`, Python {data['python']}, {data['cores']} cores: **{data['cases']} cases** in "
            f"{len(run.seconds)} tests, {sum(run.seconds.values()):.0f} s. Every one passed; had one failed, this page "
            "would not have been written."
        ),
        "",
        *(f"- {line}" for line in run.findings.values()),
    ]
    for phase in sorted({proof.phase for proof in run.proofs}, key=PHASES.index):
        lines += ["", f"## {phase.capitalize()}", "", *_matrix(_cells(run), phase)]
    lines += ["", "## Replay", "", "One command a cell, from the project's root, with `.venv/bin` on the path.", ""]
    lines += ["| resource | phase | fault | cases | command |", "| --- | --- | --- | ---: | --- |"]
    lines += [
        f"| {cell['resource']} | {cell['phase']} | {cell['fault']} | {cell['cases']} | `{cell['replay']}` |"
        for cell in data["cells"]
    ]
    lines += ["", "## How long each sweep took", "", "| tests | cases | seconds |", "| --- | ---: | ---: |"]
    lines += summary(run)
    return "\n".join(lines) + "\n"


def _rank(resource: str) -> tuple[int, str]:
    """The order of the lifespan, and then what is none of its entries."""
    return (ORDER.index(resource) if resource in ORDER else len(ORDER), resource)


def _matrix(cells: dict[tuple[str, Phase, str], list[Proof]], phase: Phase) -> Iterator[str]:
    resources = sorted({resource for resource, of_phase, _ in cells if of_phase == phase}, key=_rank)
    faults = sorted({fault for _, of_phase, fault in cells if of_phase == phase})
    yield f"| fault | {' | '.join(resources)} |"
    yield f"| --- |{' ---: |' * len(resources)}"
    for fault in faults:
        counts = [sum(proof.cases for proof in cells.get((resource, phase, fault), ())) for resource in resources]
        yield f"| {fault} | {' | '.join(str(count) if count else '' for count in counts)} |"
