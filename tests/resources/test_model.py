"""The model: what it answers, which files it refuses, and what is left when it is closed."""

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

SOON = 30.0
"""Seconds after which what should happen at once counts as not happening."""


def seattle(
    precipitation_mm: float = 0.0,
    *,
    temperature_max_c: float = 12.0,
    temperature_min_c: float = 5.0,
    wind_m_s: float = 3.0,
    on: date = date(2024, 1, 15),
    latitude: float = 47.6,
) -> DayFeatures:
    return DayFeatures(
        precipitation_mm=precipitation_mm,
        temperature_max_c=temperature_max_c,
        temperature_min_c=temperature_min_c,
        wind_m_s=wind_m_s,
        date=on,
        latitude=latitude,
    )


# The first wet day of the training years, as the table has it.
KNOWN_DAY = seattle(10.9, temperature_max_c=10.6, temperature_min_c=2.8, wind_m_s=4.5, on=date(2012, 1, 2))
KNOWN_PROBABILITY = 0.8006

DIFFERENT_DAYS = [
    seattle(n % 7 * 1.5, temperature_max_c=5 + n % 30, temperature_min_c=n % 5, on=date(2024, 1, 1) + timedelta(days=n))
    for n in range(2 * MAX_INLINE_BATCH + 1)
]

DAYS_ON_EARTH = st.builds(
    lambda temperatures, **others: DayFeatures(
        temperature_min_c=temperatures[0], temperature_max_c=temperatures[1], **others
    ),
    temperatures=st.tuples(st.floats(-100, 70), st.floats(-100, 70)).map(sorted),
    precipitation_mm=st.floats(0, 2000),
    wind_m_s=st.floats(0, 150),
    date=st.dates(),
    latitude=st.floats(-90, 90),
)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with ThreadPoolExecutor(max_workers=1) as worker:
        yield load(SHIPPED_MODEL, worker)


@pytest.fixture
def resource() -> ModelResource:
    return ModelResource(ModelSettings())


# What an ONNX file is on disk: protocol buffers, written here by hand because only the training needs the onnx package.


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protocol buffers message of fields, each a number and a value."""
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


def ours_but(**changes: str) -> dict[str, str]:
    """The metadata of a model that always answers 0.25, with something changed."""
    ours = {"features": ",".join(FEATURES), "known_input": "[0, 0, 0, 0, 0, 0]", "known_probability": "0.25"}
    return ours | changes


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
    """A model of ours that always answers `wet`, plus `wet_per_mm` for each mm of precipitation."""
    graph = message(
        (1, message((1, "day"), (1, "weights"), (2, "product"), (4, "MatMul"))),
        (1, message((1, "product"), (1, "bias"), (2, "chances"), (4, "Add"))),
        (2, "handmade"),
        (5, weights("weights", [6, columns], 0, wet_per_mm, *[0] * (6 * columns - 2), kind=kind)),
        (5, weights("bias", [columns], 1 - wet, wet, *[0] * (columns - 2), kind=kind)),
        *((11, info) for info in inputs or [tensor_info("day", ["n", 6], kind)]),
        *((12, info) for info in outputs or [tensor_info("chances", ["n", columns], kind)]),
    )
    if metadata is None:
        metadata = ours_but(known_probability=str(wet))
    properties = [(14, message((1, key), (2, value))) for key, value in metadata.items()]
    return message((1, 6), (7, graph), (8, message((1, ""), (2, 11))), *properties)


class TestDay:
    @pytest.mark.parametrize(
        ("wrong", "name"),
        [
            ({"precipitation_mm": -0.1}, "precipitation_mm"),
            ({"precipitation_mm": math.nan}, "precipitation_mm"),
            ({"temperature_max_c": 285.0}, "temperature_max_c"),
            ({"temperature_min_c": -math.inf}, "temperature_min_c"),
            ({"temperature_min_c": 13.0}, "temperature_min_c"),
            ({"wind_m_s": -1.0}, "wind_m_s"),
            ({"latitude": 91.0}, "latitude"),
        ],
    )
    def test_refuses_what_no_day_has_had(self, wrong: dict[str, Any], name: str) -> None:
        """A value out of range, infinite or not a number raises a ValueError that begins with its name."""
        with pytest.raises(ValueError, match=f"^{name} "):
            seattle(**wrong)


class TestSeason:
    def test_december_is_beside_january(self) -> None:
        """The last day of a year is as near to the first of the next as any two neighbours are."""
        distance = math.dist(season(date(2023, 12, 31), 47.6), season(date(2024, 1, 1), 47.6))

        assert distance == pytest.approx(
            math.dist(season(date(2024, 5, 1), 47.6), season(date(2024, 5, 2), 47.6)), rel=0.3
        )

    def test_is_the_other_half_of_the_year_in_the_south(self) -> None:
        """The first of January in Sydney is the second of July in Seattle."""
        assert math.dist(season(date(2023, 7, 2), 47.6), season(date(2023, 1, 1), -33.9)) < 0.02
        assert math.dist(season(date(2023, 1, 1), 47.6), season(date(2023, 1, 1), -33.9)) == pytest.approx(2)


class TestFeatures:
    def test_are_in_the_order_of_their_names(self) -> None:
        """One row a day, float32, the weather first and the season last."""
        sine, cosine = season(KNOWN_DAY.date, KNOWN_DAY.latitude)

        rows = features([KNOWN_DAY, seattle()])

        assert rows.dtype == np.float32
        assert rows.shape == (2, len(FEATURES))
        assert [10.9, 10.6, 2.8, 4.5, sine, cosine] == pytest.approx(rows[0].tolist())


class TestPrecipitationProbability:
    def test_gives_the_known_answer(self, model: Model) -> None:
        """What the training run said about the first wet day of its table."""
        assert pytest.approx(KNOWN_PROBABILITY, abs=TOLERANCE) == model.precipitation_probability(KNOWN_DAY)

    @settings(max_examples=300, deadline=None)
    @given(day=DAYS_ON_EARTH)
    def test_is_a_probability_for_every_day_on_earth(self, model: Model, day: DayFeatures) -> None:
        """Between 0 and 1, far outside of what it was trained on too."""
        assert 0 <= model.precipitation_probability(day) <= 1

    def test_rises_with_the_rain_of_today(self, model: Model) -> None:
        """More rain today never lowers the chance, and a wet day has a clearly higher one than a dry day."""
        chances = [model.precipitation_probability(seattle(mm)) for mm in (0, 0.1, 0.5, 1, 5, 20, 100)]

        assert sorted(chances) == chances
        assert chances[-1] - chances[0] > 0.2

    def test_is_higher_in_winter_than_in_summer_on_both_sides_of_the_equator(self, model: Model) -> None:
        """The same day is likelier to be followed by a wet one in January in Seattle, and in July in Hobart."""
        january, july = date(2024, 1, 15), date(2024, 7, 15)

        def chance(on: date, latitude: float) -> float:
            return model.precipitation_probability(seattle(on=on, latitude=latitude))

        assert chance(january, 47.6) > chance(july, 47.6)
        assert chance(july, -42.9) > chance(january, -42.9)

    def test_is_the_same_from_many_threads_at_once(self, model: Model) -> None:
        """Eight threads that ask the same model get what one gets."""
        alone = [model.precipitation_probability(day) for day in DIFFERENT_DAYS]

        with ThreadPoolExecutor(max_workers=8) as threads:
            assert alone == list(threads.map(model.precipitation_probability, DIFFERENT_DAYS))

    def test_refuses_to_answer_what_is_no_probability(self, tmp_path: Path) -> None:
        """A model that is right about its known input and says 1.5 about a day: nobody is told 150 %."""
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_file(wet=0.5, wet_per_mm=0.1))

        with ThreadPoolExecutor() as worker:
            bold = load(path, worker)

            assert pytest.approx(0.6) == bold.precipitation_probability(seattle(1))
            with pytest.raises(InvalidModelError, match="no probability"):
                bold.precipitation_probability(seattle(10))


class Gate:
    """A session whose runs wait until the gate is opened, and note the thread they are on."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.opened = threading.Event()
        self.arrived = threading.Event()
        self.threads: list[str] = []

    def run(self, *arguments: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        self.arrived.set()
        assert self.opened.wait(SOON), "nobody opened the gate"
        return self.session.run(*arguments)


async def ticks_until(done: Callable[[], bool]) -> int:
    """Wait for something that a thread does: how often the event loop went round until then."""
    ticks = 0
    async with asyncio.timeout(SOON):
        while not done():
            await asyncio.sleep(0)
            ticks += 1
    return ticks


def threads() -> set[str]:
    """Every thread of this process, those of native code too."""
    return set(os.listdir("/proc/self/task"))  # noqa: PTH208  # names are all we want


class TestPrecipitationProbabilities:
    @pytest.mark.parametrize(
        "count", [0, 1, MAX_INLINE_BATCH, MAX_INLINE_BATCH + 1, 2 * MAX_INLINE_BATCH, 2 * MAX_INLINE_BATCH + 1]
    )
    async def test_are_those_of_the_days_one_by_one(self, resource: ModelResource, count: int) -> None:
        """In order, none lost where a chunk ends."""
        days = DIFFERENT_DAYS[:count]

        async with resource.open() as model:
            singles = [model.precipitation_probability(day) for day in days]

            assert singles == pytest.approx(await model.precipitation_probabilities(days), abs=1e-6)

    async def test_of_a_small_batch_are_worked_on_the_event_loop(self, resource: ModelResource) -> None:
        """The hand-over to a thread would cost more than it spares."""
        async with resource.open() as model:
            gate = model._session = Gate(model._session)
            gate.opened.set()
            await model.precipitation_probabilities(DIFFERENT_DAYS[:MAX_INLINE_BATCH])

        assert [threading.current_thread().name] == gate.threads

    async def test_of_a_large_batch_do_not_hold_the_event_loop(self, resource: ModelResource) -> None:
        """The loop goes on, and answers single days, while a batch is stuck; only the loop lets the batch go on."""
        async with resource.open() as model:
            session = model._session
            gate = model._session = Gate(session)
            batch = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            await ticks_until(gate.arrived.is_set)
            model._session = session
            single = model.precipitation_probability(DIFFERENT_DAYS[0])
            gate.opened.set()

            assert pytest.approx(single) == (await batch)[0]

        assert gate.threads == ["model_0"]


class TestLoad:
    def refusal(self, path: Path) -> str:
        """What is said about a file that is refused."""
        with ThreadPoolExecutor() as worker, pytest.raises(PermanentError) as refused:
            load(path, worker)
        return str(refused.value)

    def test_takes_a_model_made_by_hand(self, tmp_path: Path) -> None:
        """The control of the tests below: what they break is whole when it is not broken."""
        path = tmp_path / "model.onnx"
        path.write_bytes(onnx_file())

        with ThreadPoolExecutor() as worker:
            assert load(path, worker).precipitation_probability(seattle(10)) == 0.25

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "ONNX Runtime cannot use it"),
            (b"# A model\n", "ONNX Runtime cannot use it"),
            (SHIPPED_MODEL.read_bytes()[:-1000], "ONNX Runtime cannot use it"),
            (onnx_file(inputs=[tensor_info("day", ["n", 6], DOUBLE)]), "ONNX Runtime cannot use it"),
            (onnx_file(kind=DOUBLE), "one input, float32 [n, 6], not tensor(double) ['n', 6]"),
            (onnx_file(inputs=[tensor_info("day", ["n", "any"])]), "one input, float32 [n, 6]"),
            (onnx_file(inputs=[tensor_info("day", [1, 6])], outputs=[tensor_info("chances", [1, 2])]), "one input"),
            (onnx_file(inputs=[tensor_info("day", ["n", 6]), tensor_info("night", ["n", 6])]), "one input"),
            (onnx_file(outputs=[tensor_info("chances", ["n", 2]), tensor_info("product", ["n", 2])]), "one output"),
            (onnx_file(columns=3), "one output, float32 [n, 2]"),
            (onnx_file(metadata={}), "features precipitation_mm,"),
            (onnx_file(metadata=ours_but(features="wind_m_s,precipitation_mm")), "features precipitation_mm,"),
            (onnx_file(metadata=ours_but(known_input="")), "known_input and a known_probability"),
            (onnx_file(metadata=ours_but(known_input="{}")), "known_input and a known_probability"),
            (onnx_file(metadata=ours_but(known_input="[0, 0]")), "known_input should have 6 numbers"),
            (onnx_file(metadata=ours_but(known_input="[NaN, 0, 0, 0, 0, 0]")), "no probability"),
            (onnx_file(metadata=ours_but(known_probability="high")), "known_input and a known_probability"),
            (onnx_file(metadata=ours_but(known_probability="nan")), "answers 0.2500 where its metadata says nan"),
            (onnx_file(metadata=ours_but(known_probability="0.2502")), "answers 0.2500 where its metadata says 0.2502"),
            (onnx_file(wet=math.nan), "no probability"),
            (onnx_file(wet=1.5), "no probability"),
        ],
    )
    def test_refuses_what_is_not_our_model(self, tmp_path: Path, content: bytes, reason: str) -> None:
        """In one line that names the setting, the file and the reason, and says what to do."""
        path = tmp_path / "model.onnx"
        path.write_bytes(content)

        refusal = self.refusal(path)

        assert refusal.startswith(f"GATEWAY_MODEL__PATH: '{path}' is no model to serve: ")
        assert reason in refusal
        assert "make model" in refusal
        assert len(refusal.splitlines()) == 1

    def test_refuses_a_path_that_names_no_regular_file(self, tmp_path: Path) -> None:
        """At once, even those whose reading would wait for ever or never end; the reason is the system's own."""
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
            assert f"is no model to serve: {reason}. " in self.refusal(path)

    def test_refuses_a_file_that_it_may_not_read(self, tmp_path: Path) -> None:
        """With the system's reason; root may read everything, so it is somebody else for as long as it tries."""
        path = tmp_path / "model.onnx"
        path.write_bytes(SHIPPED_MODEL.read_bytes())
        path.chmod(0)
        with ThreadPoolExecutor() as worker:
            load(SHIPPED_MODEL, worker)  # imports what nobody else may read either
        ourselves = os.geteuid()
        try:
            if ourselves == 0:
                os.seteuid(65534)  # nobody
            refusal = self.refusal(path)
        finally:
            os.seteuid(ourselves)

        assert "is no model to serve: permission denied. " in refusal

    def test_refuses_a_file_that_is_too_large(self, tmp_path: Path) -> None:
        """One byte more than the limit, without reading on."""
        path = tmp_path / "model.onnx"
        with path.open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)

        assert "is no model to serve: it has more than 100 MB. " in self.refusal(path)

    def test_refuses_every_truncation(self, tmp_path: Path) -> None:
        """Wherever the shipped file is cut, also between two fields, where it is a whole file to a parser."""
        content = SHIPPED_MODEL.read_bytes()
        path = tmp_path / "model.onnx"

        for size in [*range(0, len(content), 31), *range(len(content) - 450, len(content))]:
            path.write_bytes(content[:size])
            assert "is no model to serve" in self.refusal(path)

    def test_never_serves_a_damaged_file_whose_answer_is_another(self, tmp_path: Path) -> None:
        """A byte changed anywhere: refused in the usual way, or the known answer is still right."""
        content = SHIPPED_MODEL.read_bytes()
        path = tmp_path / "model.onnx"
        refused = 0

        with ThreadPoolExecutor() as worker:
            for place in range(0, len(content), 7):
                damaged = bytearray(content)
                damaged[place] ^= 0x41
                path.write_bytes(damaged)
                try:
                    damaged_model = load(path, worker)
                except PermanentError:
                    refused += 1
                else:
                    answer = damaged_model.precipitation_probability(KNOWN_DAY)
                    assert pytest.approx(KNOWN_PROBABILITY, abs=2 * TOLERANCE) == answer

        assert refused > 100


class TestModelResource:
    async def test_yields_a_model_that_checks_itself(self, resource: ModelResource) -> None:
        """While it is open it answers, and its check has nothing to remark."""
        async with resource.open() as model:
            assert pytest.approx(KNOWN_PROBABILITY, abs=TOLERANCE) == model.precipitation_probability(KNOWN_DAY)
            assert await resource.check() is None

    async def test_check_fails_when_the_answer_is_another(self, resource: ModelResource) -> None:
        """The check asks the model: it does not only look whether there is one."""
        async with resource.open() as model:
            model.metadata["known_probability"] = "0.1"
            with pytest.raises(InvalidModelError, match=r"answers 0\.80.. where its metadata says 0\.1000"):
                await resource.check()

    async def test_answers_nobody_once_it_is_closed(self, resource: ModelResource) -> None:
        """Who kept the model gets a RuntimeError, and so does who asks for a check."""
        async with resource.open() as model:
            pass

        with pytest.raises(RuntimeError, match="the model is closed"):
            model.precipitation_probability(seattle())
        with pytest.raises(RuntimeError):
            await model.precipitation_probabilities(DIFFERENT_DAYS)
        with pytest.raises(RuntimeError, match="not open"):
            await resource.check()

    async def test_opens_again(self, resource: ModelResource) -> None:
        """A resource that was closed can be opened anew."""
        for _ in range(2):
            async with resource.open():
                assert await resource.check() is None

    async def test_refuses_a_bad_file_and_leaves_no_thread(self, tmp_path: Path) -> None:
        """The error comes through `open()` as it is."""
        with pytest.raises(PermanentError, match="GATEWAY_MODEL__PATH"):
            async with ModelResource(ModelSettings(path=tmp_path / "nowhere")).open():
                pytest.fail("it opened")

        for thread in threading.enumerate():
            if thread.name.startswith("model"):
                thread.join(SOON)
                assert not thread.is_alive()

    async def test_does_not_hold_the_event_loop_while_it_loads(
        self, resource: ModelResource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loop goes round while the load is stuck; only the loop lets the load go on."""
        loading, go_on = hold(monkeypatch)

        async def let_it_go_on() -> int:
            ticks = await ticks_until(loading.is_set)
            for _ in range(100):
                await asyncio.sleep(0)
            go_on.set()
            return ticks + 100

        ticks = asyncio.create_task(let_it_go_on())
        async with resource.open():
            assert await ticks >= 100

    async def test_gives_up_at_once_when_the_start_is_cancelled(
        self, resource: ModelResource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Though the load is stuck. Its thread ends by itself when the load does, and what it loaded is dropped."""
        loading, go_on = hold(monkeypatch)

        async def start() -> None:
            async with resource.open():
                pytest.fail("it opened")

        starting = asyncio.create_task(start())
        await ticks_until(loading.is_set)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("model"))
        assert thread.is_alive()
        go_on.set()
        thread.join(SOON)

        assert not thread.is_alive()
        with pytest.raises(RuntimeError, match="not open"):
            await resource.check()

    async def test_leaves_no_thread_and_no_file(self, resource: ModelResource) -> None:
        """One thread while it is open, none of it when it is closed, by the system's own list."""
        before, files = threads(), os.listdir("/proc/self/fd")  # noqa: PTH208

        async with resource.open():
            assert len(threads() - before) == 1

        await ticks_until(lambda: threads() <= before)  # the system takes a joined thread off its list a moment later
        assert files == os.listdir("/proc/self/fd")  # noqa: PTH208

    async def test_lets_the_batches_end_when_it_is_closed(self, resource: ModelResource) -> None:
        """The release waits behind a batch that is being worked, and does not spoil it."""
        async with resource.open() as model:
            gate = model._session = Gate(model._session)
            batch = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            await ticks_until(gate.arrived.is_set)
            asyncio.get_running_loop().call_later(0.01, gate.opened.set)

        assert len(DIFFERENT_DAYS) == len(await batch)

    async def test_does_not_wait_for_a_batch_once_its_release_is_cancelled(self, resource: ModelResource) -> None:
        """As the stop deadline does: the release ends though the batch is stuck, and the batch ends with an error."""
        opening = resource.open()
        model = await opening.__aenter__()
        gate = model._session = Gate(model._session)
        batch = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
        await ticks_until(gate.arrived.is_set)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await opening.__aexit__(None, None, None)
        assert not batch.done()
        gate.opened.set()

        with pytest.raises(RuntimeError, match="the model is closed"):
            await batch

    async def test_abort_ends_the_batches_with_an_error(self, resource: ModelResource) -> None:
        """Neither the one being worked nor the one behind it is answered, or looks as if its caller was cancelled."""
        async with resource.open() as model:
            gate = model._session = Gate(model._session)
            worked = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            behind = asyncio.create_task(model.precipitation_probabilities(DIFFERENT_DAYS))
            await ticks_until(gate.arrived.is_set)
            resource.abort()
            gate.opened.set()
            outcomes = await asyncio.gather(worked, behind, return_exceptions=True)

            assert [str(outcome) for outcome in outcomes] == ["the model is closed"] * 2

    def test_abort_of_what_was_never_opened_does_nothing(self, resource: ModelResource) -> None:
        """As the core may call it whatever happened before."""
        resource.abort()


def hold(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make a load wait: an event that tells that it is waiting, and one that lets it go on."""
    loading, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> Model:
        loading.set()
        assert go_on.wait(SOON), "nobody let the load go on"
        return load(*arguments)

    monkeypatch.setattr(module, "load", held)
    return loading, go_on


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
while len(os.listdir("/proc/self/task")) > 1:  # one that was joined takes another moment to be gone
    assert time.monotonic() < deadline, "a thread was left"
    time.sleep(0.01)
"""


def test_nothing_is_left_in_a_process_that_opened_it(tmp_path: Path) -> None:
    """Not by native code either: no thread, no file in the home directory, no word on a terminal.

    In a process of its own, because it is about the first import; with an empty environment, because ONNX Runtime keeps
    still by itself where `CI` is set.
    """
    root = Path(module.__file__).parents[2]
    process = subprocess.run(  # noqa: S603  # our own interpreter
        [sys.executable, "-c", OPEN_AND_CLOSE],
        env={"HOME": str(tmp_path), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_page_about_the_model_has_the_figures_of_the_shipped_file(model: Model) -> None:
    """docs/model.md says what the training wrote into the file."""
    page = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")

    assert f"| the model | {model.metadata['accuracy']} | {model.metadata['brier_score']} |" in page
