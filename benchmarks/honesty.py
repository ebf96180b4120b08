"""How honest a comparison of many variants is: simulated worlds whose truth is known.

    python benchmarks/honesty.py
    python benchmarks/honesty.py --repetitions 50 --only 'forests'
    python benchmarks/honesty.py --boards 200 --only 'noise, 200'

Every world is drawn again and again; each time all variants are cross-validated on the same five folds of the same rows.
Printed: what the best seems to be above what it is, before and after the correction for having been picked; how often
intervals at 95% hold the truth, for a variant, for a difference to the first and for the best as corrected; how often
equals are called the same; how often worse ones are told from the best. The truth of a variant is the mean accuracy, on
fresh rows, of fits on as many fresh training sets as there are repetitions, each as large as a fold fits on.

Cross-validating and judging are done here by hand, which is quick. The first few repetitions of each world are also declared
as experiments and run as a sweep, and the leaderboard has to say the same to the last digit.

One thread. The bars: the corrected best within half a point of the truth on noise, intervals that are shown between 90%
and 97%, equals called the same in 94% of cases or more.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier
from threadpoolctl import threadpool_limits

from ml_pkg import Dataset, Evaluation, Experiment, compare
from ml_pkg.progress import Silent
from ml_pkg.resampling import FoldScores, Sample, resampled
from ml_pkg.workspace import temporary_workspace

FOLDS, HELD_OUT, FRESH = 5, 1 / 4, 4_000
FEATURES = 20


class Variant(NamedTuple):
    "An estimator and the columns it is given."
    estimator: object
    columns: np.ndarray


class World(NamedTuple):
    "Where rows come from, and who is to predict them."
    name: str
    rows: int
    draw: Callable      # (random, rows) -> X, y
    variants: Callable  # repetition -> variants: the same in truth in every repetition
    truth: Callable     # (world, repetitions) -> expected accuracy of each


class Board(NamedTuple):
    "What a leaderboard knows of its variants."
    predictions: list[pd.DataFrame]
    folds: np.ndarray   # accuracies, shape (n_variants, n_folds)


def cross_validated(X:np.ndarray, y:np.ndarray, variants:list[Variant], seed:int) -> Board:
    "Out-of-fold predictions of every variant on the same folds. The one place that says where predictions come from."
    splits = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, y))
    predictions, folds = [], []
    for estimator, columns in variants:
        predicted = np.empty(len(y), dtype=int)
        for train, test in splits: predicted[test] = clone(estimator).fit(X[np.ix_(train, columns)], y[train]).predict(X[np.ix_(test, columns)])
        predictions.append(pd.DataFrame({"row": np.arange(len(y)), "prediction": predicted}))
        folds.append([(predicted[test] == y[test]).mean() for _, test in splits])
    return Board(predictions, np.array(folds))


def declared(X:np.ndarray, y:np.ndarray, variants:list[Variant], seed:int) -> dict[str, float]:
    "What a leaderboard of the same variants says, run as a user would."
    dataset = Dataset(pd.DataFrame(X, columns=[f"x{place}" for place in range(X.shape[1])]).assign(y=y), target="y")
    evaluation = Evaluation(cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed), metrics=["accuracy"])
    with temporary_workspace():
        board = compare(*(Experiment(f"variant_{place}", dataset, make_pipeline(ColumnTransformer([("kept", "passthrough", [f"x{each}" for each in columns])]), clone(estimator)), evaluation)
                          for place, (estimator, columns) in enumerate(variants)), n_jobs=os.cpu_count(), display=Silent())
        frame = board.frame.loc[[f"variant_{place}" for place in range(len(variants))]]
        return {"corrected": board.verdict.corrected.mean, "tried": board.verdict.tried, **{name: frame[name].sum() for name in ("score", "low", "high", "difference_low", "difference_high", "among_best")}}


def by_hand(sample:Sample) -> dict[str, float]:
    "The same, of a sample."
    places = range(len(sample.scores))
    intervals, beside = [sample.interval(place) for place in places], [sample.difference(place, 0) for place in places]
    return {"score": sum(sample.scores), "corrected": sample.corrected().mean, "tried": len(sample.scores), "low": sum(each.low for each in intervals), "high": sum(each.high for each in intervals),
            "difference_low": sum(each.low for each in beside), "difference_high": sum(each.high for each in beside), "among_best": sample.among_the_best().sum()}


def noise(random:np.random.Generator, rows:int) -> tuple[np.ndarray, np.ndarray]:
    "Labels that nothing predicts."
    return random.normal(size=(rows, FEATURES)), random.integers(2, size=rows)


def signal(random:np.random.Generator, rows:int, features:int=FEATURES) -> tuple[np.ndarray, np.ndarray]:
    "Labels that the first four columns say something about."
    X = random.normal(size=(rows, features))
    leaning = X[:, 0] + 0.8 * X[:, 1] - 0.6 * X[:, 2] + 0.5 * X[:, 0] * X[:, 3]
    return X, (random.random(rows) < 1 / (1 + np.exp(-1.5 * leaning))).astype(int)


def wide(random:np.random.Generator, rows:int) -> tuple[np.ndarray, np.ndarray]: return signal(random, rows, 100)


def mixed(count:int) -> list[Variant]:
    "Different learners on different columns."
    random = np.random.default_rng(1)
    def learner(place:int) -> object:
        return [GaussianNB(), KNeighborsClassifier(int(random.integers(1, 30))), DecisionTreeClassifier(max_depth=int(random.integers(1, 6)), random_state=place),
                ExtraTreeClassifier(max_depth=4, random_state=place), LinearDiscriminantAnalysis()][place % 5]
    return [Variant(learner(place), np.sort(random.choice(FEATURES, size=random.integers(2, 9), replace=False))) for place in range(count)]


def forests(count:int, repetition:int) -> list[Variant]:
    "One forest that draws at random, with other seeds."
    return [Variant(ExtraTreesClassifier(10, max_depth=5, random_state=1000 * repetition + place), np.arange(8)) for place in range(count)]


def trees(count:int) -> list[Variant]:
    "One tree that draws anew in each fit."
    return [Variant(ExtraTreeClassifier(max_depth=4), np.arange(8)) for _ in range(count)]


def with_noise(count:int) -> list[Variant]:
    "One learner with the columns that matter and three of its own that do not."
    return [Variant(LinearDiscriminantAnalysis(), np.r_[0:3, 4 + 3 * place:7 + 3 * place]) for place in range(count)]


def one_better(count:int) -> list[Variant]:
    "One that is given the three best columns; the others are given two of them and one that does not matter."
    return [Variant(LinearDiscriminantAnalysis(), np.arange(3)), *(Variant(LinearDiscriminantAnalysis(), np.r_[0, 1, 4 + place]) for place in range(count - 1))]


def by_fitting(world:World, repetitions:int) -> np.ndarray:
    "Accuracies on fresh rows, fitted on fresh training sets as large as those of a fold."
    found = []
    for repetition in range(repetitions):
        random = np.random.default_rng([1, repetition])
        (X, y), (fresh, labels) = world.draw(random, round(world.rows * (1 - 1 / FOLDS))), world.draw(random, FRESH)
        found.append([(clone(estimator).fit(X[:, columns], y).predict(fresh[:, columns]) == labels).mean() for estimator, columns in world.variants(repetition)])
    return np.mean(found, axis=0)


def coin(world:World, repetitions:int) -> np.ndarray: return np.full(len(world.variants(0)), 0.5)
def all_equal(world:World, repetitions:int) -> np.ndarray: return np.full(len(by := by_fitting(world, repetitions)), by.mean())


def holds(interval:tuple, truth:float) -> bool: return interval[1] - 1e-6 <= truth <= interval[2] + 1e-6


def covered(evidence:Sample|FoldScores, truth:np.ndarray) -> dict[str, float]:
    "Shares of intervals that hold the truth, and how wide those of scores are."
    places = range(len(truth))
    intervals = [evidence.interval(place) for place in places]
    return {"score": np.mean([holds(interval, true) for interval, true in zip(intervals, truth, strict=True)]), "width": np.mean([interval.high - interval.low for interval in intervals]),
            "difference": np.mean([holds(evidence.difference(place, 0), truth[place] - truth[0]) for place in places[1:]])}


def judged(evidence:Sample|FoldScores, truth:np.ndarray) -> dict[str, float]:
    "What one way of judging makes of one board."
    best, fair, kept = int(np.argmax(evidence.scores)), evidence.corrected(), evidence.among_the_best()
    level = truth > truth.max() - 1e-9
    return {**covered(evidence, truth), "naive": evidence.scores[best] - truth[best], "corrected": fair.mean - truth[best], "best": holds(fair, truth[best]),
            "kept": kept[level].mean(), "told apart": 1 - kept[~level].mean() if (~level).any() else np.nan}


def simulate(world:World, repetitions:int, boards:int) -> pd.DataFrame:
    "Every way of judging in a world, one row each; with the standard error of the corrected best. Raises AssertionError if a leaderboard says something else."
    np.random.seed(0)
    truth, found = world.truth(world, repetitions), {"resampled rows": [], "folds": []}
    for repetition in range(repetitions):
        np.random.seed(repetition) # for estimators that draw anew
        X, y = world.draw(np.random.default_rng([2, repetition, world.rows]), world.rows)
        board = cross_validated(X, y, world.variants(repetition), repetition)
        found["resampled rows"].append(judged(resampled("accuracy", pd.Series(y), board.predictions, board.folds.mean(axis=1), seed=repetition), truth))
        found["folds"].append(judged(FoldScores(board.folds, HELD_OUT), truth))
        if repetition < boards and are_declarations(world.variants(repetition)): same_as_declared(X, y, world.variants(repetition), board, repetition)
    print(f"\n{world.name}: {world.rows} rows, {len(truth)} variants, {repetitions} repetitions; truth {truth.min():.3f} to {truth.max():.3f}")
    return pd.DataFrame({name: {**pd.DataFrame(rows).mean(), "error": pd.DataFrame(rows)["corrected"].std() / np.sqrt(repetitions)} for name, rows in found.items()}).T


def are_declarations(variants:list[Variant]) -> bool:
    "Whether each is a declaration of its own. Estimators that draw anew are none: an experiment gives them its seed, and then they are all the same."
    return all(estimator.get_params().get("random_state", 0) is not None for estimator, _ in variants)


def same_as_declared(X:np.ndarray, y:np.ndarray, variants:list[Variant], board:Board, seed:int) -> None:
    "Raise AssertionError if a leaderboard of these variants says something else."
    said, known = declared(X, y, variants, seed), by_hand(resampled("accuracy", pd.Series(y), board.predictions, board.folds.mean(axis=1)))
    for name, value in known.items(): np.testing.assert_allclose(said[name], value, rtol=0, atol=1e-6, err_msg=name)


def show(found:pd.DataFrame) -> None:
    shares = found[["score", "difference", "best", "kept", "told apart"]].map(lambda share: "" if np.isnan(share) else f"{share:.1%}")
    table = pd.DataFrame({"naive": found["naive"].map("{:+.4f}".format), "corrected": [f"{mean:+.4f} ± {error:.4f}" for mean, error in zip(found["corrected"], found["error"], strict=True)],
                          "width": found["width"].map("{:.3f}".format)})
    print(table.join(shares).to_string(), flush=True)


def worlds(variants:int) -> list[World]:
    many, few = mixed(variants), mixed(15)
    return [
        World("noise", 200, noise, lambda repetition: many, coin),
        World("noise", 500, noise, lambda repetition: many[::4], coin),
        World("signal", 300, signal, lambda repetition: few, by_fitting),
        World("signal, forests of other seeds", 200, signal, lambda repetition: forests(10, repetition), all_equal),
        World("signal, trees that draw anew", 200, signal, lambda repetition: trees(20), all_equal),
        World("signal, equals with noise of their own", 200, wide, lambda repetition: with_noise(20), all_equal),
        World("signal, one is better", 500, wide, lambda repetition: one_better(10), by_fitting),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--variants", type=int, default=100)
    parser.add_argument("--boards", type=int, default=3, help="repetitions of each world that are run as a sweep, too")
    parser.add_argument("--only", default="", help="worlds whose name has this in it")
    chosen, started = parser.parse_args(), time.perf_counter()
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        for world in (world for world in worlds(chosen.variants) if chosen.only in f"{world.name}, {world.rows} rows"): show(simulate(world, chosen.repetitions, chosen.boards))
    print(f"\n{time.perf_counter() - started:.0f} seconds, one thread")


if __name__ == "__main__": main()
