"""Equal things have equal keys in every process; different things have different keys."""

import collections
import copy
import datetime
import decimal
import fractions
import functools
import json
import math
import operator
import os
import pathlib
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from ml_pkg.identity import identify

# --- the same declaration in many processes

FEATURES = '''
import numpy as np

CHOSEN = {"setosa", "versicolor", "virginica", "unknown"}
LIMITS = {"low": {1, 2, 3}, "high": frozenset({"a", "b", "c"}), 3: ("x", 1.5)}

def widen(frame, factor=1.0, names=frozenset({"one", "two", "three"})):
    return frame * factor + len(CHOSEN & set(LIMITS["high"]))

class Ratio:
    "Weighs petals."
    weights = {"petal": {3, 1, 2}, "sepal": None}
    def __call__(self, frame): return frame * len(self.weights) if {"p", "q", "r"} else frame
'''

DECLARATION = '''
import json
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from ml_pkg import Dataset, Evaluation, Experiment
from features import Ratio, widen

columns = ColumnTransformer([
    ("petals", make_pipeline(StandardScaler(), FunctionTransformer(widen, kw_args={"factor": 2.0, "names": {"p", "q", "r"}})), ["petal_length", "petal_width"]),
    ("sepals", make_pipeline(FunctionTransformer(Ratio()), FeatureUnion([("all", "passthrough"), ("best", SelectKBest(f_classif, k=1))])), ["sepal_length"]),
])
estimator = make_pipeline(columns, LogisticRegression(max_iter=500, class_weight={"setosa": 1.0, "virginica": 2.0, "versicolor": 1}))
experiment = Experiment("keys", Dataset("iris.csv", target="species", drop=["sepal_width"]), estimator, Evaluation(cv=3, metrics={"first": "accuracy", "second": "f1_macro"}))
print(json.dumps([experiment.key, experiment.dataset.fingerprint, experiment.evaluation.identity.key, experiment.identity.parts[1][1].key]))
'''


@pytest.fixture
def keys_of(python:Callable, project:Path) -> Callable:
    "The distinct keys that the declaration has in some processes, each with another beginning and another hash seed."
    (project / "features.py").write_text(FEATURES)
    def keys(beginnings:list[str]) -> set[tuple]:
        def one(numbered): return python(numbered[1] + DECLARATION, env={**os.environ, "PYTHONHASHSEED": str(numbered[0] * 7919)})
        with ThreadPoolExecutor(3) as pool: return {tuple(json.loads(printed)) for printed in pool.map(one, enumerate(beginnings))}
    return keys


def test_one_key_in_twenty_processes(keys_of:Callable):
    assert len(keys_of([""] * 20)) == 1


def test_imports_do_not_count(keys_of:Callable):
    "Neither their order nor further ones; nor what else the process did before."
    beginnings = ["", "import features\n", "import pyarrow, pandas, sklearn.ensemble, scipy.stats\n", "import sklearn.linear_model, decimal, ml_pkg.cli, features\n",
                  "import pandas as pd; pd.read_csv('iris.csv')\n", "from ml_pkg import Dataset; Dataset('iris.csv', target='species').fingerprint\n"]
    assert len(keys_of(beginnings)) == 1


def test_code_does_count(keys_of:Callable, project:Path):
    "Guards the tests above: a change of what the declaration uses is seen."
    before = keys_of([""])
    (project / "features.py").write_text(FEATURES.replace('"petal": {3, 1, 2}', '"petal": {3, 1, 4}'))
    assert keys_of([""]).isdisjoint(before)


# --- what differs

class Box(BaseEstimator):
    "An estimator that holds anything."
    def __init__(self, content=None, other=None): self.content, self.other = content, other


Point = collections.namedtuple("Point", "x y")


def key(content:Any) -> str: return identify(Box(content)).key


NAN_WITH_PAYLOAD = struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0]

# Any two of these differ, although many are equal to Python, print alike or hold the same bytes.
DIFFERENT = [
    None, "None", "", b"", (), [], {}, set(), frozenset(), "[]", "()", 0, 0.0, -0.0, False, "0", "False", 1, 1.0, True, "1", "1.0", "True", b"1", 1j, 1 + 0j, complex(0.0, -0.0), 0j,
    -1, 10**30, 1e30, float(2**53), 2**53, 2**53 + 1, math.nan, -math.nan, NAN_WITH_PAYLOAD, "nan", math.inf, -math.inf, "inf", 0.1, 0.1 + 2**-56, 5e-324,
    (1,), [1], {1}, frozenset({1}), (1.0,), [1.0], [True], ["1"], [[1]], [(1,)], [1, 2], [2, 1], [12], ["1", "2"], ["12"], ["1,2"], [["a"], ["b"]], [["a", "b"]], [["a", "b"], []], [[], ["a", "b"]],
    {1: 2}, {1.0: 2}, {True: 2}, {"1": 2}, {"1": 2.0}, {"1": {"1": 2}}, {"1": [2]}, {"1": (2,)}, {"1": None}, [("1", 2)], (("1", 2),), {("1", 2)}, {(1, 2): 3}, {(1, "2"): 3}, [(1, 2), 3],
    "a", "b", "ab", "a\0b", "a\0", "ä", "a\u0308", "\ud800", b"a", b"ab", "61", bytearray(b"a"),
    np.int64(1), np.int32(1), np.uint8(1), np.float64(1), np.float32(1), np.bool_(True), np.str_("1"), np.datetime64("2020-01-01"), np.datetime64("2020-01-01T00"), np.timedelta64(1, "D"),
    np.array(1), np.array([1]), np.array([[1]]), np.array([1], np.int32), np.array([1.0]), np.array([True]), np.array(["1"]), np.array([1], object), np.array([1.0], object), np.array([], int), np.empty((0, 2), int), np.empty((2, 0), int),
    np.array([1], ">i8"), np.array([0.0]), np.array([-0.0]), np.array([np.nan]), np.dtype("int64"), np.dtype("int32"), np.int64, np.int32, int, float, "int",
    datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1), datetime.time(1), "2020-01-01", pathlib.PurePosixPath("a"),
    decimal.Decimal("1"), decimal.Decimal("1.0"), fractions.Fraction(1), range(1), range(0, 1, 2), slice(1), slice(1, None), slice(None, 1, 1), ...,
    len, sorted, np.mean, np.sum, np.add, operator.itemgetter(1), operator.itemgetter("1"), operator.attrgetter("a"), functools.partial(sorted, reverse=True), functools.partial(sorted, reverse=1), functools.partial(max),
    lambda value: value, lambda value: value + 1, lambda value: value + 1.0, lambda value, other=1: value, lambda value, other=True: value,
    pd.Series([1]), pd.Series([1.0]), pd.Series([1], name="a"), pd.Series([1], index=[1]), pd.Series(["1"]), pd.Series([1], dtype="Int64"), pd.Series([1], dtype="category"), pd.Series([None], dtype="Int64"),
    pd.Series(["1"], dtype="category"), pd.Series(["1"], dtype=pd.CategoricalDtype(["1", "2"])), pd.Series(["1"], dtype=pd.CategoricalDtype(["1", "2"], ordered=True)), pd.Series([None], dtype=object), pd.Series([np.nan]),
    pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"b": [2], "a": [1]}), pd.DataFrame({"a": [1]}, index=["x"]), pd.DataFrame(), pd.Index([1]), pd.Index(["1"]),
    pd.Timestamp("2020-01-01"), pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta(1, "D"), pd.NA, pd.NaT,
    Box(), Box(1), Box(other=1), Box(Box(1)), Box, StandardScaler(), StandardScaler(with_mean=False), StandardScaler, SelectKBest(), SelectKBest(k=10.0), LogisticRegression(), LogisticRegression(C=1), LogisticRegression(C=True),
    [("a", StandardScaler())], (("a", StandardScaler()),), [("b", StandardScaler())], [["a", StandardScaler()]], {"a": StandardScaler()}, [("a", StandardScaler(), ["x"])], [("a", StandardScaler(), "x")], [("a", StandardScaler(), ("x",))],
]

def in_an_array(value:Any) -> np.ndarray:
    "An array of objects whose only element is the value, whatever that is."
    array = np.empty(1, dtype=object)
    array[0] = value
    return array


AROUND = {
    "alone": lambda value: value, "in a list": lambda value: [value], "in a tuple": lambda value: (1, value), "in a dict": lambda value: {"name": value}, "in a dict of pairs": lambda value: {1: value, "1": None},
    "in an estimator": lambda value: Box(other=value), "in a step": lambda value: [("name", Box(value)), ("scale", StandardScaler())], "in an array": lambda value: in_an_array(value),
    "in a partial": lambda value: functools.partial(sorted, key=value), "deep": lambda value: {"a": [({"b": Box([value])},)]},
}


@pytest.mark.parametrize("around", AROUND)
def test_no_two_of_these_are_the_same(around:str):
    "In whatever they are wrapped."
    keys = collections.defaultdict(list)
    for value in DIFFERENT: keys[key(AROUND[around](value))].append(value)
    assert [each for each in keys.values() if len(each) > 1] == []


class Names(list):
    "A list that means something of its own."
    def chosen(self): return self[0]


class OtherNames(list):
    def chosen(self): return self[-1]


OtherNames.__name__ = OtherNames.__qualname__ = "Names" # as when a class is edited: the same name, other code


def noted(note:str) -> Names:
    "A list with an attribute."
    names = Names([1])
    names.note = note
    return names


# Subclasses of containers carry something that the plain container has not; each pair behaves differently.
SUBCLASSES = {
    "mask of an array": (np.ma.masked_array([1.0, 2.0], mask=[True, False]), np.ma.masked_array([1.0, 2.0], mask=[False, True])),
    "masked or plain": (np.ma.masked_array([1.0, 2.0], mask=[True, False]), np.array([1.0, 2.0])),
    "matrix or array": (np.matrix([[1.0, 2.0]]), np.array([[1.0, 2.0]])),
    "default of a dict": (collections.defaultdict(int, a=1), collections.defaultdict(list, a=1)),
    "default or none": (collections.defaultdict(int, a=1), {"a": 1}),
    "order of an OrderedDict": (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    "bound of a deque": (collections.deque([1], 1), collections.deque([1], 2)),
    "fields of a named tuple": (Point(1, 2), collections.namedtuple("Point", "y x")(1, 2)),
    "code of a list's class": (Names([2, 1]), OtherNames([2, 1])),
    "attributes of a list": (noted("one"), noted("two")),
}


@pytest.mark.parametrize("what", SUBCLASSES)
def test_subclasses_of_containers_differ(what:str):
    one, other = SUBCLASSES[what]
    assert key(one) != key(other)


def written(value:Any) -> tuple:
    "What a value is, told by this test on its own: exact type, and content to the last bit."
    name = type(value).__qualname__
    if isinstance(value, BaseEstimator): return name, tuple((parameter, written(each)) for parameter, each in sorted(value.get_params(deep=False).items()))
    if isinstance(value, float): return name, struct.pack(">d", value)
    if isinstance(value, np.ndarray): return name, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)): return name, tuple(map(written, value))
    if isinstance(value, (set, frozenset)): return name, tuple(sorted(map(written, value), key=repr))
    if isinstance(value, dict): return name, tuple(sorted(((written(one), written(each)) for one, each in value.items()), key=repr))
    return name, value if isinstance(value, (str, bytes)) else repr(value)


numbers = st.one_of(st.booleans(), st.integers(), st.integers(-2, 2), st.floats(), st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf]))
texts = st.one_of(st.text(st.characters(exclude_categories=()), max_size=4), st.sampled_from(["1", "1.0", "True", "None", "nan", ""]))
hashables = st.one_of(st.none(), numbers, texts, st.binary(max_size=3), st.tuples(numbers, texts))
arrays = st.lists(st.integers(0, 3), max_size=4).flatmap(lambda values: st.sampled_from([np.array(values, dtype) for dtype in ("int64", "int32", "float64", "bool")]))
values = st.recursive(
    st.one_of(hashables, arrays, st.sampled_from([Box(), StandardScaler()])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(texts, inner, max_size=3), st.dictionaries(hashables, inner, max_size=3),
        st.sets(hashables, max_size=3), st.frozensets(hashables, max_size=3), st.builds(Box, inner, inner)),
    max_leaves=8)


def places(value:Any, path:tuple=()) -> list[tuple]:
    "Paths to everything inside a value that can be exchanged."
    found = [path]
    inside = enumerate(value) if isinstance(value, (list, tuple)) else value.items() if isinstance(value, dict) else value.get_params(deep=False).items() if isinstance(value, Box) else ()
    for name, each in inside: found += places(each, (*path, name))
    return found


def exchanged(value:Any, path:tuple, new:Any) -> Any:
    "The value with something else at a path; the original stays as it is."
    if not path: return new
    first, *rest = path
    if isinstance(value, Box): return Box(**{name: exchanged(each, tuple(rest), new) if name == first else each for name, each in value.get_params(deep=False).items()})
    if isinstance(value, dict): return {name: exchanged(each, tuple(rest), new) if name is first else each for name, each in value.items()}
    return type(value)(exchanged(each, tuple(rest), new) if place == first else each for place, each in enumerate(value))


ordinary = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@settings(ordinary, max_examples=400)
@given(st.data())
def test_one_difference_is_seen(data:st.DataObject):
    "Two estimators that differ in one value, at any depth, have two keys."
    one = data.draw(values)
    other = exchanged(one, data.draw(st.sampled_from(places(one))), data.draw(values))
    assert (key(one) == key(other)) == (written(one) == written(other)), (one, other)


ESTIMATORS = [LogisticRegression(), SVC(), RandomForestClassifier(), OneHotEncoder(), SelectKBest(f_classif), make_pipeline(StandardScaler(), SVC()),
              ColumnTransformer([("scaled", StandardScaler(), ["a", "b"]), ("encoded", OneHotEncoder(), ["c"])])]


@settings(ordinary, max_examples=200)
@given(st.data())
def test_one_parameter_of_a_real_estimator_is_seen(data:st.DataObject):
    "Of scikit-learn's own, at any depth."
    one = data.draw(st.sampled_from(ESTIMATORS))
    names = [name for name, value in one.get_params().items() if not hasattr(value, "get_params") and name.rpartition("__")[2] not in ("steps", "transformers", "memory")] # memory changes no result
    name, value = data.draw(st.sampled_from(names)), data.draw(hashables)
    changed = clone(one).set_params(**{name: value})
    assert (identify(one).key == identify(changed).key) == (written(one.get_params()[name]) == written(value)), (name, value)


def test_the_order_in_memory_is_seen():
    "Sums are added up in the order of memory, and their last bits depend on it."
    rows = np.arange(6.0).reshape(2, 3)
    assert identify(rows).key != identify(np.asfortranarray(rows)).key


# --- what does not differ

def rebuilt(value:Any) -> Any:
    "The same content made anew: sets and parameters the other way round, arrays in another layout."
    if isinstance(value, BaseEstimator): return type(value)(**{name: rebuilt(each) for name, each in reversed(value.get_params(deep=False).items())})
    if isinstance(value, dict): return {rebuilt(name): rebuilt(each) for name, each in value.items()}
    if isinstance(value, (set, frozenset)): return type(value)(map(rebuilt, reversed(list(value))))
    if isinstance(value, (list, tuple)): return type(value)(map(rebuilt, value))
    if isinstance(value, np.ndarray): return np.repeat(value, 2, axis=0)[::2] if value.ndim else value.copy()
    if isinstance(value, (str, bytes)): return (value + value)[:len(value)]
    return struct.unpack(">d", struct.pack(">d", value))[0] if type(value) is float else value


@settings(ordinary, max_examples=250)
@given(values)
def test_equal_content_has_one_key(value:Any):
    "Built separately, permuted, copied, cloned and pickled."
    made = [Box(value), Box(rebuilt(value)), copy.deepcopy(Box(value)), clone(Box(value)), pickle.loads(pickle.dumps(Box(value)))]
    assert len({identify(each).key for each in made}) == 1


FRAME = pd.DataFrame({"number": [1.5, None, 3.0], "text": ["a", None, "c"], "kind": pd.Categorical(["x", "y", "x"]), "when": pd.to_datetime(["2020", "2021", None]), "whole": pd.array([1, None, 3], "Int64")})

SAME = {
    "stride": (np.array([0, 2, 4]), np.arange(6)[::2]),
    "index of a frame": (FRAME, FRAME.set_index(pd.Index([0, 1, 2]))),
    "slice of a frame": (FRAME, pd.concat([FRAME, FRAME]).iloc[:3]),
    "pickled frame": (FRAME, pickle.loads(pickle.dumps(FRAME))),
    "pickled pipeline": (ESTIMATORS[-2], pickle.loads(pickle.dumps(ESTIMATORS[-2]))),
    "cloned columns": (ESTIMATORS[-1], clone(ESTIMATORS[-1])),
    "generator in one state": (np.random.RandomState(3), np.random.RandomState(3)),
    "lambda written twice": ([lambda value: value + 1, lambda value: value + 1][0], [lambda value: value + 1, lambda value: value + 1][1]),
}


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_count(what:str):
    one, other = SAME[what]
    assert key(one) == key(other)


def test_key_survives_pickling_to_another_process(tmp_path:Path, python:Callable):
    "A key of a fresh process, of an estimator that came there as bytes."
    (tmp_path / "estimator.pkl").write_bytes(pickle.dumps(ESTIMATORS[-1]))
    found = python(f"import pickle; from ml_pkg.identity import identify; print(identify(pickle.load(open({str(tmp_path / 'estimator.pkl')!r}, 'rb'))).key)")
    assert found == identify(ESTIMATORS[-1]).key
