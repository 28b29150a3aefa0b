"""Faults at every point: injects them into any async context manager, and finds what is still held afterwards.

It knows nothing of the gateway, and needs the standard library only.
"""

from faultlab.faults import Call, Cancel, Fault, Leap
from faultlab.ledger import Ledger
from faultlab.points import Point
from faultlab.sweep import Case, Outcome, sweep

__all__ = ["Call", "Cancel", "Case", "Fault", "Leap", "Ledger", "Outcome", "Point", "sweep"]
