"""The model: the probability that tomorrow is wet, from the weather of today (docs/model.md).

It is an ONNX file, made by tools/train_model.py. The format runs no code when it is loaded.
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

# Native code reads both variables when it is imported. They are set here because other threads may not run while the
# environment changes. The official builds of ONNX Runtime would start a thread, keep a database in the home directory
# and report to Microsoft. OpenBLAS, which numpy brings and nothing here uses, would start one thread per core.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The columns of the model's one input, float32 [n, 6]. Its one output is float32 [n, 2]: the probabilities of a dry and
# of a wet day.
FEATURES = ("precipitation_mm", "temperature_max_c", "temperature_min_c", "wind_speed_m_s", "season_sin", "season_cos")

WET_MM = 0.25  # a day is wet from here on: 0.01 inch, the least that a gauge measures ("measurable precipitation")
TOLERANCE = 1e-4  # of the known probability; processors differ by 1e-7

# The largest batch that runs on the event loop, which it blocks for some 0.5 ms. A larger one runs in the model's thread,
# which costs 0.1 ms, in chunks of this size, because numpy holds the interpreter's lock for a whole chunk.
MAX_INLINE_BATCH = 256

MAX_FILE_BYTES = 100 * 2**20  # the shipped model has 3 kB; a larger file is a wrong path

_VALID_RANGES = {
    "precipitation_mm": (0, 2000),  # the record of one day is 1825 mm
    "temperature_max_c": (-100, 70),  # the records are -89.2 °C and 56.7 °C; more is Kelvin or Fahrenheit
    "temperature_min_c": (-100, 70),
    "wind_speed_m_s": (0, 150),  # the record gust is 113 m/s
    "latitude": (-90, 90),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFeatures:
    """The weather of one day at one place.

    Attributes:
        precipitation_mm: the sum of the day.
        temperature_max_c: in degrees Celsius.
        temperature_min_c: in degrees Celsius.
        wind_speed_m_s: the mean of the day, 10 m above the ground.
        date: the local date.
        latitude: in degrees, negative in the south.

    Raises:
        ValueError: a value is not a number or out of range. The message begins with its name.
    """

    precipitation_mm: float
    temperature_max_c: float
    temperature_min_c: float
    wind_speed_m_s: float
    date: date
    latitude: float

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _VALID_RANGES.items():
            if not lowest <= getattr(self, name) <= highest:  # also true for NaN
                raise ValueError(f"{name} should be a number from {lowest} to {highest}")
        if self.temperature_min_c > self.temperature_max_c:
            raise ValueError("temperature_min_c should not be above temperature_max_c")


def season(day: date, latitude: float) -> tuple[float, float]:
    """Return the day of the year as a point on a circle, sine and cosine, so that December is close to January.

    South of the equator the year is shifted by half a year, because the model was trained on one northern city.
    """
    angle = math.tau * (day.timetuple().tm_yday - 1) / 365.25
    if latitude < 0:
        angle += math.pi
    return math.sin(angle), math.cos(angle)


def features(days: Sequence[DayFeatures]) -> "NDArray[np.float32]":
    """Return the model's input, float32 [n, 6], with the columns `FEATURES`. Training and serving use it."""
    import numpy as np  # noqa: PLC0415  # takes 0.1 s, while the model is loaded

    return np.array(
        [
            (
                day.precipitation_mm,
                day.temperature_max_c,
                day.temperature_min_c,
                day.wind_speed_m_s,
                *season(day.date, day.latitude),
            )
            for day in days
        ],
        dtype=np.float32,
    ).reshape(len(days), len(FEATURES))


class InvalidModelError(Exception):
    """A model file, or its output, is not usable. The message gives the reason."""


class Model:
    """The probability that tomorrow is wet. Tasks and threads may share one model.

    Attributes:
        metadata: the texts that the training wrote into the file: `trained_on`, the scores, the known input and output.
    """

    def __init__(self, session: Any, executor: Executor) -> None:
        """Wrap a session, and verify it.

        Args:
            session: an `onnxruntime.InferenceSession`.
            executor: the thread that runs large batches.

        Raises:
            InvalidModelError: its inputs, outputs or metadata are not those of the gateway's models, or its prediction
                is wrong.
        """
        self._session = session
        self._executor = executor
        self._input = _single_tensor("input", session.get_inputs(), columns=len(FEATURES))
        self._output = _single_tensor("output", session.get_outputs(), columns=2)
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        if self.metadata.get("features") != ",".join(FEATURES):
            raise InvalidModelError(f"its metadata should have features {','.join(FEATURES)}")
        self.verify()

    def precipitation_probability(self, today: DayFeatures) -> float:
        """Return the probability, 0 to 1, that the day after `today` has at least `WET_MM` of precipitation.

        It takes some 20 µs, so callers run it on the event loop.

        Raises:
            RuntimeError: the model is closed.
            InvalidModelError: the output is not a probability.
        """
        return self._predict(features([today]))[0]

    async def precipitation_probabilities(self, days: Sequence[DayFeatures]) -> list[float]:
        """Return the probability for each of many days. A large batch does not block the event loop."""
        if len(days) <= MAX_INLINE_BATCH:
            return self._predict(features(days))
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._predict_in_chunks, days)

    def verify(self) -> None:
        """Predict the known input, and compare the result with the known probability in the metadata.

        Raises:
            InvalidModelError: they differ, or the metadata has none.
        """
        import numpy as np  # noqa: PLC0415  # see features()

        try:
            known_input = np.array([json.loads(self.metadata["known_input"])], dtype=np.float32)
            expected = float(self.metadata["known_probability"])
        except (KeyError, ValueError, TypeError):
            raise InvalidModelError("its metadata should have a known_input and a known_probability") from None
        if known_input.shape != (1, len(FEATURES)):
            raise InvalidModelError(f"its known_input should have {len(FEATURES)} numbers")
        (probability,) = self._predict(known_input)
        if not abs(probability - expected) <= TOLERANCE:
            raise InvalidModelError(f"it predicts {probability:.4f} where its metadata has {expected:.4f}")

    def close(self) -> None:
        """Drop the session. Later calls raise `RuntimeError`."""
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
            raise InvalidModelError("its output is not a probability")
        return wet


def load(path: Path, executor: Executor) -> Model:
    """Read and verify a model file. The first call in a process takes some 0.1 s for the import, later ones 2 ms.

    Raises:
        PermanentError: the file is not usable. The message names the setting, the file and the reason.
    """
    import onnxruntime  # noqa: PLC0415  # takes 0.1 s, and a process without the model does not need it

    options = onnxruntime.SessionOptions()
    # The calling thread does all the work: a pool of threads would spin, or outlive the session.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = options.enable_cpu_mem_arena = False  # both keep memory for each batch size seen
    options.log_severity_level = 4  # fatal only, because errors are raised
    try:
        return Model(onnxruntime.InferenceSession(_read(path), options, providers=["CPUExecutionProvider"]), executor)
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        reason = error if isinstance(error, InvalidModelError) else "ONNX Runtime cannot use it"
        raise PermanentError(
            f"GATEWAY_MODEL__PATH: {str(path)!r} is not a usable model: {reason}. "
            "Set it to a file that `make model` wrote, or unset it to use the model of the package"
        ) from error


def _read(path: Path) -> bytes:
    """Return the content of a regular file. A FIFO could block the thread, and a device could be endless."""
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


def _single_tensor(kind: str, tensors: Sequence[Any], *, columns: int) -> str:
    """Return the name of the only input or output.

    Raises:
        InvalidModelError: there is another number of them, or it is not float32 [n, columns] with any n.
    """
    expected = f"it should have one {kind}, float32 [n, {columns}]"
    if len(tensors) != 1:
        raise InvalidModelError(f"{expected}, not {len(tensors)}")
    (tensor,) = tensors
    any_n = bool(tensor.shape) and not isinstance(tensor.shape[0], int)
    if tensor.type != "tensor(float)" or not any_n or tensor.shape[1:] != [columns]:
        raise InvalidModelError(f"{expected}, not {tensor.type} {tensor.shape}")
    return str(tensor.name)


class ModelResource(Resource[Model]):
    """Owns the model and one thread, which loads it and runs large batches one after another.

    `asyncio.to_thread` is not used, because its threads stay until `asyncio.run` ends, which waits for them. A thread
    cannot be cancelled: a cancelled start leaves it running until the load ends, some 0.1 s later, and drops the loaded
    model. Only a file system that hangs could keep it, and the exit of the interpreter, waiting longer.
    """

    name = "model"

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        self._executor: Executor | None = None
        self._model: Model | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Model]:
        """Load the model, verify it with its known input, yield it, drop it.

        Raises:
            PermanentError: the file is missing, unreadable or not one of the gateway's models.
        """
        loop = asyncio.get_running_loop()
        executor = self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.name)
        try:
            model = self._model = await loop.run_in_executor(executor, load, self.settings.path, executor)
            try:
                yield model
            finally:
                if self._model is model:  # not aborted
                    await loop.run_in_executor(executor, model.close)  # runs after the batches that are in progress
                    executor.shutdown()  # its thread is idle by now, so this takes microseconds
        finally:
            self.abort()

    def abort(self) -> None:
        if self._model is not None:
            self._model.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._model = self._executor = None

    async def check(self) -> str | None:
        """Predict the known input.

        Raises:
            RuntimeError: it is not open.
            InvalidModelError: the prediction is wrong.
        """
        if self._model is None:
            raise RuntimeError("the model is not open")
        self._model.verify()
        return None
