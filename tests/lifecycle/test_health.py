"""Health checks."""

import asyncio

import pytest

from gateway.lifecycle import LifecycleStack, run_health_checks
from gateway.lifecycle.health import _stuck_checks
from tests.lifecycle.fakes import fail, fake_resource, hang, ignore_cancellations, nothing


async def test_checks_run_at_once_each_within_its_deadline() -> None:
    async def remark() -> str:
        return "12 ms away"

    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    checks = {"good": nothing, "remarkable": remark, "broken": fail, "stuck": hang, "odd": cancel_itself, "none": None}
    async with LifecycleStack() as stack:
        for name, check in checks.items():
            await stack.enter(name, fake_resource(), start_timeout=1, stop_timeout=1, check=check)
        findings = await run_health_checks(stack.entries, timeout=0.02)

    assert _stuck_checks == set()
    assert {finding.name for finding in findings if finding.duration >= 0.02} == {"stuck"}
    assert [(finding.name, finding.ok, finding.detail) for finding in findings] == [
        ("good", True, None),
        ("remarkable", True, "12 ms away"),
        ("broken", False, "ValueError: broken"),
        ("stuck", False, "TimeoutError: no answer within 0.02 s"),
        ("odd", False, "RuntimeError: the check cancelled itself"),
        ("none", True, None),
    ]


async def test_a_check_that_ignores_its_cancellation_is_late_and_kept_until_it_ends(end: asyncio.Event) -> None:
    async with LifecycleStack() as stack:
        await stack.enter(
            "stubborn", fake_resource(), start_timeout=1, stop_timeout=1, check=lambda: ignore_cancellations(end)
        )
        async with asyncio.timeout(2):
            (finding,) = await run_health_checks(stack.entries, timeout=0.01)

    assert (finding.ok, finding.detail) == (False, "TimeoutError: no answer within 0.01 s")
    (late,) = _stuck_checks
    end.set()
    await late
    assert _stuck_checks == set()


async def test_checks_end_with_who_asked_for_them() -> None:
    checking = asyncio.Event()
    ended: list[str] = []

    async def hang_there() -> None:
        checking.set()
        try:
            await hang()
        finally:
            ended.append("one")

    async with LifecycleStack() as stack:
        await stack.enter("one", fake_resource(), start_timeout=1, stop_timeout=1, check=hang_there)
        asking = asyncio.create_task(run_health_checks(stack.entries, timeout=5))
        await checking.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0)

    assert ended == ["one"]


async def test_what_died_is_not_asked() -> None:
    async with LifecycleStack() as stack:
        await stack.enter("one", fake_resource(), start_timeout=1, stop_timeout=1, check=nothing)
        stack.entries[0]._owner.cancel()
        await stack.failure
        (finding,) = await run_health_checks(stack.entries, timeout=1)

    assert (finding.ok, finding.detail) == (False, "RuntimeError: the entry has crashed")
