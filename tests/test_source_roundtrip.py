"""What `to_source` writes makes the same experiment in a fresh process, whatever was varied; and what it refuses could not be written."""

import dataclasses
import datetime
import functools
import importlib
import json
import pathlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.feature_selection import f_regression
from sklearn.metrics import fbeta_score, make_scorer
from sklearn.model_selection import KFold, RepeatedStratifiedKFold, StratifiedShuffleSplit, TimeSeriesSplit
from sklearn.preprocessing import MinMaxScaler, RobustScaler

from ml_pkg import Better, EnoughRows, Evaluation, Experiment, FairAcross, Gates, Joblib, Skops
from ml_pkg.errors import NotWritable

STEPS = '''
import enum
from dataclasses import dataclass

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import StandardScaler as Standard

class Side(enum.Enum): LEFT = 1; RIGHT = "right"

@dataclass(frozen=True)
class Limits:
    low: float
    high: float = 1.0

class Clipper(TransformerMixin, BaseEstimator):
    def __init__(self, low=0.0, high=1.0, *, how=None): self.low, self.high, self.how = low, high, how
    def fit(self, X, y=None): return self
    def transform(self, X): return X
    def get_feature_names_out(self, names=None): return names

class StandardScaler(Standard):
    "Another one of this name."

class Hints(TransformerMixin, BaseEstimator):
    def __init__(self, first=None, **others): self.first, self.others = first, others
    def get_params(self, deep=True): return {"first": self.first, **self.others}
    def set_params(self, **changes):
        self.first = changes.pop("first", self.first)
        self.others = {**self.others, **changes}
        return self
    def fit(self, X, y=None): return self
    def transform(self, X): return X

class Forgetful:
    def __init__(self, size): self.length = size

def doubled(X): return 2 * X
'''

DECLARED = '''
import numpy as np
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import SelectFromModel, SelectKBest, chi2, f_classif
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from ml_pkg import Dataset, Evaluation, Experiment
import round_trip_steps as steps

flowers = Dataset("iris.csv", target="species")
numbers = make_pipeline(SimpleImputer(), StandardScaler())
estimators = dict(
    plain=make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)),
    named=Pipeline([("select", SelectKBest(chi2)), ("scale", "passthrough"), ("predict", SVC(C=1, class_weight={"setosa": 2.0}))], verbose=True),
    columns=make_pipeline(make_column_transformer((numbers, ["sepal_length", "sepal_width"]), (KBinsDiscretizer(n_bins=4), make_column_selector(pattern="petal")), remainder="passthrough"), SVC()),
    wide=make_pipeline(ColumnTransformer([("left", steps.Clipper(high=7), slice(0, 2)), ("right", "drop", [2])], transformer_weights={"left": 0.5}), RandomForestClassifier(n_estimators=10)),
    union=make_pipeline(make_union(PolynomialFeatures(), FunctionTransformer(np.log1p)), FeatureUnion([("a", steps.Clipper()), ("b", StandardScaler())]), LogisticRegression()).set_output(transform="pandas"),
    twins=make_pipeline(StandardScaler(), steps.StandardScaler(), steps.Hints(first=1, depth=2), FunctionTransformer(steps.doubled), SVC()),
    searched=make_pipeline(StandardScaler(), GridSearchCV(SVC(), {"C": [0.1, 1, 10], "kernel": ["rbf", "linear"]}, cv=StratifiedKFold(3, shuffle=True, random_state=0))),
    voting=VotingClassifier([("tree", DecisionTreeClassifier()), ("pipe", make_pipeline(StandardScaler(), SVC()))], voting="hard"),
    stacked=StackingClassifier([("bag", BaggingClassifier(DecisionTreeClassifier(max_depth=2))), ("select", make_pipeline(SelectFromModel(DecisionTreeClassifier()), SVC()))], final_estimator=LogisticRegression()),
    kernels=GaussianProcessClassifier(RBF(2.0) + WhiteKernel()),
)
declared = [Experiment(name, flowers, estimator, Evaluation(metrics=["accuracy", "f1_macro"])) for name, estimator in estimators.items()]
'''

CHILD = '''
import json, sys
from pathlib import Path

def key(source):
    namespace = {"__name__": "promoted", "__file__": str(Path("promoted.py").absolute())}
    exec("\\n".join([*source["imports"], f"{source['name']} = {source['text']}"]), namespace)
    return namespace[source["name"]].key

print(json.dumps([key(source) for source in json.loads(Path(sys.argv[1]).read_text())]))
'''


@pytest.fixture
def declared(project:Path, monkeypatch:pytest.MonkeyPatch) -> Iterator[list[Experiment]]:
    "Ten declarations in a module of a project, which this process imports as well."
    for name, source in (("round_trip_steps", STEPS), ("round_trip_declared", DECLARED)): (project / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(project)
    yield importlib.import_module("round_trip_declared").declared
    for name in ("round_trip_steps", "round_trip_declared"): importlib.sys.modules.pop(name, None)


def writable(steps:Any) -> list:
    "Values that a parameter may be given and that have a source."
    return [None, True, False, 0, 1, -3, 10**20, 0.0, -0.0, 0.1, 1e-12, float("nan"), float("inf"), 2j, "auto", "it's", 'a "b"', "two\nlines\n" * 8, b"\x00'", (), (1,), (1, (2.0, "a")), [1, 2.5],
            {"a": 1, 2: [None]}, {3, 1, 2}, frozenset({"a", "b"}), slice(1, None), range(2, 9), np.float64(0.1), np.float32(0.1), np.int64(3), np.bool_(True), np.datetime64("2020-01-01"), np.array([0.1, np.nan]),
            np.arange(40), np.array([[1, 2], [3, 4]], dtype=np.int16, order="F"), np.array(["a", "bcd"]), pd.Timestamp("2020-01-31 12:00", tz="UTC"), pd.Timedelta("3h"), datetime.date(2020, 2, 29), pathlib.PurePosixPath("a/b"),
            np.log1p, np.mean, len, float, f_regression, steps.doubled, steps.Clipper, steps.Side.RIGHT, steps.Limits(0.5), functools.partial(np.clip, a_min=0, a_max=steps.Limits(1, 2)), KFold(3, shuffle=True, random_state=1),
            make_scorer(fbeta_score, beta=2, average="macro"), [steps.Clipper(low=1), MinMaxScaler()], {"scaler": MinMaxScaler((0, 2))}]


def unwritable(steps:Any) -> list:
    "Values that are in no source."
    def inside(X): return X
    return [lambda X: X, inside, np.random.RandomState(0), np.random.default_rng(0), np.arange(1000), pd.DataFrame({"a": [1, 2]}), pd.Series([1.0]), steps.Forgetful(3), "text".count,
            [1, {"deep": lambda X: X}], type("Made", (), {"__module__": "__main__"})]


def leaves(estimator:Any) -> list[str]:
    "Parameters that hold no estimators and no named parts."
    return [name for name, value in estimator.get_params(deep=True).items() if not hasattr(value, "get_params") and not isinstance(value, list) and value not in ("passthrough", "drop")]


def varied(experiment:Experiment, draw:random.Random, good:list, bad:list) -> tuple[Experiment, bool]:
    "A random variant, and whether something is in it that cannot be written."
    if hasattr(experiment.estimator, "steps") and draw.random() < 0.4: experiment = experiment.insert("added", draw.choice([RobustScaler(quantile_range=(5, 95)), MinMaxScaler()]), before=experiment.estimator.steps[-1][0])
    if hasattr(experiment.estimator, "steps") and len(experiment.estimator.steps) > 2 and draw.random() < 0.3: experiment = experiment.drop(experiment.estimator.steps[0][0])
    refused, changes = False, {}
    for name in draw.sample(leaves(experiment.estimator), draw.randint(0, 4)):
        if name.endswith("transformer_weights"): continue # set_output reads it, and takes nothing but a dict
        is_bad = draw.random() < 0.08
        changes[name] = clone(draw.choice(bad if is_bad else good), safe=False)
        refused |= is_bad
    experiment = experiment.replace(**changes)
    if draw.random() < 0.3: experiment = experiment.with_seed(draw.randrange(2**32))
    if draw.random() < 0.3: experiment = experiment.with_persister(draw.choice([Joblib(), Skops(trusted=("round_trip_steps.Clipper",))])).accepting(duplicates="it's \"measured\"")
    if draw.random() < 0.3: experiment = experiment.with_dataset(dataclasses.replace(experiment.dataset, **draw.choice([{"drop": "petal_width"}, {"features": ["petal_width", "sepal_width"]}, {"weight": "sepal_length"}])))
    if draw.random() < 0.4: experiment = experiment.with_evaluation(draw.choice([Evaluation(), Evaluation(RepeatedStratifiedKFold(n_splits=3), holdout=0.2), Evaluation(TimeSeriesSplit(gap=1), {"f2": make_scorer(fbeta_score, beta=2, average="macro"), "a": "accuracy"}),
                                                                                 Evaluation(StratifiedShuffleSplit(4, test_size=0.25), "accuracy", train_size=0.5)]))
    if draw.random() < 0.3: experiment = experiment.with_promotion(draw.choice([Gates(Better(), EnoughRows(1000)), Gates(*Gates(), FairAcross("petal_width", most=0.2))]))
    return experiment, refused


def kind(error:NotWritable) -> str:
    "What was found, without names and numbers."
    return re.sub(r"\(.*\)|'\w+'|[\w.]+(?=, (defined|a method))|(?<=class )\w+|(?<=of )\d+", "…", error.args[1]).rstrip(":")


def test_sources_of_variants_make_the_same_experiments(declared:list[Experiment], project:Path, python:Callable):
    steps, draw = importlib.import_module("round_trip_steps"), random.Random(20)
    good, bad = writable(steps), unwritable(steps)
    variants = [varied(declared[number % len(declared)], draw, good, bad) for number in range(200)]
    sources, keys, refusals = [], [], []
    for experiment, refused in variants:
        try: source = experiment.to_source()
        except NotWritable as error:
            assert refused, f"{experiment!r}: {error}"
            assert error.args[0].startswith("estimator."), error
            refusals.append(error)
            continue
        assert not refused, source
        assert max(map(len, f"{experiment.name} = {source.text}".splitlines())) <= 110, source
        sources.append({"name": experiment.name, "text": source.text, "imports": source.imports})
        keys.append(experiment.key)
    (project / "sources.json").write_text(json.dumps(sources))
    made = json.loads(python(CHILD, "sources.json", timeout=120))
    different = [source["text"] for source, key, again in zip(sources, keys, made, strict=True) if key != again]
    assert not different, different[0]
    kinds = Counter(map(kind, refusals))
    print(f"\n{len(variants)} variants: {len(sources)} round trips ({len(set(keys))} keys), {len(refusals)} refused:", *(f"  {count:3}  {found}" for found, count in kinds.most_common()), sep="\n")
    assert len(sources) >= 140 and len(set(keys)) >= 120 and len(refusals) >= 20 and len(kinds) >= 7
