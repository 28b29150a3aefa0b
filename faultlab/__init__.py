"""Faults at every point: injects them into any async context manager, and finds what is still held afterwards.

It knows nothing of the gateway, and needs the standard library only.
"""

from faultlab.faults import AdjustableClock, Call, Cancel, ExpireDeadlines, Fault
from faultlab.injection_points import InjectionPoint
from faultlab.snapshot import ResourceSnapshot
from faultlab.sweep import Outcome, Run, run_once, sweep

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
