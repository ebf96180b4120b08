"""What a changed last step costs: over fitting that step alone on rows already in memory.

StandardScaler, PolynomialFeatures(2, interaction_only=True), SelectKBest(50) and a logistic regression with
another C each time: in a plain pipeline, with joblib.Memory, and with Checkpoints, on one thread. The overhead is
paired: each tweaked fit is held against a fit of the same classifier just before it. Medians.

    python benchmarks/tweak_last_step.py [--rows 10000 100000 1000000] [--repeats 7]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1") # before numpy is imported

import joblib
import numpy as np
import pandas as pd
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from ml_pkg import Checkpoints, Dataset, Evaluation, Experiment, temporary_workspace

STORES = {"plain": lambda folder: None, "joblib": lambda folder: joblib.Memory(folder, verbose=0), "ours": Checkpoints}


def generated(rows: int) -> tuple[np.ndarray, np.ndarray]:
    "Twenty features, of which two interact to make two classes."
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, 20))
    return X, (X[:, 0] * X[:, 1] + random.normal(size=rows) > 0).astype(int)


def classifier(C: float) -> LogisticRegression: return LogisticRegression(C=C, max_iter=20)


def pipeline(C: float, memory: object) -> Pipeline:
    return make_pipeline(StandardScaler(), PolynomialFeatures(2, interaction_only=True), SelectKBest(k=50), classifier(C), memory=memory)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measured(name: str, X: np.ndarray, y: np.ndarray, transformed: np.ndarray, repeats: int) -> dict[str, float]:
    "First fit, the classifier alone, and what a tweaked fit takes on top of it; in milliseconds."
    with tempfile.TemporaryDirectory() as folder:
        memory = STORES[name](folder)
        first = seconds(lambda: pipeline(1.0, memory).fit(X, y))
        alone, over = [], []
        for repeat in range(repeats):
            C = 1.1 + repeat / 10
            alone.append(seconds(lambda C=C: classifier(C).fit(transformed, y)))
            over.append(seconds(lambda C=C: pipeline(C, memory).fit(X, y)) - alone[-1])
    return {"first fit": 1e3 * first, "classifier alone": 1e3 * median(alone), "overhead": 1e3 * median(over)}


def identical(X: np.ndarray, y: np.ndarray, repeats: int) -> float:
    "Milliseconds of running an experiment that has run."
    frame = pd.DataFrame(X, columns=[f"x{number}" for number in range(X.shape[1])]).assign(y=y)
    with temporary_workspace():
        experiment = Experiment("bench", Dataset(frame, target="y"), pipeline(1.0, None), Evaluation(2))
        experiment.run()
        return 1e3 * median(seconds(experiment.run) for _ in range(repeats))


def verdict(rows: int, found: dict[str, dict[str, float]], again: float) -> list[str]:
    "The bounds that are promised, and whether they hold."
    ours, joblib_over = found["ours"], found["joblib"]["overhead"]
    allowed, factor = 10 + 0.03 * ours["classifier alone"], joblib_over / ours["overhead"]
    checks = [(f"overhead {ours['overhead']:.1f} ms, at most {allowed:.1f}", ours["overhead"] < allowed), (f"identical again {again:.1f} ms, at most 20", again < 20)]
    if rows in (10_000, 1_000_000): checks.append((f"{factor:.1f} times less than joblib, at least {5 if rows == 10_000 else 50}", factor >= (5 if rows == 10_000 else 50)))
    return [f"  {'holds' if holds else 'FAILS'}: {text}" for text, holds in checks]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments.add_argument("--repeats", type=int, default=7)
    chosen = arguments.parse_args()
    for rows in chosen.rows:
        X, y = generated(rows)
        transformed = pipeline(1.0, None)[:-1].fit_transform(X, y)
        found = {name: measured(name, X, y, transformed, chosen.repeats) for name in STORES}
        print(f"\n{rows:,} rows; milliseconds, one thread\n{pd.DataFrame(found).T.round(1).to_string()}")
        print("\n".join(verdict(rows, found, identical(X, y, chosen.repeats))), flush=True)


if __name__ == "__main__": main()
