"""The lifecycle core: an `AsyncExitStack` whose entries have names, timeouts, a journal and crash detection.

The package uses the standard library only and relative imports, so that the folder can be copied under any name.
"""

from .errors import (
    EntryCrashedError,
    ForcedShutdownError,
    StartError,
    StartTimeoutError,
    StopTimeoutError,
    TeardownError,
)
from .health import CheckResult, run_health_checks
from .journal import EventType, Journal, LifecycleEvent, format_error
from .stack import LifecycleStack, Phase
from .timeline import Span, spans

__all__ = [
    "CheckResult",
    "EntryCrashedError",
    "EventType",
    "ForcedShutdownError",
    "Journal",
    "LifecycleEvent",
    "LifecycleStack",
    "Phase",
    "Span",
    "StartError",
    "StartTimeoutError",
    "StopTimeoutError",
    "TeardownError",
    "format_error",
    "run_health_checks",
    "spans",
]
