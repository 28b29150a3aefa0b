"""The core: a named, bounded, journalled, supervised `AsyncExitStack`. Standard library only: copy it."""

from gateway.lifecycle.errors import (
    DiedError,
    ForcedError,
    StartError,
    StartTimeoutError,
    StopTimeoutError,
    TeardownError,
)
from gateway.lifecycle.health import Finding, check_all
from gateway.lifecycle.journal import Event, Journal, Kind, describe
from gateway.lifecycle.stack import LifecycleStack, Phase
from gateway.lifecycle.timeline import Span, spans

__all__ = [
    "DiedError",
    "Event",
    "Finding",
    "ForcedError",
    "Journal",
    "Kind",
    "LifecycleStack",
    "Phase",
    "Span",
    "StartError",
    "StartTimeoutError",
    "StopTimeoutError",
    "TeardownError",
    "check_all",
    "describe",
    "spans",
]
