"""CPU time and memory of processes, read from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SECONDS_PER_TICK = 1 / os.sysconf("SC_CLK_TCK")


class _Process(NamedTuple):
    parent: int
    ticks: int


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the user and system CPU time of processes and their descendants, ended children included, in seconds."""
    processes = _all_processes()
    return _SECONDS_PER_TICK * sum(processes[pid].ticks for pid in _with_descendants(roots, processes))


def machine_cpu_seconds() -> float:
    """Return the CPU time that the whole machine has used since it started, in seconds."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return _SECONDS_PER_TICK * (user + nice + system + irq + softirq + steal)


def memory_mib(roots: Iterable[int]) -> float:
    """Return the resident set size (RSS) of processes and their descendants in MiB; shared pages count in full."""
    return sum(map(_rss_kib, _with_descendants(roots, _all_processes()))) / 1024


def peak_memory_mib(roots: Iterable[int]) -> float:
    """Return the highest resident set size (RSS) of processes and their descendants since they started, in MiB."""
    return sum(map(_peak_rss_kib, _with_descendants(roots, _all_processes()))) / 1024


def _all_processes() -> dict[int, _Process]:
    processes = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The program name comes first, in parentheses. It may contain spaces and parentheses itself.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has ended
            processes[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    return processes


def _with_descendants(roots: Iterable[int], processes: dict[int, _Process]) -> set[int]:
    family = {pid for pid in roots if pid in processes}
    generation = family
    while generation:
        generation = {pid for pid, process in processes.items() if process.parent in generation} - family
        family |= generation
    return family


def _rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def _peak_rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
