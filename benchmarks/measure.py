"""What processes cost, as the system counts it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds."""


class _Process(NamedTuple):
    parent: int
    ticks: int


def cpu_seconds(roots: Iterable[int]) -> float:
    """The CPU time, user and system, of processes and all below them, those that have ended included; in seconds."""
    processes = _all()
    return _TICK * sum(processes[pid].ticks for pid in _with_children(roots, processes))


def machine_seconds() -> float:
    """The CPU time that the whole machine has spent on anything since it began, in seconds."""
    user, nice, system, _idle, _waiting, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return _TICK * (user + nice + system + irq + softirq + steal)


def memory_mib(roots: Iterable[int]) -> float:
    """The resident set size (RSS) of processes and all below them, in MiB: what they share with others counts in full."""
    return sum(map(_rss_kib, _with_children(roots, _all()))) / 1024


def _all() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name of the program comes first, in brackets, and may have spaces and brackets of its own.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    return found


def _with_children(roots: Iterable[int], processes: dict[int, _Process]) -> set[int]:
    family = {pid for pid in roots if pid in processes}
    new = family
    while new:
        new = {pid for pid, process in processes.items() if process.parent in new} - family
        family |= new
    return family


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))
