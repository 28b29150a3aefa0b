"""Faults at every point: injects them into any async context manager, and finds what is still held afterwards.

It knows nothing of the gateway, and needs the standard library only.
"""

from faultlab.ledger import Ledger
from faultlab.ticks import Case, Outcome, cancel_at_every_tick

__all__ = ["Case", "Ledger", "Outcome", "cancel_at_every_tick"]
