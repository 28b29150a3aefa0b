"""What a start finds in its own process: a model file that is none, no descriptor left, an entry that dies."""

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import pytest

from faultlab import ResourceSnapshot
from gateway.app import create_app
from gateway.lifecycle import EntryCrashedError, EventType, Journal, StartError
from gateway.settings import SHIPPED_MODEL
from tests.end_to_end.running import ORDER, assert_nothing_is_held, assert_nothing_is_left
from tests.faults.breaking import Plan, make_breakable, planned
from tests.faults.proof import assert_given_back
from tests.faults.stage import Stage, live, living, with_setting

pytestmark = pytest.mark.usefixtures("census")


def corrupt(folder: Path, kind: str) -> Path:
    path = folder / "model.onnx"
    if kind == "missing":
        return path
    shipped = SHIPPED_MODEL.read_bytes()
    path.write_bytes({"empty": b"", "garbage": os.urandom(4096), "truncated": shipped[: len(shipped) // 2]}[kind])
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "garbage", "truncated"])
async def test_a_model_that_is_none_fails_at_once_and_says_which_setting(
    stage: Stage, tmp_path: Path, kind: str
) -> None:
    broken = with_setting(stage.settings, "model", path=corrupt(tmp_path, kind))
    error = await stage.refused(broken, "model", f"{kind} file")

    assert "GATEWAY_MODEL__PATH" in str(error.__cause__)


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Within the block, this process can open so many descriptors."""
    listed = list(Path("/proc/self/fd").iterdir())
    used = {int(path.name) for path in listed if path.exists()}  # but for the one that listed them
    free = (number for number in count() if number not in used)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, spare, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_with_any_number_of_descriptors_it_starts_or_gives_them_all_back(stage: Stage) -> None:
    """One more each time, until there are enough for a whole life."""
    impatient = stage.settings
    for name in ("database", "redis", "rabbitmq"):
        impatient = with_setting(impatient, name, start_timeout=0.3)
    failed: list[tuple[str, Journal]] = []
    for spare in range(100):
        before = ResourceSnapshot.take()
        app = create_app(impatient)
        try:
            with few_descriptors(spare):
                await live(app)
        except StartError as error:
            failed.append((error.name, app.state.stack.journal))
        else:
            break
        finally:
            assert_given_back(app.state.stack.journal)

        await assert_nothing_is_left(before)
    else:
        pytest.fail(f"it never started: {failed}")

    assert {"database", "redis", "rabbitmq"} <= {name for name, _ in failed}
    await assert_nothing_is_held(stage.servers, stage.settings.instance)
    for name, journal in failed:
        stage.record(name, "startup", "no descriptor left (EMFILE)", journal=journal)


@pytest.mark.parametrize("name", ORDER)
async def test_an_entry_that_dies_while_serving_ends_readiness_and_the_others_are_released(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_breakable(monkeypatch.setattr)
    broken = asyncio.Event()

    async def die() -> None:
        await broken.wait()
        raise ValueError("the worker broke")

    with planned(Plan(serving={name: die})):
        app = create_app(stage.settings)
        async with living(app) as gateway:
            stack = app.state.stack
            assert stack.ready
            broken.set()
            await asyncio.wait({stack.failure}, timeout=1)
            assert not stack.ready
    death = stack.failure.result()

    assert isinstance(death, EntryCrashedError)
    assert death.name == name
    assert (EventType.CRASHED, name) in [(event.type, event.name) for event in gateway.journal]
    await stage.proved(gateway.journal, name, "serving", "died")
