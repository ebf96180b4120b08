"""What a key costs: of a large array beside reading it with bare xxh3, and of a pipeline in which nothing changed.

    python benchmarks/identity.py

The array: 5 GB/s or more, or within 80 % of xxh3 in the same run. The pipeline: below 2 ms.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import xxhash
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from ml_pkg.identity import identify

LIMIT = 3
FACTORS = {"a": 1.0, "b": 2.0}


def clipped(X:np.ndarray) -> np.ndarray: return np.clip(X, 0, LIMIT)
def logarithm(X:np.ndarray) -> np.ndarray: return np.log1p(clipped(X))
def scaled(X:np.ndarray, by:float=2) -> np.ndarray: return X * by * FACTORS["a"]
def composed(X:np.ndarray) -> np.ndarray: return scaled(logarithm(X))


class Clip(TransformerMixin, BaseEstimator):
    "Between two bounds."
    factor = 2
    def __init__(self, low:float=0, high:float=1): self.low, self.high = low, high
    def fit(self, X:np.ndarray, y:np.ndarray|None=None) -> "Clip": return self
    def transform(self, X:np.ndarray) -> np.ndarray: return clipped(np.clip(X, self.low, self.high)) * self.factor


class Ratio(Clip):
    "A subclass, with what it inherits."
    def transform(self, X:np.ndarray) -> np.ndarray: return composed(super().transform(X))


class Winsor(TransformerMixin, BaseEstimator):
    "Between two quantiles."
    def __init__(self, share:float=.1): self.share = share
    def fit(self, X:np.ndarray, y:np.ndarray|None=None) -> "Winsor":
        self.low_, self.high_ = np.quantile(X, [self.share, 1 - self.share], axis=0)
        return self
    def transform(self, X:np.ndarray) -> np.ndarray: return np.clip(X, self.low_, self.high_)


STEPS = [
    StandardScaler(), MinMaxScaler(), Clip(), FunctionTransformer(logarithm), Ratio(0, 2), FunctionTransformer(scaled, kw_args={"by": 3}), PCA(3),
    SelectKBest(k=2), Winsor(), FunctionTransformer(composed), RobustScaler(), PowerTransformer(), QuantileTransformer(n_quantiles=10), Clip(1, 2),
    FunctionTransformer(clipped), Normalizer(), PolynomialFeatures(), Winsor(.2), MaxAbsScaler(), LogisticRegression(),
]


def seconds(action:Callable, repeats:int) -> float:
    "Median wall time."
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    array = np.arange(125_000_000, dtype=np.float64)
    gigabytes = array.nbytes / 1e9
    bare = gigabytes / seconds(lambda: xxhash.xxh3_128(array).hexdigest(), 5)
    ours = gigabytes / seconds(lambda: identify(array).key, 5)
    pipeline = Pipeline([(f"step{place}", step) for place, step in enumerate(STEPS)])
    first = seconds(lambda: identify(pipeline).key, 1)
    unchanged = seconds(lambda: identify(pipeline).key, 100)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, medians")
    print(f"array of {gigabytes:.1f} GB: xxh3 {bare:.1f} GB/s, identify {ours:.1f} GB/s, ratio {ours / bare:.2f}")
    print(f"pipeline of {len(STEPS)} steps: first key {1000 * first:.1f} ms, again {1000 * unchanged:.2f} ms")


if __name__ == "__main__": main()
