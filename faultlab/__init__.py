"""Fault injection at every await: cancellations and expired deadlines in any async context manager, and leak detection.

The package uses the standard library only and relative imports, so that the folder can be copied under any name.
"""

from .faults import AdjustableClock, Call, Cancel, ExpireDeadlines, Fault
from .injection_points import InjectionPoint
from .snapshot import ResourceSnapshot
from .sweep import Outcome, Run, run_once, sweep

__all__ = [
    "AdjustableClock",
    "Call",
    "Cancel",
    "ExpireDeadlines",
    "Fault",
    "InjectionPoint",
    "Outcome",
    "ResourceSnapshot",
    "Run",
    "run_once",
    "sweep",
]
