"""The model: its predictions, the files that it rejects, and its release."""

import asyncio
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.resources import model as module
from gateway.resources.base import PermanentError
from gateway.resources.model import (
    FEATURES,
    MAX_FILE_BYTES,
    MAX_INLINE_BATCH,
    TOLERANCE,
    DayFeatures,
    InvalidModelError,
    Model,
    ModelResource,
    features,
    load,
    season,
)
from gateway.settings import SHIPPED_MODEL, ModelSettings

TIMEOUT = 30.0  # for steps that take milliseconds


def seattle(
    precipitation_mm: float = 0.0,
    *,
    temperature_max_c: float = 12.0,
    temperature_min_c: float = 5.0,
    wind_speed_m_s: float = 3.0,
    on: date = date(2024, 1, 15),
    latitude: float = 47.6,
) -> DayFeatures:
    return DayFeatures(
        precipitation_mm=precipitation_mm,
        temperature_max_c=temperature_max_c,
        temperature_min_c=temperature_min_c,
        wind_speed_m_s=wind_speed_m_s,
        date=on,
        latitude=latitude,
    )


# The first wet day of the training years, from the table.
KNOWN_DAY = seattle(10.9, temperature_max_c=10.6, temperature_min_c=2.8, wind_speed_m_s=4.5, on=date(2012, 1, 2))
KNOWN_PROBABILITY = 0.8006

DIFFERENT_DAYS = [
    seattle(n % 7 * 1.5, temperature_max_c=5 + n % 30, temperature_min_c=n % 5, on=date(2024, 1, 1) + timedelta(days=n))
    for n in range(2 * MAX_INLINE_BATCH + 1)
]

VALID_DAYS = st.builds(
    lambda temperatures, **others: DayFeatures(
        temperature_min_c=temperatures[0], temperature_max_c=temperatures[1], **others
    ),
    temperatures=st.tuples(st.floats(-100, 70), st.floats(-100, 70)).map(sorted),
    precipitation_mm=st.floats(0, 2000),
    wind_speed_m_s=st.floats(0, 150),
    date=st.dates(),
    latitude=st.floats(-90, 90),
)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield load(SHIPPED_MODEL, executor)


@pytest.fixture
def resource() -> ModelResource:
    return ModelResource(ModelSettings())


# An ONNX file consists of protocol buffers. They are encoded here by hand, because only the training needs the onnx package.


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Encode a protocol buffers message. A field is a number and a value."""
    encoded = b""
    for number, value in fields:
        if isinstance(value, int):
            encoded += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            encoded += varint(number << 3 | 2) + varint(len(content)) + content
    return encoded


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


FLOAT, DOUBLE = 1, 11


def tensor_info(name: str, shape: list[int | str], kind: int = FLOAT) -> bytes:
    dims = [(1, message((1, size) if isinstance(size, int) else (2, size))) for size in shape]
    return message((1, name), (2, message((1, message((1, kind), (2, message(*dims)))))))


def weights(name: str, shape: list[int], *numbers: float, kind: int) -> bytes:
    packed = struct.pack(f"<{len(numbers)}{'d' if kind == DOUBLE else 'f'}", *numbers)
    return message(*((1, size) for size in shape), (2, kind), (8, name), (9, packed))


def valid_metadata(**changes: str) -> dict[str, str]:
    """Return the metadata of a model that always predicts 0.25, with changes."""
    metadata = {"features": ",".join(FEATURES), "known_input": "[0, 0, 0, 0, 0, 0]", "known_probability": "0.25"}
    return metadata | changes


def onnx_file(
    *,
    wet: float = 0.25,
    wet_per_mm: float = 0.0,
    columns: int = 2,
    kind: int = FLOAT,
    inputs: list[bytes] | None = None,
    outputs: list[bytes] | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Return a valid model file that predicts `wet`, plus `wet_per_mm` for each mm of precipitation."""
    graph = message(
        (1, message((1, "day"), (1, "weights"), (2, "product"), (4, "MatMul"))),
        (1, message((1, "product"), (1, "bias"), (2, "probabilities"), (4, "Add"))),
        (2, "handmade"),
        (5, weights("weights", [6, columns], 0, wet_per_mm, *[0] * (6 * columns - 2), kind=kind)),
        (5, weights("bias", [columns], 1 - wet, wet, *[0] * (columns - 2), kind=kind)),
        *((11, info) for info in inputs or [tensor_info("day", ["n", 6], kind)]),
        *((12, info) for info in outputs or [tensor_info("probabilities", ["n", columns], kind)]),
    )
    if metadata is None:
        metadata = valid_metadata(known_probability=str(wet))
    properties = [(14, message((1, key), (2, value))) for key, value in metadata.items()]
    return message((1, 6), (7, graph), (8, message((1, ""), (2, 11))), *properties)


class TestDayFeatures:
    @pytest.mark.parametrize(
        ("invalid", "name"),
        [
            ({"precipitation_mm": -0.1}, "precipitation_mm"),
            ({"precipitation_mm": math.nan}, "precipitation_mm"),
            ({"temperature_max_c": 285.0}, "temperature_max_c"),
            ({"temperature_min_c": -math.inf}, "temperature_min_c"),
            ({"temperature_min_c": 13.0}, "temperature_min_c"),
            ({"wind_speed_m_s": -1.0}, "wind_speed_m_s"),
            ({"latitude": 91.0}, "latitude"),
        ],
    )
    def test_invalid_value(self, invalid: dict[str, Any], name: str) -> None:
        """A value out of range, infinite or not a number raises a ValueError that begins with its name."""
        with pytest.raises(ValueError, match=f"^{name} "):
            seattle(**invalid)


class TestSeason:
    def test_december_is_close_to_january(self) -> None:
        """The last day of a year is as close to the first day of the next year as two days in May."""
        distance = math.dist(season(date(2023, 12, 31), 47.6), season(date(2024, 1, 1), 47.6))

        assert distance == pytest.approx(
            math.dist(season(date(2024, 5, 1), 47.6), season(date(2024, 5, 2), 47.6)), rel=0.3
        )

    def test_southern_hemisphere(self) -> None:
        """The first of January in Sydney equals the second of July in Seattle."""
        assert math.dist(season(date(2023, 7, 2), 47.6), season(date(2023, 1, 1), -33.9)) < 0.02
        assert math.dist(season(date(2023, 1, 1), 47.6), season(date(2023, 1, 1), -33.9)) == pytest.approx(2)


class TestFeatures:
    def test_columns(self) -> None:
        """Each day is one row of float32 in the order of `FEATURES`, the weather first and the season last."""
        sine, cosine = season(KNOWN_DAY.date, KNOWN_DAY.latitude)

        rows = features([KNOWN_DAY, seattle()])

        assert rows.dtype == np.float32
        assert rows.shape == (2, len(FEATURES))
        assert [10.9, 10.6, 2.8, 4.5, sine, cosine] == pytest.approx(rows[0].tolist())


class TestPrecipitationProbability:
    def test_known_day(self, model: Model) -> None:
        """The prediction for the first wet day of the table equals that of the training run."""
        assert pytest.approx(KNOWN_PROBABILITY, abs=TOLERANCE) == model.precipitation_probability(KNOWN_DAY)

    @settings(max_examples=300, deadline=None)
    @given(day=VALID_DAYS)
    def test_valid_for_every_day(self, model: Model, day: DayFeatures) -> None:
        """The prediction is between 0 and 1, even for weather far outside of the training data."""
        assert 0 <= model.precipitation_probability(day) <= 1

    def test_rises_with_rain(self, model: Model) -> None:
        """More rain today never lowers the probability, and a wet day has a clearly higher one than a dry day."""
        probabilities = [model.precipitation_probability(seattle(mm)) for mm in (0, 0.1, 0.5, 1, 5, 20, 100)]

        assert sorted(probabilities) == probabilities
        assert probabilities[-1] - probabilities[0] > 0.2

    def test_higher_in_winter(self, model: Model) -> None:
        """The probability is higher in January in Seattle and in July in Hobart, for the same weather."""
        january, july = date(2024, 1, 15), date(2024, 7, 15)

        def probability(on: date, latitude: float) -> float:
            return model.precipitation_probability(seattle(on=on, latitude=latitude))

        assert probability(january, 47.6) > probability(july, 47.6)
        assert probability(july, -42.9) > probability(january, -42.9)

    def test_concurrent_threads(self, model: Model) -> None:
        """Eight threads that share one model get the same results as one thread."""
        sequential = [model.precipitation_probability(day) for day in DIFFERENT_DAYS]

        with ThreadPoolExecutor(max_workers=8) as threads:
            assert sequential == list(threads.map(model.precipitation_probability, DIFFERENT_DAYS))

    def test_output_above_one(self, tmp_path: Path) -> None:
        """A model that predicts its known input correctly, and 1.5 for another day, raises an error for that day."""
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_file(wet=0.5, wet_per_mm=0.1))

        with ThreadPoolExecutor() as executor:
            model = load(path, executor)

            assert pytest.approx(0.6) == model.precipitation_probability(seattle(1))
            with pytest.raises(InvalidModelError, match="not a probability"):
                model.precipitation_probability(seattle(10))


class BlockedSession:
    """A session whose runs wait until `proceed` is set. It records the thread of each run."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.proceed = threading.Event()
        self.started = threading.Event()
        self.threads: list[str] = []

    def run(self, *arguments: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        self.started.set()
        assert self.proceed.wait(TIMEOUT), "the test never set `proceed`"
        return self.session.run(*arguments)


async def iterations_until(done: Callable[[], bool]) -> int:
    """Wait for an effect of a thread, and return the iterations of the event loop until then."""
    iterations = 0
    async with asyncio.timeout(TIMEOUT):
        while not done():
            await asyncio.sleep(0)
            iterations += 1
    return iterations


def threads() -> set[str]:
    """Return the ids of all threads of this process, including those of native code."""
    return set(os.listdir("/proc/self/task"))  # noqa: PTH208  # only names are needed


class TestPrecipitationProbabilities:
    @pytest.mark.parametrize(
        "count", [0, 1, MAX_INLINE_BATCH, MAX_INLINE_BATCH + 1, 2 * MAX_INLINE_BATCH, 2 * MAX_INLINE_BATCH + 1]
    )
    async def test_same_as_single_predictions(self, resource: ModelResource, count: int) -> None:
        """A batch has one result for each day, in order and without a gap between chunks."""
        days = DIFFERENT_DAYS[:count]

        async with resource.open() as model:
            singles = [model.precipitation_probability(day) for day in days]

            assert singles == pytest.approx(await model.precipitation_probabilities(days), abs=1e-6)

    async def test_small_batch_runs_on_the_loop(self, resource: ModelResource) -> None:
        """A small batch runs in the thread of the event loop, because a switch of threads costs more."""
        async with resource.open() as model:
            blocked = model._session = BlockedSession(model._session)
            blocked.proceed.set()
            await model.precipitation_probabilities(DIFFERENT_DAYS[:MAX_INLINE_BATCH])

        assert [threading.current_thread().name] == blocked.threads

    async def test_large_batch_does_not_block_the_loop(self, resource: ModelResource) -> None:
        """While a batch is blocked, the event loop continues and predicts single days."""
        async with resource.open() as model:
            session = model._session
            blocked = model._session = BlockedSession(session)
            batch = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            await iterations_until(blocked.started.is_set)
            model._session = session
            single = model.precipitation_probability(DIFFERENT_DAYS[0])
            blocked.proceed.set()

            assert pytest.approx(single) == (await batch)[0]

        assert blocked.threads == ["model_0"]


class TestLoad:
    def error_for(self, path: Path) -> str:
        """Return the message of the error for an invalid file."""
        with ThreadPoolExecutor() as executor, pytest.raises(PermanentError) as caught:
            load(path, executor)
        return str(caught.value)

    def test_handmade_file(self, tmp_path: Path) -> None:
        """The file that the tests below modify is valid without their changes."""
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_file())

        with ThreadPoolExecutor() as executor:
            assert load(path, executor).precipitation_probability(seattle(10)) == 0.25

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "ONNX Runtime cannot use it"),
            (b"# A model\n", "ONNX Runtime cannot use it"),
            (SHIPPED_MODEL.read_bytes()[:-1000], "ONNX Runtime cannot use it"),
            (onnx_file(inputs=[tensor_info("day", ["n", 6], DOUBLE)]), "ONNX Runtime cannot use it"),
            (onnx_file(kind=DOUBLE), "one input, float32 [n, 6], not tensor(double) ['n', 6]"),
            (onnx_file(inputs=[tensor_info("day", ["n", "any"])]), "one input, float32 [n, 6]"),
            (
                onnx_file(inputs=[tensor_info("day", [1, 6])], outputs=[tensor_info("probabilities", [1, 2])]),
                "one input",
            ),
            (onnx_file(inputs=[tensor_info("day", ["n", 6]), tensor_info("night", ["n", 6])]), "one input"),
            (
                onnx_file(outputs=[tensor_info("probabilities", ["n", 2]), tensor_info("product", ["n", 2])]),
                "one output",
            ),
            (onnx_file(columns=3), "one output, float32 [n, 2]"),
            (onnx_file(metadata={}), "features precipitation_mm,"),
            (
                onnx_file(metadata=valid_metadata(features="wind_speed_m_s,precipitation_mm")),
                "features precipitation_mm,",
            ),
            (onnx_file(metadata=valid_metadata(known_input="")), "known_input and a known_probability"),
            (onnx_file(metadata=valid_metadata(known_input="{}")), "known_input and a known_probability"),
            (onnx_file(metadata=valid_metadata(known_input="[0, 0]")), "known_input should have 6 numbers"),
            (onnx_file(metadata=valid_metadata(known_input="[NaN, 0, 0, 0, 0, 0]")), "not a probability"),
            (onnx_file(metadata=valid_metadata(known_probability="high")), "known_input and a known_probability"),
            (onnx_file(metadata=valid_metadata(known_probability="nan")), "predicts 0.2500 where its metadata has nan"),
            (
                onnx_file(metadata=valid_metadata(known_probability="0.2502")),
                "predicts 0.2500 where its metadata has 0.2502",
            ),
            (onnx_file(wet=math.nan), "not a probability"),
            (onnx_file(wet=1.5), "not a probability"),
        ],
    )
    def test_invalid_file(self, tmp_path: Path, content: bytes, reason: str) -> None:
        """The error is one line with the setting, the file, the reason and the fix."""
        path = tmp_path / "model.onnx"
        path.write_bytes(content)

        message = self.error_for(path)

        assert message.startswith(f"GATEWAY_MODEL__PATH: '{path}' is not a usable model: ")
        assert reason in message
        assert "make model" in message
        assert len(message.splitlines()) == 1

    def test_path_without_regular_file(self, tmp_path: Path) -> None:
        """The error has the reason of the operating system. Pipes and endless devices do not block the load."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "file").touch()
        os.mkfifo(tmp_path / "fifo")
        reasons = {
            tmp_path / "nowhere": "no such file or directory",
            tmp_path / "folder": "is a directory",
            tmp_path / "loop": "too many levels of symbolic links",
            tmp_path / "file" / "below": "not a directory",
            tmp_path / "fifo": "it is not a regular file",
            Path("/dev/zero"): "it is not a regular file",
            Path("null\0character"): "embedded null byte",
        }

        for path, reason in reasons.items():
            assert f"is not a usable model: {reason}. " in self.error_for(path)

    def test_unreadable_file(self, tmp_path: Path) -> None:
        """The error has the reason of the operating system. Root may read all files, so the load runs as another user."""
        path = tmp_path / "model.onnx"
        path.write_bytes(SHIPPED_MODEL.read_bytes())
        path.chmod(0)
        with ThreadPoolExecutor() as executor:
            load(SHIPPED_MODEL, executor)  # imports ONNX Runtime, which the other user cannot read either
        own_user = os.geteuid()
        try:
            if own_user == 0:
                os.seteuid(65534)
            message = self.error_for(path)
        finally:
            os.seteuid(own_user)

        assert "is not a usable model: permission denied. " in message

    def test_file_above_limit(self, tmp_path: Path) -> None:
        """A file that is one byte larger than the limit is rejected, without reading all of it."""
        path = tmp_path / "model.onnx"
        with path.open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)

        assert "is not a usable model: it has more than 100 MB. " in self.error_for(path)

    def test_truncated_file(self, tmp_path: Path) -> None:
        """A truncated file is rejected, even if it is cut between two fields, where a parser accepts it."""
        content = SHIPPED_MODEL.read_bytes()
        path = tmp_path / "model.onnx"

        for size in [*range(0, len(content), 31), *range(len(content) - 450, len(content))]:
            path.write_bytes(content[:size])
            assert "is not a usable model" in self.error_for(path)

    def test_damaged_file(self, tmp_path: Path) -> None:
        """A file with one changed byte is rejected, or it still predicts the known day correctly."""
        content = SHIPPED_MODEL.read_bytes()
        path = tmp_path / "model.onnx"
        rejected = 0

        with ThreadPoolExecutor() as executor:
            for position in range(0, len(content), 7):
                damaged = bytearray(content)
                damaged[position] ^= 0x41
                path.write_bytes(damaged)
                try:
                    damaged_model = load(path, executor)
                except PermanentError:
                    rejected += 1
                else:
                    probability = damaged_model.precipitation_probability(KNOWN_DAY)
                    assert pytest.approx(KNOWN_PROBABILITY, abs=2 * TOLERANCE) == probability

        assert rejected > 100


class TestModelResource:
    async def test_open(self, resource: ModelResource) -> None:
        """The open resource yields a model that predicts, and its health check succeeds without details."""
        async with resource.open() as model:
            assert pytest.approx(KNOWN_PROBABILITY, abs=TOLERANCE) == model.precipitation_probability(KNOWN_DAY)
            assert await resource.check() is None

    async def test_check_predicts(self, resource: ModelResource) -> None:
        """The health check compares a prediction, so it fails if the known probability differs."""
        async with resource.open() as model:
            model.metadata["known_probability"] = "0.1"
            with pytest.raises(InvalidModelError, match=r"predicts 0\.80.. where its metadata has 0\.1000"):
                await resource.check()

    async def test_use_after_release(self, resource: ModelResource) -> None:
        """Predictions and health checks raise RuntimeError after the release."""
        async with resource.open() as model:
            pass

        with pytest.raises(RuntimeError, match="the model is closed"):
            model.precipitation_probability(seattle())
        with pytest.raises(RuntimeError):
            await model.precipitation_probabilities(DIFFERENT_DAYS)
        with pytest.raises(RuntimeError, match="not open"):
            await resource.check()

    async def test_open_again(self, resource: ModelResource) -> None:
        """A released resource can be opened again."""
        for _ in range(2):
            async with resource.open():
                assert await resource.check() is None

    async def test_failed_open_leaks_no_thread(self, tmp_path: Path) -> None:
        """`open()` raises the error of an invalid file, and its thread ends."""
        with pytest.raises(PermanentError, match="GATEWAY_MODEL__PATH"):
            async with ModelResource(ModelSettings(path=tmp_path / "missing")).open():
                pytest.fail("the resource opened")

        for thread in threading.enumerate():
            if thread.name.startswith("model"):
                thread.join(TIMEOUT)
                assert not thread.is_alive()

    async def test_load_does_not_block_the_loop(self, resource: ModelResource, monkeypatch: pytest.MonkeyPatch) -> None:
        """While the load is blocked, the event loop continues."""
        loading, proceed = block_load(monkeypatch)

        async def unblock_after_100_iterations() -> None:
            await iterations_until(loading.is_set)
            for _ in range(100):
                await asyncio.sleep(0)
            proceed.set()

        unblocking = asyncio.create_task(unblock_after_100_iterations())
        async with resource.open():
            assert proceed.is_set()
        await unblocking

    async def test_cancelled_open(self, resource: ModelResource, monkeypatch: pytest.MonkeyPatch) -> None:
        """A cancellation ends the start although the load is blocked.

        The thread ends with the load, and the loaded model is dropped.
        """
        loading, proceed = block_load(monkeypatch)

        async def start() -> None:
            async with resource.open():
                pytest.fail("the resource opened")

        starting = asyncio.create_task(start())
        await iterations_until(loading.is_set)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("model"))
        assert thread.is_alive()
        proceed.set()
        thread.join(TIMEOUT)

        assert not thread.is_alive()
        with pytest.raises(RuntimeError, match="not open"):
            await resource.check()

    async def test_no_leaks(self, resource: ModelResource) -> None:
        """The open resource has one thread, and the closed one no thread and no file, by the lists of the kernel."""
        before, files = threads(), os.listdir("/proc/self/fd")  # noqa: PTH208

        async with resource.open():
            assert len(threads() - before) == 1

        await iterations_until(lambda: threads() <= before)  # the kernel lists a joined thread a little longer
        assert files == os.listdir("/proc/self/fd")  # noqa: PTH208

    async def test_release_waits_for_batches(self, resource: ModelResource) -> None:
        """The release waits for a batch in progress, which succeeds."""
        async with resource.open() as model:
            blocked = model._session = BlockedSession(model._session)
            batch = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            await iterations_until(blocked.started.is_set)
            asyncio.get_running_loop().call_later(0.01, blocked.proceed.set)

        assert len(DIFFERENT_DAYS) == len(await batch)

    async def test_cancelled_release(self, resource: ModelResource) -> None:
        """A release that is cancelled, as at the stop deadline, does not wait for a blocked batch, which then fails."""
        opening = resource.open()
        model = await opening.__aenter__()
        blocked = model._session = BlockedSession(model._session)
        batch = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
        await iterations_until(blocked.started.is_set)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await opening.__aexit__(None, None, None)
        assert not batch.done()
        blocked.proceed.set()

        with pytest.raises(RuntimeError, match="the model is closed"):
            await batch

    async def test_abort_fails_batches(self, resource: ModelResource) -> None:
        """The batch in progress and the queued one fail with RuntimeError, and not as cancelled."""
        async with resource.open() as model:
            blocked = model._session = BlockedSession(model._session)
            running = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            queued = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            await iterations_until(blocked.started.is_set)
            resource.abort()
            blocked.proceed.set()
            outcomes = await asyncio.gather(running, queued, return_exceptions=True)

            assert [str(outcome) for outcome in outcomes] == ["the model is closed"] * 2

    def test_abort_before_open(self, resource: ModelResource) -> None:
        """The core may call `abort()` at any time; before `open()` it has no effect."""
        resource.abort()


def block_load(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make `load` wait. Return the event that it sets when it waits, and the event that it waits for."""
    loading, proceed = threading.Event(), threading.Event()

    def blocked_load(*arguments: Any) -> Model:
        loading.set()
        assert proceed.wait(TIMEOUT), "the test never set `proceed`"
        return load(*arguments)

    monkeypatch.setattr(module, "load", blocked_load)
    return loading, proceed


OPEN_AND_CLOSE = """
import asyncio, os, sys, time
import gateway.resources.model as model
from gateway.settings import ModelSettings
assert not {"numpy", "onnxruntime"} & set(sys.modules), "importing the module imports them"

async def main():
    async with model.ModelResource(ModelSettings()).open():
        assert len(os.listdir("/proc/self/task")) == 2, "more threads than the loop's and the model's"

asyncio.run(main())
deadline = time.monotonic() + 30
while len(os.listdir("/proc/self/task")) > 1:  # the kernel lists a joined thread a little longer
    assert time.monotonic() < deadline, "a thread is left"
    time.sleep(0.01)
"""


def test_no_leaks_in_a_fresh_process(tmp_path: Path) -> None:
    """The first import and use leave no thread, no file in the home directory and no output, even from native code.

    The environment is empty, because ONNX Runtime disables its telemetry if `CI` is set.
    """
    root = Path(module.__file__).parents[2]
    process = subprocess.run(  # noqa: S603  # the own interpreter
        [sys.executable, "-c", OPEN_AND_CLOSE],
        env={"HOME": str(tmp_path), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_scores_in_the_docs(model: Model) -> None:
    """docs/model.md shows the scores in the metadata of the shipped file."""
    page = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")

    assert f"| the model | {model.metadata['accuracy']} | {model.metadata['brier_score']} |" in page
