"""`gateway check`: start the lifespan once, check each resource, and shut the lifespan down."""

import asyncio
from dataclasses import dataclass, field

from fastapi import FastAPI

from gateway.lifecycle import CheckResult, LifecycleStack, run_health_checks
from gateway.process.signals import stop_signals
from gateway.serving.lifespan_manager import LifespanManager

CHECK_TIMEOUT = 3.0


@dataclass(slots=True)
class CheckReport:
    """The results of `gateway check`.

    Attributes:
        stack: the stack of the lifespan, with its journal.
        checks: the results of the health checks; empty if the startup failed.
        start_error: the error of the startup.
        stop_error: the error of the shutdown.
    """

    stack: LifecycleStack
    checks: list[CheckResult] = field(default_factory=list)
    start_error: Exception | None = None
    stop_error: Exception | None = None


async def check(app: FastAPI) -> CheckReport:
    """Start the lifespan of the app, check each resource, and shut the lifespan down.

    Raises:
        asyncio.CancelledError: a stop signal cancelled the check. Everything has been released.
    """
    task = asyncio.current_task()
    if task is not None:
        for number in stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    lifespan = LifespanManager(app)
    checks: list[CheckResult] = []
    stop_error = None
    try:
        await lifespan.startup()
    except Exception as error:  # noqa: BLE001 - the command reports it
        return CheckReport(app.state.stack, start_error=error)
    stack: LifecycleStack = app.state.stack
    try:
        checks = await run_health_checks(stack.entries, timeout=CHECK_TIMEOUT)
    finally:
        try:
            await lifespan.shutdown()
        except Exception as error:  # noqa: BLE001 - the command reports it
            stop_error = error
    return CheckReport(stack, checks, stop_error=stop_error)
