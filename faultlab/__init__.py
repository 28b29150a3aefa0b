"""Fault injection into asyncio code: at every loop iteration or task step, with leak detection after each run.

The package uses the standard library only and relative imports, so that the folder can be copied under any name.
"""

from .faults import Call, Cancel, ExpirableTimers, ExpireDeadlines, Fault
from .injection_points import InjectionPoint
from .snapshot import ResourceSnapshot
from .sweep import Outcome, Run, run_once, sweep

__all__ = [
    "Call",
    "Cancel",
    "ExpirableTimers",
    "ExpireDeadlines",
    "Fault",
    "InjectionPoint",
    "Outcome",
    "ResourceSnapshot",
    "Run",
    "run_once",
    "sweep",
]
