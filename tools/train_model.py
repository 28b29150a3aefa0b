"""Train the shipped model: the chance that tomorrow is wet, from four years of daily weather in Seattle.

    python -m tools.train_model        (or `make model`, which makes the environment for it first)

The same data and versions give the same bytes. docs/model.md says what the figures mean.
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

# The oldest that has every operator we need, so that any ONNX Runtime of the last years loads the file.
OPSETS = {"": 11, "ai.onnx.ml": 1}

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Some days that each have a tomorrow, and whether it was wet."""

    days: Sequence[DayFeatures]
    wet_tomorrow: NDArray[np.bool_]

    @property
    def wet_today(self) -> NDArray[np.bool_]:
        return np.array([day.precipitation_mm >= WET_MM for day in self.days])

    @property
    def months(self) -> NDArray[np.int_]:
        return np.array([day.date.month for day in self.days])


def sample(years: Sequence[int]) -> Sample:
    """The days whose tomorrow is in one of the years: so no day is in two samples whose years differ."""
    days = [
        DayFeatures(
            precipitation_mm=row.precipitation,
            temperature_max_c=row.temp_max,
            temperature_min_c=row.temp_min,
            wind_m_s=row.wind,
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
    """The mean squared distance of the chance from what came: 0 is perfect, 0.25 is always saying one half."""
    return float(np.mean((probabilities - wet) ** 2))


def accuracy(probabilities: Probabilities, wet: NDArray[np.bool_]) -> float:
    """The share of days for which the likelier answer was right."""
    return float(np.mean((probabilities >= 0.5) == wet))  # noqa: PLR2004


def climatology(train: Sample, test: Sample) -> Probabilities:
    """The share of wet days in the same month of the training years."""
    share = {month: float(train.wet_tomorrow[train.months == month].mean()) for month in range(1, 13)}
    return np.array([share[month] for month in test.months])


def logistic() -> Pipeline:
    """Logistic regression on standardised features."""
    # Newton's method converges to the last bit of a float32, so that the order of sums does not show in the file.
    return make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))


def logistic_saturating() -> Pipeline:
    """The same, with a power of precipitation that saturates: 10 mm say little more than 5 mm."""
    saturate = ColumnTransformer([("precipitation", PowerTransformer(), [0])], remainder=StandardScaler())
    return make_pipeline(saturate, LogisticRegression(solver="newton-cholesky"))


def boosting() -> Pipeline:
    """Forty small trees."""
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
    """The candidate with the least Brier score when it is trained on one training year and judged on the other."""
    print("Choosing, within the training years (Brier score; judged on the year it was not trained on):")
    scores = {}
    for candidate in CANDIDATES:
        folds = [
            brier(wet_chance(fit(candidate, sample([trained])), sample([judged]).days), sample([judged]).wet_tomorrow)
            for trained, judged in (TRAINED_ON, TRAINED_ON[::-1])
        ]
        scores[candidate] = float(np.mean(folds))
        print(f"  {candidate:<22}{scores[candidate]:.4f}")
    return min(scores, key=scores.__getitem__)


def export(pipeline: Pipeline, metadata: dict[str, str]) -> ModelProto:
    """The pipeline as ONNX: float32 [n, 6] in, float32 [n, 2] out, the metadata inside."""
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
    """What the gateway answers from the file: it also refuses a file that does not give its known answer."""

    async def ask() -> list[float]:
        async with ModelResource(ModelSettings(path=path)).open() as model:
            return await model.precipitation_probabilities(days)

    return np.array(asyncio.run(ask()))


def report(chances: Probabilities, train: Sample, test: Sample) -> None:
    baselines = {
        "always dry": np.zeros(len(test.days)),
        "same as today": test.wet_today.astype(float),
        "climatology": climatology(train, test),
    }
    wet = test.wet_tomorrow
    print(f"\nHeld out, {HELD_OUT[0]} and {HELD_OUT[-1]}: {len(wet)} days, {wet.sum()} with a wet tomorrow")
    print(f"  {'':<22}accuracy  Brier score")
    for name, answer in {"the model": chances, **baselines}.items():
        print(f"  {name:<22}{accuracy(answer, wet):8.3f}  {brier(answer, wet):11.4f}")
    print("\nWhen it says ...      it was wet")
    for lowest in np.arange(0, 1, 0.2):
        said = (chances >= lowest) & (chances < lowest + 0.2)
        share = f"{wet[said].mean():6.0%}" if said.any() else "   -  "
        print(f"  {lowest:4.0%} to {lowest + 0.2:4.0%}  {share}   of {said.sum()} days")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model that tells the chance that tomorrow is wet.")
    parser.add_argument("--output", type=Path, default=SHIPPED_MODEL, help="where to write it (default: %(default)s)")
    output: Path = parser.parse_args().output

    train, test = sample(TRAINED_ON), sample(HELD_OUT)
    print(f"Trained on {TRAINED_ON[0]} and {TRAINED_ON[-1]}: {len(train.days)} days, wet is >= {WET_MM} mm\n")
    candidate = choose()
    pipeline = fit(candidate, train)
    expected = wet_chance(pipeline, test.days)
    known = next(day for day in train.days if day.precipitation_mm >= WET_MM)  # a wet one: every weight has its say
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
