"""The model: the chance that tomorrow is wet, from the weather of today (docs/model.md).

It is an ONNX file, a format that runs no code when it is loaded, made by tools/train_model.py.
"""

import asyncio
import json
import math
import os
import stat
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.resources.base import PermanentError, Resource
from gateway.settings import ModelSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Both are read by native code when it is imported, and set here because the environment of a process may only be changed
# while nothing else runs in it. ONNX Runtime's official builds would start a thread, keep a database in the home directory
# and report to Microsoft; OpenBLAS, which numpy brings and nothing here uses, would start a thread a core.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

FEATURES = ("precipitation_mm", "temperature_max_c", "temperature_min_c", "wind_m_s", "season_sin", "season_cos")
"""The columns of the model's one input, float32 [n, 6]. Its one output is float32 [n, 2]: the chance of dry and of wet."""

WET_MM = 0.25
"""A day is wet from this much precipitation on: 0.01 inch, the least that a gauge measures ("measurable precipitation")."""

TOLERANCE = 1e-4
"""How far the answer to the known input may be off: processors differ by 1e-7, nobody acts on a hundredth of a percent."""

MAX_INLINE_BATCH = 256
"""The largest batch worked on the event loop, which it holds for some 0.5 ms. More is handed to the model's thread, which
costs 0.1 ms, and worked there in chunks of this size, because numpy keeps the interpreter's lock for a whole chunk."""

MAX_FILE_BYTES = 100 * 2**20
"""In bytes. The shipped model has 3 kB; what is larger than this is a mistaken path."""

_PLAUSIBLE = {
    "precipitation_mm": (0, 2000),  # the record of one day is 1825 mm
    "temperature_max_c": (-100, 70),  # the records are -89.2 °C and 56.7 °C; more is Kelvin or Fahrenheit
    "temperature_min_c": (-100, 70),
    "wind_m_s": (0, 150),  # the record gust is 113 m/s
    "latitude": (-90, 90),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFeatures:
    """The weather of one day at one place.

    Raises:
        ValueError: a value is not a number that this planet has seen; the message names it.
    """

    precipitation_mm: float
    """The sum of the day."""
    temperature_max_c: float
    temperature_min_c: float
    wind_m_s: float
    """The mean of the day, 10 m above the ground."""
    date: date
    latitude: float
    """In degrees, south negative."""

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _PLAUSIBLE.items():
            if not lowest <= getattr(self, name) <= highest:  # neither is a NaN
                raise ValueError(f"{name} should be a number from {lowest} to {highest}")
        if self.temperature_min_c > self.temperature_max_c:
            raise ValueError("temperature_min_c should not be above temperature_max_c")


def season(day: date, latitude: float) -> tuple[float, float]:
    """The day of the year as a point on a circle: sine and cosine, so that December is beside January.

    South of the equator the year is shifted by half: the model learnt from one northern city only.
    """
    angle = math.tau * (day.timetuple().tm_yday - 1) / 365.25
    if latitude < 0:
        angle += math.pi
    return math.sin(angle), math.cos(angle)


def features(days: Sequence[DayFeatures]) -> "NDArray[np.float32]":
    """What the model takes, float32 [n, 6], in the order of `FEATURES`; for training and serving alike."""
    import numpy as np  # noqa: PLC0415  # 0.1 s, paid while the model is loaded

    return np.array(
        [
            (
                day.precipitation_mm,
                day.temperature_max_c,
                day.temperature_min_c,
                day.wind_m_s,
                *season(day.date, day.latitude),
            )
            for day in days
        ],
        dtype=np.float32,
    ).reshape(len(days), len(FEATURES))


class InvalidModelError(Exception):
    """A model file, or what it answers, is not what we serve; the message says why."""


class Model:
    """The chance that tomorrow is wet. May be asked from several tasks and threads at once."""

    def __init__(self, session: Any, worker: Executor) -> None:
        """Take an `onnxruntime.InferenceSession`, and the thread on which large batches are worked.

        Raises:
            InvalidModelError: its inputs, outputs or metadata are not those of our models, or its answer is wrong.
        """
        self._session = session
        self._worker = worker
        self._input = _only("input", session.get_inputs(), columns=len(FEATURES))
        self._output = _only("output", session.get_outputs(), columns=2)
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        """What the training wrote into the file: `trained_on`, the figures, the known answer."""
        if self.metadata.get("features") != ",".join(FEATURES):
            raise InvalidModelError(f"its metadata should have features {','.join(FEATURES)}")
        self.verify()

    def precipitation_probability(self, today: DayFeatures) -> float:
        """The chance, 0 to 1, that the day after `today` has at least `WET_MM` of precipitation.

        Takes some 20 µs, so it is asked for on the event loop.

        Raises:
            RuntimeError: the model is closed.
            InvalidModelError: it answers what is no probability.
        """
        return self._predict(features([today]))[0]

    async def precipitation_probabilities(self, days: Sequence[DayFeatures]) -> list[float]:
        """The same for many days, each on its own; a large batch does not hold the event loop."""
        if len(days) <= MAX_INLINE_BATCH:
            return self._predict(features(days))
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._predict_in_chunks, days)

    def verify(self) -> None:
        """Predict what the file says it predicts.

        Raises:
            InvalidModelError: it does not.
        """
        import numpy as np  # noqa: PLC0415  # see features()

        try:
            known_input = np.array([json.loads(self.metadata["known_input"])], dtype=np.float32)
            expected = float(self.metadata["known_probability"])
        except (KeyError, ValueError, TypeError):
            raise InvalidModelError("its metadata should have a known_input and a known_probability") from None
        if known_input.shape != (1, len(FEATURES)):
            raise InvalidModelError(f"its known_input should have {len(FEATURES)} numbers")
        (answer,) = self._predict(known_input)
        if not abs(answer - expected) <= TOLERANCE:
            raise InvalidModelError(f"it answers {answer:.4f} where its metadata says {expected:.4f}")

    def close(self) -> None:
        """Drop the session: who still asks gets a `RuntimeError`."""
        self._session = None

    def _predict_in_chunks(self, days: Sequence[DayFeatures]) -> list[float]:
        chunks = (days[start : start + MAX_INLINE_BATCH] for start in range(0, len(days), MAX_INLINE_BATCH))
        return [probability for chunk in chunks for probability in self._predict(features(chunk))]

    def _predict(self, rows: "NDArray[np.float32]") -> list[float]:
        session = self._session
        if session is None:
            raise RuntimeError("the model is closed")
        (probabilities,) = session.run([self._output], {self._input: rows})
        wet: list[float] = probabilities[:, 1].tolist()
        if not all(0 <= probability <= 1 for probability in wet):
            raise InvalidModelError("it answers what is no probability")
        return wet


def load(path: Path, worker: Executor) -> Model:
    """Read and verify a model file: some 0.1 s the first time in a process, which is the import, and 2 ms from then on.

    Raises:
        PermanentError: naming the setting, the file and what is wrong with it.
    """
    import onnxruntime  # noqa: PLC0415  # paid for here and not by whoever imports this module

    options = onnxruntime.SessionOptions()
    # The calling thread does all the work: no pool that spins or outlives the session.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False  # both keep memory for each size of batch seen
    options.log_severity_level = 4  # fatal only: what is wrong is raised, and said once
    try:
        return Model(onnxruntime.InferenceSession(_read(path), options, providers=["CPUExecutionProvider"]), worker)
    except Exception as error:  # the exceptions of ONNX Runtime have no class in common
        reason = error if isinstance(error, InvalidModelError) else "ONNX Runtime cannot use it"
        raise PermanentError(
            f"GATEWAY_MODEL__PATH: {str(path)!r} is no model to serve: {reason}. "
            "Set it to a file that `make model` wrote, or unset it for the model that the package ships"
        ) from error


def _read(path: Path) -> bytes:
    """The content of a regular file; a FIFO or a device could block us, or never end."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidModelError("it is not a regular file")
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidModelError(reason.lower()) from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidModelError(f"it has more than {MAX_FILE_BYTES // 2**20} MB")
    return content


def _only(what: str, tensors: Sequence[Any], *, columns: int) -> str:
    """The name of the only input or output, if it is float32 [n, columns] with any n."""
    wanted = f"it should have one {what}, float32 [n, {columns}]"
    if len(tensors) != 1:
        raise InvalidModelError(f"{wanted}, not {len(tensors)}")
    (tensor,) = tensors
    any_n = bool(tensor.shape) and not isinstance(tensor.shape[0], int)
    if tensor.type != "tensor(float)" or not any_n or tensor.shape[1:] != [columns]:
        raise InvalidModelError(f"{wanted}, not {tensor.type} {tensor.shape}")
    return str(tensor.name)


class ModelResource(Resource[Model]):
    """Owns the model and one thread, on which it is loaded and large batches are worked, one after another.

    The thread is not one of `asyncio.to_thread`: those are never given back, and `asyncio.run` waits for them at its end.
    A thread cannot be cancelled, so a start that is given up leaves it to end by itself, some 0.1 s later, and drops what
    it loads. Only a file system that hangs could hold it longer, and with it the exit of the interpreter.
    """

    name = "model"

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        self._worker: Executor | None = None
        self._model: Model | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Model]:
        """Load the model, verify it by its own known answer, yield it, drop it.

        Raises:
            PermanentError: the file is missing, unreadable or not one of our models.
        """
        loop = asyncio.get_running_loop()
        worker = self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.name)
        try:
            model = self._model = await loop.run_in_executor(worker, load, self.settings.path, worker)
            try:
                yield model
            finally:
                if self._model is model:  # nobody has aborted it
                    await loop.run_in_executor(worker, model.close)  # behind the batches that are still being worked
                    worker.shutdown()  # idle by now: this waits some microseconds for its end
        finally:
            self.abort()

    def abort(self) -> None:
        if self._model is not None:
            self._model.close()
        if self._worker is not None:
            self._worker.shutdown(wait=False)
        self._model = self._worker = None

    async def check(self) -> str | None:
        """Predict what the file says it predicts.

        Raises:
            RuntimeError: it is not open.
            InvalidModelError: it answers something else.
        """
        if self._model is None:
            raise RuntimeError("the model is not open")
        self._model.verify()
        return None
