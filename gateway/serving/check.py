"""Entering the whole lifespan once, to see whether it would work."""

import asyncio
import signal
from dataclasses import dataclass, field

from fastapi import FastAPI

from gateway.lifecycle import CheckResult, LifecycleStack, run_health_checks
from gateway.serving.lifespan_manager import LifespanManager

CHECK_WITHIN = 3.0
"""Seconds for the check of one resource."""


@dataclass(slots=True)
class CheckReport:
    """What became of the lifespan, and what the resources said in between."""

    stack: LifecycleStack
    checks: list[CheckResult] = field(default_factory=list)
    start_error: Exception | None = None
    stop_error: Exception | None = None


async def check(app: FastAPI) -> CheckReport:
    """Enter the lifespan, check each resource, and leave again.

    Raises:
        asyncio.CancelledError: a signal stopped it. Everything is given back.
    """
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    lifespan = LifespanManager(app)
    checks: list[CheckResult] = []
    try:
        await lifespan.startup()
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller reports it
        return CheckReport(app.state.stack, start_error=error)
    stack: LifecycleStack = app.state.stack
    stop_error = None
    try:
        checks = await run_health_checks(stack.entries, timeout=CHECK_WITHIN)
    finally:
        try:
            await lifespan.shutdown()
        except Exception as error:  # noqa: BLE001 - the same
            stop_error = error
    return CheckReport(stack, checks, stop_error=stop_error)
