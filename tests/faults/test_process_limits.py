"""Process limits and crashes: a broken model file, no file descriptor left, an entry that crashes while it serves."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pytest

from gateway.lifecycle import EntryCrashedError, EventType, StartError
from gateway.settings import SHIPPED_MODEL
from tests.faults.entry_faults import FaultPlan, faults_injected, patch_entries
from tests.faults.harness import FaultLab
from tests.support.entries import CONNECTED, ENTRIES, entries_before
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_broker_leaks")

ENOUGH_DESCRIPTORS = 100  # for a whole startup


def write_model(folder: Path, content: str) -> Path:
    """Write a model file with such a content."""
    path = folder / "model.onnx"
    shipped = SHIPPED_MODEL.read_bytes()
    if content != "missing":
        path.write_bytes(
            {"empty": b"", "garbage": os.urandom(4096), "truncated": shipped[: len(shipped) // 2]}[content]
        )
    return path


@pytest.mark.entry("model")
@pytest.mark.parametrize("content", ["missing", "empty", "garbage", "truncated"])
async def test_broken_model_file(lab: FaultLab, tmp_path: Path, content: str) -> None:
    """A model file that cannot be used fails the startup, and the error names the setting."""
    lab.override("model", path=write_model(tmp_path, content))
    run = await lab.start_and_stop()

    assert run.start_error.name == "model"
    assert run.start_error.entered == tuple(entries_before("model"))
    assert "GATEWAY_MODEL__PATH" in str(run.start_error.__cause__)
    assert run.teardown_errors == []
    assert run.exited == [*reversed(run.entered)]
    assert await lab.leaks() == []


@contextmanager
def descriptors_limited(spare: int) -> Iterator[None]:
    """Allow the process to open `spare` more file descriptors, inside the block."""
    listed = list(Path("/proc/self/fd").iterdir())
    used = {int(path.name) for path in listed if path.exists()}  # the descriptor that listed them is closed
    free = (number for number in count() if number not in used)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, spare, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_no_file_descriptors(lab: FaultLab) -> None:
    """With any number of file descriptors, the startup succeeds, or it fails and closes all that it had opened. The number
    grows by one until it is enough for a whole run.
    """
    for entry in CONNECTED:
        lab.override(entry, start_timeout=0.3)
    assert (await lab.start_and_stop()).is_clean  # imports of the first run need descriptors, too
    failed: set[str] = set()
    for spare in range(ENOUGH_DESCRIPTORS):
        run = await lab.start_and_stop(inside=descriptors_limited(spare))
        with run:
            assert run.exited == [*reversed(run.entered)]
            assert await lab.leaks() == []
        if run.error is None:
            break
        assert isinstance(run.error, StartError)
        failed.add(run.error.name)

    assert run.is_clean
    assert failed >= {*CONNECTED}


@pytest.mark.parametrize("entry", ENTRIES)
async def test_crashed_entry(lab: FaultLab, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """An entry that crashes while the gateway serves ends readiness, and the others are released."""
    patch_entries(monkeypatch.setattr)
    crash = asyncio.Event()

    async def raise_later() -> None:
        await crash.wait()
        raise ValueError("the worker crashed")

    with faults_injected(FaultPlan(while_active={entry: raise_later})):
        async with lab.running() as run:
            ready_before = run.stack.ready
            crash.set()
            await wait_until(run.stack.failure.done, f"{entry} has crashed")
            ready_after = run.stack.ready

    assert (ready_before, ready_after) == (True, False)
    assert isinstance(run.stack.failure.result(), EntryCrashedError)
    assert run.stack.failure.result().name == entry
    assert (EventType.CRASHED, entry) in [(event.type, event.name) for event in run.journal]
    assert run.released == [name for name in reversed(ENTRIES) if name != entry]
    assert run.outcomes_except(entry) == {"exited"}
    assert await lab.leaks() == []
