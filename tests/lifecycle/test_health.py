"""Health checks."""

import asyncio

from gateway.lifecycle import LifecycleStack, check_all
from tests.lifecycle.specimen import fail, hang, nothing, specimen


async def test_checks_run_at_once_each_within_its_deadline() -> None:
    async def remark() -> str:
        return "12 ms away"

    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    checks = {"good": nothing, "remarkable": remark, "broken": fail, "stuck": hang, "odd": cancel_itself, "none": None}
    async with LifecycleStack() as stack:
        for name, check in checks.items():
            await stack.enter(name, specimen(), start=1, stop=1, check=check)
        findings = await check_all(stack.entries, within=0.02)

    assert [(finding.name, finding.ok, finding.remark) for finding in findings] == [
        ("good", True, None),
        ("remarkable", True, "12 ms away"),
        ("broken", False, "ValueError: broken"),
        ("stuck", False, "TimeoutError: no answer within 0.02 s"),
        ("odd", False, "RuntimeError: the check cancelled itself"),
        ("none", True, None),
    ]
