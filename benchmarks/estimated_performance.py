"""How right estimates without labels are: worlds whose labels are known, and shown only afterwards.

    python benchmarks/estimated_performance.py
    python benchmarks/estimated_performance.py --repetitions 5 --only forest
    python benchmarks/estimated_performance.py --tables 2 3

Every scenario is drawn again and again: training rows, a model with its out-of-fold predictions, and a window in which the
features have moved. In the first two tables they mean what they meant at training (covariate shift), which is what
estimates rest on. Printed for each scenario: what the estimate is off, on average (bias) and without its sign (off), how
often the 95% interval holds what is measured, how wide it is, how far off the model's own probabilities are (said), and
how often nothing is estimated since too many rows are unlike those at training. Scenarios are fixed, all are printed. Where
rows are made up, `known` is what somebody would be off who knew the chances of each row: labels are drawn, and on average nobody
does better. The rest is owed to the number of labelled rows: `counted` is what a share that is counted in so many labels at training
is off from one that is counted in those of the window, on average, without any shift (normal approximation of two binomials).

In the last table features change their meaning (concept shift). Labels of a window arrive in twenty batches, and after each
the estimate is held against what is measured on the labelled rows. Printed: how often it is found not to be trusted, and
after how many labels; and how often that is said where the meaning has not changed, which is to be in 5% of cases or fewer.

The bars: accuracy within 2 points of the measured one on average, in each scenario; intervals that hold it in 90% to 98% of
all cases. Three scenarios have so few labels (200 rows at training, or 250 and a window of 100) that `counted` is above 2 points, so that
nobody who counts them comes as close: it is told in how many of the others the first bar holds.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from ml_pkg.agreement import Comparison, Disagree
from ml_pkg.calibration import learn_calibration
from ml_pkg.estimated import Abstained, ClassificationEstimator
from ml_pkg.expected_loss import learn_regression_estimator
from ml_pkg.late_labels import measured as measured_on
from ml_pkg.support import learn_support

WINDOW, FOLDS = 2_000, 5
MOST_OFF, LEAST_HELD, MOST_HELD = 0.02, 0.90, 0.98 # of an accuracy; shares of intervals


# Where rows come from, and what they mean.

def numbers(columns:int, correlation:float = 0.4) -> Callable:
    "Normal columns x0, x1, …, all correlated alike."
    def draw(random, rows):
        return pd.DataFrame(np.sqrt(1 - correlation) * random.normal(size=(rows, columns)) + np.sqrt(correlation) * random.normal(size=(rows, 1))).rename(columns="x{}".format)
    return draw


def with_city(*shares:float) -> Callable:
    "Three normal columns and one of four cities."
    return lambda random, rows: numbers(3)(random, rows).assign(city=random.choice(list("abcd"), size=rows, p=shares))


def two(score:pd.Series) -> np.ndarray:
    chances = 1 / (1 + np.exp(-np.asarray(score, dtype=float)))
    return np.column_stack([1 - chances, chances])


def city_effect(X:pd.DataFrame) -> np.ndarray:
    return X["city"].map({"a": -0.8, "b": 0.0, "c": 0.9, "d": 1.8}).to_numpy(float)


def linear(X):
    return two(1.2 * X["x0"] - X["x1"] + 0.6 * X["x2"] + 0.3)


def curved(X):
    return two(1.5 * np.sin(2 * X["x0"]) + X["x1"] * X["x2"] + 0.7 * X["x3"] - 0.3)


def three(X):
    powers = np.exp(1.3 * np.column_stack([X["x0"] - X["x1"], 0.8 * X["x1"] ** 2 - 0.8, X["x2"] + 0.5 * X["x3"]]))
    return powers / powers.sum(axis=1, keepdims=True)


def mixed(X):
    return two(X["x0"] + city_effect(X) * np.where(X["x1"] > 0, 1, 0.3) - 0.5)


def rare(X):
    return two(1.3 * X["x0"] + city_effect(X) - 3.2)


# How features move.

def moved(**by:float) -> Callable:
    return lambda draw: lambda random, rows: (lambda X: X.assign(**{name: X[name] + by[name] for name in by}))(draw(random, rows))


def narrower(factor:float) -> Callable:
    return lambda draw: lambda random, rows: draw(random, rows) * factor


def weighted(weight:Callable) -> Callable:
    "Rows that are drawn more often the higher their weight."
    def move(draw):
        def drawn(random, rows):
            X = draw(random, 12 * rows)
            weights = weight(X).to_numpy()
            return X.iloc[random.choice(len(X), rows, replace=False, p=weights / weights.sum())].reset_index(drop=True)
        return drawn
    return move


def cities(*shares:float) -> Callable:
    return lambda draw: with_city(*shares)


def unmoved(draw:Callable) -> Callable:
    return draw


# What is predicted with.

LOGISTIC = LogisticRegression(max_iter=2000)
FOREST = RandomForestClassifier(100, min_samples_leaf=3)
BOOSTING = HistGradientBoostingClassifier(max_iter=100)
BAYES = GaussianNB()
NEIGHBOURS = KNeighborsClassifier(15)
NETWORK = make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=300, early_stopping=True))
SCALED_LOGISTIC = make_pipeline(StandardScaler(), LOGISTIC)


def encoded(model:object) -> object:
    return make_pipeline(make_column_transformer((OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["city"]), remainder=StandardScaler()), clone(model))


class Drawn(NamedTuple):
    "Training rows and a window."
    X: pd.DataFrame
    y: np.ndarray
    window: pd.DataFrame
    labels: np.ndarray
    chances: np.ndarray | None = None # of each class in each row of the window, where they are known


class World(NamedTuple):
    "Rows that are made up."
    draw: Callable
    meaning: Callable
    move: Callable
    rows: int

    def drawn(self, random:np.random.Generator, rows:int = WINDOW) -> Drawn:
        X, window = self.draw(random, self.rows), self.move(self.draw)(random, rows)
        y, chances = labels_of(self.meaning(X), random), self.meaning(window)
        return Drawn(X, y, window, labels_of(chances, random), chances)


class Bundled(NamedTuple):
    "Rows that come with scikit-learn: some to train on, and of the others a window in which a column is higher, or lower."
    load: Callable
    column: Callable
    pull: float
    rows: int
    window: int

    def drawn(self, random:np.random.Generator) -> Drawn:
        X, y = self.load()
        order = random.permutation(len(X))
        train, others = order[:self.rows], order[self.rows:]
        column = self.column(X.iloc[others])
        weights = np.exp(self.pull * (column - column.mean()) / column.std()).to_numpy()
        window = others[random.choice(len(others), self.window, replace=False, p=weights / weights.sum())]
        return Drawn(X.iloc[train].reset_index(drop=True), y[train], X.iloc[window].reset_index(drop=True), y[window])


def labels_of(chances:np.ndarray, random:np.random.Generator) -> np.ndarray:
    return (chances.cumsum(axis=1) < random.random((len(chances), 1))).sum(axis=1)


def cancer():
    found = load_breast_cancer(as_frame=True)
    return found.data, found.target.to_numpy()


def digits():
    found = load_digits(as_frame=True)
    return found.data, found.target.to_numpy()


def diabetes():
    found = load_diabetes(as_frame=True)
    return found.data, (found.target > 140).astype(int).to_numpy()


SCENARIOS = {
    "linear, logistic, 200, a mean": (World(numbers(5), linear, moved(x0=0.7), 200), LOGISTIC),
    "linear, logistic, 1000, weighted": (World(numbers(5), linear, weighted(lambda X: np.exp(X["x0"])), 1000), LOGISTIC),
    "linear, forest, 1000, two means": (World(numbers(5), linear, moved(x0=0.5, x1=-0.5), 1000), FOREST),
    "linear, boosting, 5000, weighted": (World(numbers(5), linear, weighted(lambda X: np.exp(-X["x1"])), 5000), BOOSTING),
    "linear, bayes, 500, a mean": (World(numbers(5), linear, moved(x1=0.7), 500), BAYES),
    "curved, logistic, 2000, a mean": (World(numbers(6), curved, moved(x0=0.7), 2000), LOGISTIC),
    "curved, forest, 2000, a mean": (World(numbers(6), curved, moved(x1=0.7), 2000), FOREST),
    "curved, boosting, 5000, two means": (World(numbers(6), curved, moved(x0=0.5, x3=0.5), 5000), BOOSTING),
    "curved, neighbours, 1000, weighted": (World(numbers(6), curved, weighted(lambda X: np.exp(X["x2"])), 1000), NEIGHBOURS),
    "curved, network, 2000, narrower": (World(numbers(6), curved, narrower(0.6), 2000), NETWORK),
    "three, logistic, 500, a mean": (World(numbers(4), three, moved(x1=0.7), 500), LOGISTIC),
    "three, forest, 1000, weighted": (World(numbers(4), three, weighted(lambda X: np.exp(X["x2"])), 1000), FOREST),
    "three, boosting, 5000, weighted": (World(numbers(4), three, weighted(lambda X: np.exp(X["x0"] - X["x1"])), 5000), BOOSTING),
    "three, bayes, 200, a mean": (World(numbers(4), three, moved(x2=0.7), 200), BAYES),
    "cities, logistic, 1000, other mix": (World(with_city(0.4, 0.3, 0.2, 0.1), mixed, cities(0.1, 0.2, 0.3, 0.4), 1000), encoded(LOGISTIC)),
    "rare, boosting, 2000, other mix": (World(with_city(0.4, 0.3, 0.2, 0.1), rare, cities(0.2, 0.2, 0.3, 0.3), 2000), encoded(BOOSTING)),
    "cancer, logistic, 300, smaller": (Bundled(cancer, lambda X: X["mean radius"], -0.7, 300, 150), SCALED_LOGISTIC),
    "cancer, forest, 300, rougher": (Bundled(cancer, lambda X: X["mean texture"], 0.7, 300, 150), FOREST),
    "digits, forest, 900, more ink": (Bundled(digits, lambda X: X.sum(axis=1), 0.7, 900, 400), FOREST),
    "diabetes, logistic, 250, heavier": (Bundled(diabetes, lambda X: X["bmi"], 0.7, 250, 100), SCALED_LOGISTIC),
    "linear, logistic, 500, a mean": (World(numbers(5), linear, moved(x0=0.7), 500), LOGISTIC), # as those above that have fewer labels
    "three, bayes, 1000, a mean": (World(numbers(4), three, moved(x2=0.7), 1000), BAYES),
    "digits, logistic, 900, less ink": (Bundled(digits, lambda X: X.sum(axis=1), -0.7, 900, 400), SCALED_LOGISTIC),
}


# Models, as training leaves them.

class Trained(NamedTuple):
    "A model, and what was predicted by models that had not seen the row."
    model: object
    out_of_fold: np.ndarray
    fold: np.ndarray


def seeded(model:object, seed:int) -> object:
    model = clone(model)
    return model.set_params(**{name: seed for name in model.get_params() if name.endswith("random_state")})


def trained(model:object, drawn:Drawn, seed:int) -> Trained:
    out_of_fold, fold = np.zeros((len(drawn.y), drawn.y.max() + 1)), np.zeros(len(drawn.y), dtype=int)
    for number, (train, test) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(drawn.X, drawn.y)):
        fold[test] = number
        out_of_fold[test] = seeded(model, seed).fit(drawn.X.iloc[train], drawn.y[train]).predict_proba(drawn.X.iloc[test])
    return Trained(seeded(model, seed).fit(drawn.X, drawn.y), out_of_fold, fold)


def estimator_of(drawn:Drawn, found:Trained) -> ClassificationEstimator:
    return ClassificationEstimator(learn_calibration(drawn.X, drawn.y, found.out_of_fold, found.fold), learn_support(drawn.X), tuple(range(found.out_of_fold.shape[1])))


def classified(name:str, repetition:int) -> dict:
    "One drawing of a scenario."
    source, model = SCENARIOS[name]
    random = np.random.default_rng([list(SCENARIOS).index(name), repetition])
    drawn = source.drawn(random)
    found = trained(model, drawn, repetition)
    probabilities = found.model.predict_proba(drawn.window)
    prediction = probabilities.argmax(axis=1)
    measured, started = (prediction == drawn.labels).mean(), time.perf_counter()
    estimated = estimator_of(drawn, found).estimate(drawn.window, prediction, probabilities)
    known = np.nan if drawn.chances is None else abs(drawn.chances[np.arange(len(prediction)), prediction].mean() - measured)
    counted = np.sqrt(2 / np.pi * measured * (1 - measured) * (1 / len(drawn.y) + 1 / len(drawn.labels)))
    said = {"scenario": name, "known": known, "counted": counted, "said": abs(probabilities.max(axis=1).mean() - measured), "seconds": time.perf_counter() - started, "abstained": isinstance(estimated, Abstained)}
    return said if said["abstained"] else said | compared(estimated.metrics["accuracy"].interval, measured)


def compared(interval, measured:float) -> dict:
    return {"bias": interval.mean - measured, "off": abs(interval.mean - measured), "held": interval.low - 1e-9 <= measured <= interval.high + 1e-9, "width": interval.high - interval.low}


# Regressions: the mean absolute error.

class Noisy(NamedTuple):
    "Rows with a number to predict, whose noise grows with x0."
    mean: Callable
    move: Callable
    rows: int

    def drawn(self, random:np.random.Generator) -> Drawn:
        X, window = numbers(5)(random, self.rows), self.move(numbers(5))(random, WINDOW)
        def target(X): return self.mean(X).to_numpy() + np.exp(0.4 * X["x0"].to_numpy()) * random.normal(size=len(X))
        return Drawn(X, target(X), window, target(window))


def straight(X):
    return 2 * X["x0"] - X["x1"]


def wavy(X):
    return 2 * np.sin(2 * X["x0"]) + X["x1"] * X["x2"]


def progression():
    found = load_diabetes(as_frame=True)
    return found.data, found.target.to_numpy(float)


REGRESSIONS = {
    "straight, linear, 200, a mean": (Noisy(straight, moved(x0=0.7), 200), LinearRegression()),
    "straight, forest, 1000, a mean": (Noisy(straight, moved(x0=0.7), 1000), RandomForestRegressor(100, min_samples_leaf=3)),
    "wavy, linear, 2000, a mean": (Noisy(wavy, moved(x0=0.7), 2000), LinearRegression()),
    "wavy, boosting, 5000, weighted": (Noisy(wavy, weighted(lambda X: np.exp(X["x0"])), 5000), HistGradientBoostingRegressor()),
    "wavy, forest, 2000, narrower": (Noisy(wavy, narrower(0.6), 2000), RandomForestRegressor(100, min_samples_leaf=3)),
    "diabetes, linear, 250, heavier": (Bundled(progression, lambda X: X["bmi"], 0.7, 250, 100), LinearRegression()),
}


def regressed(name:str, repetition:int) -> dict:
    "One drawing of a regression; what it is off is in percent of what is measured."
    source, model = REGRESSIONS[name]
    drawn = source.drawn(np.random.default_rng([100 + list(REGRESSIONS).index(name), repetition]))
    out_of_fold = cross_val_predict(seeded(model, repetition), drawn.X, drawn.y, cv=KFold(FOLDS, shuffle=True, random_state=repetition))
    prediction = seeded(model, repetition).fit(drawn.X, drawn.y).predict(drawn.window)
    real, before = np.abs(drawn.labels - prediction).mean(), np.abs(drawn.y - out_of_fold).mean()
    metric = "neg_mean_absolute_error"
    estimated = learn_regression_estimator(drawn.X, drawn.y, out_of_fold, [metric]).estimate(drawn.window, prediction)
    said = {"scenario": name, "unmoved": abs(before / real - 1), "abstained": isinstance(estimated, Abstained)}
    if said["abstained"]: return said
    found = estimated.metrics[metric].interval
    return said | {"bias": -found.mean / real - 1, "off": abs(-found.mean / real - 1), "held": found.low <= -real <= found.high, "width": (found.high - found.low) / real}


# Changed meaning: labels come in batches, and the estimate is held against them.

def other_sign(X):
    return two(-1.2 * X["x0"] - X["x1"] + 0.6 * X["x2"] + 0.3)


def coin(X):
    return 0.5 * linear(X) + 0.25


def easier(X):
    return two(2.5 * (1.2 * X["x0"] - X["x1"] + 0.6 * X["x2"] + 0.3))


def higher(X):
    return two(1.2 * X["x0"] - X["x1"] + 0.6 * X["x2"] + 1.8)


MEANINGS = {"as before": linear, "as before, and a mean moved": linear, "a sign turned": other_sign, "half of labels random": coin, "more cases": higher, "easier": easier}
LOOKS = 20


def held_against(name:str, repetition:int) -> dict:
    "One drawing of a window whose labels come in batches. `after`: labels until the estimate was found not to be trusted."
    random = np.random.default_rng([200 + list(MEANINGS).index(name), repetition])
    model = (LOGISTIC, FOREST)[repetition % 2]
    drawn = World(numbers(5), linear, unmoved, 2000).drawn(random, 1)
    window = (moved(x0=0.7) if "moved" in name else unmoved)(numbers(5))(random, WINDOW)
    labels = labels_of(MEANINGS[name](window), random)
    found = trained(model, drawn, repetition)
    estimator, probabilities = estimator_of(drawn, found), found.model.predict_proba(window)
    prediction = probabilities.argmax(axis=1)
    change = (prediction == labels).mean() - (found.out_of_fold.argmax(axis=1) == drawn.y).mean()
    said = {"scenario": name, "change": change, "do not trust": False, "after": np.nan}
    for look in range(1, LOOKS + 1):
        rows = look * WINDOW // LOOKS
        verdict = Comparison().compare(estimator.estimate(window[:rows], prediction[:rows], probabilities[:rows]), measured_on(pd.DataFrame({"prediction": prediction[:rows], "label": labels[:rows]}), [0, 1]), look=look)
        if isinstance(verdict, Disagree): return said | {"do not trust": True, "after": rows}
    return said


# What is printed.

def quietly(function:Callable, *arguments) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def repeated(function:Callable, names:list[str], repetitions:int) -> pd.DataFrame:
    return pd.DataFrame(joblib.Parallel(2)(joblib.delayed(quietly)(function, name, number) for name in names for number in range(repetitions)))


def table(found:pd.DataFrame, percent:list[str]) -> pd.DataFrame:
    means = found.drop(columns="scenario").astype(float).groupby(found["scenario"], sort=False).mean()
    if len(means) > 1: means.loc["all"] = found.drop(columns="scenario").astype(float).mean()
    return means.assign(**{name: 100 * means[name] for name in percent}).round(2)


def judged(found:pd.DataFrame) -> bool:
    "Print the bars on accuracy."
    means, held = found.groupby("scenario", sort=False)[["off", "counted"]].mean(), found["held"].astype(float).mean()
    over, enough = means[means["off"] > MOST_OFF], means[means["counted"] <= MOST_OFF]
    print(f"of {len(enough)} scenarios with enough labels to tell {100 * MOST_OFF:g} points, {(enough['off'] <= MOST_OFF).sum()} are within them")
    close = verdict(f"within {100 * MOST_OFF:g} points of the measured accuracy in {len(means) - len(over)} of {len(means)} scenarios{': not in ' * bool(len(over))}{'; '.join(f'{name} ({100 * each.off:.2f}; {100 * each.counted:.2f} by the number of labels)' for name, each in over.iterrows())}", over.empty)
    return verdict(f"{held:.1%} of intervals hold the measured accuracy; from {LEAST_HELD:.0%} to {MOST_HELD:.0%} are to", LEAST_HELD <= held <= MOST_HELD) and close


def verdict(what:str, holds:bool) -> bool:
    print(f"{'pass' if holds else 'FAIL'}  {what}")
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--only", default="", help="part of the name of a scenario")
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 2, 3], help="1: accuracy, 2: regressions, 3: changed meaning")
    asked = parser.parse_args()
    pd.set_option("display.width", 160)
    parts = (
        ("accuracy under covariate shift, in points; held: share of intervals that hold the measured one", classified, SCENARIOS, ["known", "counted", "said", "bias", "off", "width"], ["known", "counted", "said", "bias", "off", "held", "width", "abstained", "seconds"]),
        ("mean absolute error under covariate shift, in percent of it; unmoved: what the out-of-fold error is off", regressed, REGRESSIONS, ["unmoved", "bias", "off", "width"], ["unmoved", "bias", "off", "held", "width", "abstained"]),
        (f"changed meaning: how often the estimate is found not to be trusted within {LOOKS} looks and {WINDOW} labels; change: of accuracy, in points", held_against, MEANINGS, ["change"], ["change", "do not trust", "after"]),
    )
    hold = True
    for title, function, scenarios, percent, columns in (parts[number - 1] for number in asked.tables):
        names = [name for name in scenarios if asked.only in name]
        if not names: continue
        found = repeated(function, names, asked.repetitions)
        print(f"{title}\n\n{table(found, percent).reindex(columns=columns).to_string()}\n", flush=True)
        if function is classified: hold = judged(found)
    sys.exit(0 if hold else 1)


if __name__ == "__main__":
    main()
