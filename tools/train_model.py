"""Train the shipped model: the probability that tomorrow is wet, from four years of daily weather in Seattle.

    python -m tools.train_model        (or `make model`, which creates the environment for it first)

The same data and versions give the same bytes. docs/model.md explains the figures.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from vega_datasets import data

from gateway.resources.model import FEATURES, WET_MM, DayFeatures, ModelResource, features
from gateway.settings import SHIPPED_MODEL, ModelSettings

SEATTLE_LATITUDE = 47.6
TRAINED_ON = (2012, 2013)
HELD_OUT = (2014, 2015)

# The oldest versions with all needed operators, so that older ONNX Runtimes load the file, too.
OPSETS = {"": 11, "ai.onnx.ml": 1}

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Days, and for each whether the next day was wet."""

    days: Sequence[DayFeatures]
    wet_tomorrow: NDArray[np.bool_]

    @property
    def wet_today(self) -> NDArray[np.bool_]:
        return np.array([day.precipitation_mm >= WET_MM for day in self.days])

    @property
    def months(self) -> NDArray[np.int_]:
        return np.array([day.date.month for day in self.days])


def sample(years: Sequence[int]) -> Sample:
    """Return the days whose next day is in one of the years. Samples of different years have no day in common."""
    days = [
        DayFeatures(
            precipitation_mm=row.precipitation,
            temperature_max_c=row.temp_max,
            temperature_min_c=row.temp_min,
            wind_speed_m_s=row.wind,
            date=row.date.date(),
            latitude=SEATTLE_LATITUDE,
        )
        for row in data.seattle_weather().itertuples()
    ]
    pairs = [(today, tomorrow) for today, tomorrow in pairwise(days) if tomorrow.date.year in years]
    return Sample(
        days=[today for today, _ in pairs],
        wet_tomorrow=np.array([tomorrow.precipitation_mm >= WET_MM for _, tomorrow in pairs]),
    )


def brier(probabilities: Probabilities, wet: NDArray[np.bool_]) -> float:
    """Return the mean squared error of the probabilities: 0 is perfect, 0.25 is that of a constant one half."""
    return float(np.mean((probabilities - wet) ** 2))


def accuracy(probabilities: Probabilities, wet: NDArray[np.bool_]) -> float:
    """Return the share of days on which the more probable outcome occurred."""
    return float(np.mean((probabilities >= 0.5) == wet))  # noqa: PLR2004


def climatology(train: Sample, test: Sample) -> Probabilities:
    """Return the share of wet days in the same month of the training years."""
    share = {month: float(train.wet_tomorrow[train.months == month].mean()) for month in range(1, 13)}
    return np.array([share[month] for month in test.months])


def logistic() -> Pipeline:
    """Return a logistic regression on standardised features."""
    # Newton's method converges to the last bit of a float32, so the file does not depend on the order of sums.
    return make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))


def logistic_saturating() -> Pipeline:
    """Return the same with a saturating power of precipitation: 10 mm have little more effect than 5 mm."""
    saturate = ColumnTransformer([("precipitation", PowerTransformer(), [0])], remainder=StandardScaler())
    return make_pipeline(saturate, LogisticRegression(solver="newton-cholesky"))


def boosting() -> Pipeline:
    """Return forty small trees."""
    return make_pipeline(
        GradientBoostingClassifier(
            n_estimators=40, max_depth=2, learning_rate=0.05, min_samples_leaf=30, random_state=0
        )
    )


CANDIDATES: dict[str, Callable[[], Pipeline]] = {
    "logistic": logistic,
    "logistic, saturating": logistic_saturating,
    "gradient boosting": boosting,
}


def fit(candidate: str, train: Sample) -> Pipeline:
    return CANDIDATES[candidate]().fit(features(train.days), train.wet_tomorrow)


def wet_chance(pipeline: Pipeline, days: Sequence[DayFeatures]) -> Probabilities:
    chances: Probabilities = pipeline.predict_proba(features(days))[:, 1]
    return chances


def choose() -> str:
    """Return the candidate with the lowest Brier score when it is trained on one training year and tested on the other."""
    print("Choosing within the training years (Brier score, tested on the year without training):")
    scores = {}
    for candidate in CANDIDATES:
        folds = [
            brier(
                wet_chance(fit(candidate, sample([train_year])), sample([test_year]).days),
                sample([test_year]).wet_tomorrow,
            )
            for train_year, test_year in (TRAINED_ON, TRAINED_ON[::-1])
        ]
        scores[candidate] = float(np.mean(folds))
        print(f"  {candidate:<22}{scores[candidate]:.4f}")
    return min(scores, key=scores.__getitem__)


def export(pipeline: Pipeline, metadata: dict[str, str]) -> ModelProto:
    """Return the pipeline and the metadata as ONNX: float32 [n, 6] in, float32 [n, 2] out."""
    onnx = to_onnx(
        pipeline,
        initial_types=[("features", FloatTensorType([None, len(FEATURES)]))],
        options={"zipmap": False},
        target_opset=OPSETS,
        name="wet_tomorrow",
    )
    onnx = select_model_inputs_outputs(onnx, outputs=["probabilities"])
    for key, value in metadata.items():
        onnx.metadata_props.add(key=key, value=value)
    return onnx


def served(path: Path, days: Sequence[DayFeatures]) -> Probabilities:
    """Return the predictions of the gateway, which also rejects a file without its known probability."""

    async def predict() -> list[float]:
        async with ModelResource(ModelSettings(path=path)).open() as model:
            return await model.precipitation_probabilities(days)

    return np.array(asyncio.run(predict()))


def report(chances: Probabilities, train: Sample, test: Sample) -> None:
    baselines = {
        "always dry": np.zeros(len(test.days)),
        "same as today": test.wet_today.astype(float),
        "climatology": climatology(train, test),
    }
    wet = test.wet_tomorrow
    print(f"\nHeld out, {HELD_OUT[0]} and {HELD_OUT[-1]}: {len(wet)} days, {wet.sum()} with a wet tomorrow")
    print(f"  {'':<22}accuracy  Brier score")
    for name, predicted in {"the model": chances, **baselines}.items():
        print(f"  {name:<22}{accuracy(predicted, wet):8.3f}  {brier(predicted, wet):11.4f}")
    print("\nPredicted             wet days")
    for lowest in np.arange(0, 1, 0.2):
        in_bin = (chances >= lowest) & (chances < lowest + 0.2)
        share = f"{wet[in_bin].mean():6.0%}" if in_bin.any() else "   -  "
        print(f"  {lowest:4.0%} to {lowest + 0.2:4.0%}  {share}   of {in_bin.sum()} days")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model for the probability that tomorrow is wet.")
    parser.add_argument("--output", type=Path, default=SHIPPED_MODEL, help="where to write it (default: %(default)s)")
    output: Path = parser.parse_args().output

    train, test = sample(TRAINED_ON), sample(HELD_OUT)
    print(f"Trained on {TRAINED_ON[0]} and {TRAINED_ON[-1]}: {len(train.days)} days, wet is >= {WET_MM} mm\n")
    candidate = choose()
    pipeline = fit(candidate, train)
    expected = wet_chance(pipeline, test.days)
    known = next(
        day for day in train.days if day.precipitation_mm >= WET_MM
    )  # a wet one, so that every feature contributes
    metadata = {
        "features": ",".join(FEATURES),
        "trained_on": f"Seattle, {TRAINED_ON[0]} to {TRAINED_ON[-1]}, {len(train.days)} days",
        "predicts": f"the chance that tomorrow has {WET_MM} mm of precipitation or more",
        "kind": candidate,
        "held_out": f"{HELD_OUT[0]} to {HELD_OUT[-1]}, {len(test.days)} days",
        "accuracy": f"{accuracy(expected, test.wet_tomorrow):.3f}",
        "brier_score": f"{brier(expected, test.wet_tomorrow):.4f}",
        "known_input": json.dumps([round(float(value), 6) for value in features([known])[0]]),
        "known_probability": f"{wet_chance(pipeline, [known])[0]:.6f}",
    }
    output.write_bytes(export(pipeline, metadata).SerializeToString(deterministic=True))

    chances = served(output, test.days)
    drift = float(np.abs(chances - expected).max())
    print(f"\nWrote {candidate} to {output}, {output.stat().st_size} bytes; differs by {drift:.1e} from scikit-learn")
    report(chances, train, test)


if __name__ == "__main__":
    main()
