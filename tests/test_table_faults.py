"""Tables that are not as they were at training: answered as they should be, or refused by column and row, or by line."""

import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ml_pkg import CSV, Dataset, Evaluation, Experiment
from ml_pkg.errors import InvalidData, InvalidInput, MlPkgError
from ml_pkg.model import Model, UnusualInput
from ml_pkg.monitor import Monitor
from ml_pkg.prediction import predict_file

def houses(count:int=120) -> pd.DataFrame:
    "Rows with a column of each kind."
    drawn = np.random.default_rng(0)
    rows = pd.DataFrame({
        "rooms": drawn.integers(1, 9, count), "area": drawn.gamma(9.0, 9.0, count).round(2), "garden": drawn.random(count) < 0.5, "street": drawn.choice(["Elm", "Oak", "Ash"], count),
        "energy": pd.Categorical(drawn.choice(["A", "B"], count)), "sold": pd.Timestamp("2026-01-01") + pd.to_timedelta(drawn.integers(0, 10**6, count), unit="s")})
    return rows.assign(dear=np.where(rows["area"] > 80, "yes", "no"))


COLUMNS = ["rooms", "area", "garden", "street", "energy", "sold"]


@pytest.fixture(scope="module")
def model(tmp_path_factory:pytest.TempPathFactory) -> Iterator[Model]:
    "One that takes missing values and unseen categories, with its reference profile."
    columns = ColumnTransformer([("numbers", SimpleImputer(), ["rooms", "area", "garden"]), ("words", OneHotEncoder(handle_unknown="ignore"), ["street", "energy"])])
    with warnings.catch_warnings(action="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ML_PKG_WORKSPACE", str(tmp_path_factory.mktemp("workspace")))
        yield Experiment("houses", Dataset(houses(), target="dear"), make_pipeline(columns, LogisticRegression(max_iter=1000)), Evaluation(2, ["accuracy"])).fit()


ROWS = houses()[COLUMNS].iloc[:9]


def bits(model:Model, rows:Any) -> bytes:
    with warnings.catch_warnings(action="ignore", category=UnusualInput): return model.predict_proba(rows).to_numpy().tobytes()


def test_columns_in_every_order(model:Model, attempts:Callable):
    expected = bits(model, ROWS)
    for order in itertools.permutations(COLUMNS):
        assert bits(model, ROWS[list(order)]) == expected
        attempts(1)


def test_columns_that_are_missing_or_there_twice(model:Model, attempts:Callable):
    for name in COLUMNS:
        with pytest.raises(InvalidInput, match=f"column '{name}' is missing"): model.predict(ROWS.drop(columns=name))
        with pytest.raises(InvalidInput, match=f"column '{name}' is there 2 times"): model.predict(pd.concat([ROWS, ROWS[[name]]], axis=1))
        attempts(2)


CASTS:dict[str, tuple[str, Callable[[pd.Series], Any]]] = { # what is given -> column, and how
    **{f"rooms as {dtype}": ("rooms", lambda values, dtype=dtype: values.astype(dtype)) for dtype in ("int8", "uint64", "float32", "float64", "Int64", "Int8", "Float64", "int64[pyarrow]", "double[pyarrow]", "str", "object", "category", "string")},
    **{f"area as {dtype}": ("area", lambda values, dtype=dtype: values.astype(dtype)) for dtype in ("Float64", "double[pyarrow]", "object", "category")},
    "area as text": ("area", lambda values: values.map(repr)), "area as text in a category": ("area", lambda values: values.map(repr).astype("category")), "area as numpy's numbers": ("area", lambda values: pd.Series([np.float64(value) for value in values], dtype=object)),
    **{f"garden as {dtype}": ("garden", lambda values, dtype=dtype: values.astype(dtype)) for dtype in ("int64", "float64", "boolean", "object", "bool[pyarrow]", "category")},
    **{f"street as {dtype}": ("street", lambda values, dtype=dtype: values.astype(dtype)) for dtype in ("object", "category", "string", "string[pyarrow]")},
    **{f"energy as {dtype}": ("energy", lambda values, dtype=dtype: values.astype(dtype)) for dtype in ("object", "str", "string[pyarrow]")}, "energy in another order": ("energy", lambda values: values.cat.reorder_categories(["B", "A"])), "energy with more categories": ("energy", lambda values: values.cat.add_categories(["Z"])),
    **{f"sold as {unit}": ("sold", lambda values, unit=unit: values.dt.as_unit(unit)) for unit in ("s", "ms", "us", "ns")}, "sold as text": ("sold", lambda values: values.map(str)), "sold as objects": ("sold", lambda values: pd.Series(values.dt.to_pydatetime(), dtype=object)),
}

LOSSY:dict[str, tuple[str, Any, int]] = { # what is given -> column, values, the first row that is wrong
    "half a room": ("rooms", [3, 3.5, 3], 1), "a word for rooms": ("rooms", ["3", "4", "many"], 2), "2**63 rooms": ("rooms", pd.Series([3, 2**63, 3], dtype=object), 1), "unsigned rooms beyond": ("rooms", np.array([1, 2, 2**64 - 1], "uint64"), 2), "rooms as times": ("rooms", pd.to_datetime(["2026-01-01"] * 3), 0), "rooms in infinity": ("rooms", [1.0, math.inf, 2.0], 1),
    "area in words": ("area", ["70.5", "wide", "3"], 1), "area as lists": ("area", [[1.0], [2.0], [3.0]], 0), "area as complex": ("area", [1j, 2j, 3j], 0), "NaN as text": ("area", ["1.5", "NaN", "2"], 1), "1e999 as text": ("area", ["1.5", "2", "1e999"], 2), "a whole number that is no double": ("area", pd.Series([2**53 + 1, 1, 2], dtype=object), 0),
    "two for a garden": ("garden", [0, 1, 2], 2), "yes for a garden": ("garden", [True, "yes", False], 1), "numbers as a street": ("street", ["Elm", 5, "Oak"], 1), "half a pair": ("street", pd.Series(["Elm", "\ud800", "Oak"], dtype=object), 1), "bytes as a street": ("street", [b"Elm", b"Oak", b"Ash"], 0), "numbers as a category": ("energy", ["A", "B", 1], 2),
    "times with a zone": ("sold", pd.to_datetime(["2026-01-01"] * 3).tz_localize("Europe/Vienna"), 0), "text with an offset": ("sold", ["2026-01-01", "2026-01-01T00:00+01:00", "2026-01-01"], 1), "no time": ("sold", ["2026-01-01", "2026-01-02", "soon"], 2), "seconds for a time": ("sold", [1_700_000_000] * 3, 0), "the 30th of February": ("sold", ["2026-01-01", "2026-02-30", "2026-01-01"], 1),
}


def test_other_types_are_cast(model:Model, attempts:Callable):
    "Without a loss: the same bits as of the training types."
    expected = bits(model, ROWS)
    for what, (name, cast) in CASTS.items():
        assert bits(model, ROWS.assign(**{name: cast(ROWS[name])})) == expected, what
        attempts(1)


def test_what_would_lose_something_is_refused(model:Model, attempts:Callable):
    "By column and row."
    for what, (name, values, row) in LOSSY.items():
        with pytest.raises(InvalidInput, match=f"column '{name}', row {row}: ") as refused: model.predict(ROWS.iloc[:3].assign(**{name: values if isinstance(values, pd.Series) else pd.Series(values)}))
        assert len(str(refused.value)) < 1_000, what
        attempts(1)


AWKWARD = ["", " ", "\t", "\0", "a\nb", "'", '"', "\\", "=cmd()", "<script>", "null", "NaN", "None", "nan", "1e999", "é", "e\u0301", "\u202e", "🌷", "\U0010ffff", "\ufeff", "x" * 100_000, "%s", "{0}", "'; DROP TABLE runs; --"]


def test_values_that_were_never_seen(model:Model, attempts:Callable):
    "A finite answer, and a count of what was unusual; also of a monitor."
    def counted(rows:pd.DataFrame) -> Counter:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = model.predict_proba(rows)
        assert np.isfinite(found.to_numpy()).all() and len(found) == len(rows) and model.predict(rows).isin(["yes", "no"]).all()
        attempts(1)
        kinds = {"missing": "missing", "values": "unseen", "numbers": "beyond"}
        return Counter({f"{name} {kinds[each.message.what.split()[0]]}": count for each in said if isinstance(each.message, UnusualInput) for name, count in each.message.counts.items()})
    with warnings.catch_warnings(action="ignore", category=UnusualInput):
        for text in AWKWARD:
            for name in ("street", "energy"): assert counted(ROWS.assign(**{name: pd.Series([text] * len(ROWS), dtype=object)})) == {f"{name} unseen": len(ROWS)}, text[:20]
        for name in COLUMNS: assert counted(ROWS.assign(**{name: None})) == {f"{name} missing": len(ROWS)}
        assert counted(ROWS.assign(**dict.fromkeys(COLUMNS))) == {f"{name} missing": len(ROWS) for name in COLUMNS}
        for rows in (ROWS[:0], ROWS[:1], ROWS.assign(area=-0.0), ROWS.assign(area=5e-324)): assert not counted(rows)
        for name, number in (("area", 1e308), ("area", -1e9), ("rooms", 2**63 - 1)): assert counted(ROWS.assign(**{name: number})) == {f"{name} beyond": len(ROWS)}
    monitor = Monitor(model)
    report = monitor.check(houses(600).drop(columns="dear").assign(street="🌷", area=None))
    faults = {(fault.column, fault.kind) for fault in report.check.faults}
    assert {("street", "unseen"), ("area", "missing")} <= faults, faults
    attempts(2)


def test_infinity_is_refused_by_name(model:Model, attempts:Callable):
    for value in (math.inf, -math.inf):
        with pytest.raises(InvalidInput, match="column 'area', row 4: the value is infinite"): model.predict(ROWS.assign(area=ROWS["area"].where(ROWS.index != 4, value)))
        attempts(1)


# text

HEAD = "rooms,area,garden,street,energy,sold\n"
GOOD = "3,70.5,True,Elm,A,2026-01-02\n"

PARSED:dict[str, bytes] = {
    "as it is": (HEAD + GOOD * 3).encode(), "a byte order mark": b"\xef\xbb\xbf" + (HEAD + GOOD * 3).encode(), "CRLF": (HEAD + GOOD * 3).replace("\n", "\r\n").encode(), "no end of the last line": (HEAD + GOOD * 3).encode()[:-1], "everything in quotes": "".join('"' + '","'.join(line.split(",")) + '"\n' for line in (HEAD + GOOD * 3).split("\n")[:-1]).encode(),
    "a column more": "".join(f"note,{line}\n" if line.startswith("rooms") else f'"a ""b"", c\nd",{line}\n' for line in (HEAD + GOOD * 3).split("\n")[:-1]).encode(), "empty lines": (HEAD + "\n" + GOOD + "\n\n" + GOOD * 2).encode(),
}
UNPARSED:dict[str, tuple[bytes, str]] = { # what -> content, what the error says
    "a field too many": ((HEAD + GOOD + GOOD[:-1] + ",1\n" + GOOD).encode(), "line 3"), "a field too many in the first row": ((HEAD + GOOD[:-1] + ",1\n" + GOOD * 2).encode(), "well-formed"), "a quote that does not end": ((HEAD + GOOD + '3,70.5,True,"Elm,A,2026-01-02\n' + GOOD).encode(), "row 2|line 3"),
    "Latin-1": ((HEAD + GOOD + GOOD.replace("Elm", "Genève") + GOOD).encode("latin-1"), "line 3"), "UTF-16": ((HEAD + GOOD).encode("utf-16"), "line 1"), "a NUL among numbers": ((HEAD + GOOD + GOOD.replace("70.5", "70\0.5") + GOOD).encode(), "row 1|line 3"), "text among numbers": ((HEAD + GOOD + GOOD.replace("70.5", "wide") + GOOD).encode(), "column 'area', row 1: 'wide'"),
    "nothing": (b"", "is empty"), "a name twice": ((HEAD[:-1] + ",area\n" + GOOD).encode(), "the column 'area' 2 times"), "another separator": ((HEAD + GOOD * 3).replace(",", ";").encode(), "seem to be separated by ';'"),
}


def test_csv_that_is_parsed(model:Model, tmp_path:Path, attempts:Callable):
    with warnings.catch_warnings(action="ignore", category=UnusualInput):
        for what, content in PARSED.items():
            (tmp_path / "in.csv").write_bytes(content)
            assert predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv", probabilities=True) == 3, what
            found = pd.read_csv(tmp_path / "out.csv", float_precision="round_trip")
            assert found["probability yes"].tolist() == [model.predict_proba({"rooms": 3, "area": 70.5, "garden": True, "street": "Elm", "energy": "A", "sold": "2026-01-02"})["yes"].iloc[0]] * 3, what
            attempts(1)
        (tmp_path / "in.csv").write_text(HEAD + GOOD + "3,70.5\n" + GOOD) # what is cut off is missing
        with pytest.warns(UnusualInput, match="missing values, where training had none: garden"): predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv")
        attempts(1)


def test_csv_that_is_refused(model:Model, tmp_path:Path, attempts:Callable):
    "By line, or by column and row; and nothing is written."
    for what, (content, says) in UNPARSED.items():
        (tmp_path / "in.csv").write_bytes(content)
        with pytest.raises(MlPkgError) as refused, warnings.catch_warnings(action="ignore", category=UnusualInput): predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv")
        assert isinstance(refused.value, (InvalidData, InvalidInput)) and re.search(says, str(refused.value)), (what, str(refused.value))
        assert not (tmp_path / "out.csv").exists()
        attempts(1)


FORMULAS = ["=cmd|' /C calc'!A0", "+1+cmd()", "-2+3+cmd()", "@SUM(A1)", "\t=1+1", "\r=1+1", "=a\rb"]


def test_text_becomes_no_formula(model:Model, tmp_path:Path, attempts:Callable):
    "What is written beside predictions for a spreadsheet; numbers, signs and other text stay as they are, and in Parquet everything does."
    kept = [*FORMULAS, "-1.5", "+43", "-", "+", "a=1", "", "é"]
    pd.DataFrame({"note": kept}).assign(**{name: ROWS[name].iloc[0] for name in COLUMNS}).to_parquet(tmp_path / "in.parquet")
    for target in ("out.csv", "out.tsv", "out.parquet"): predict_file(model, tmp_path / "in.parquet", tmp_path / target, keep=["note"])
    for target, separator in (("out.csv", ","), ("out.tsv", "\t")):
        found = pd.read_csv(tmp_path / target, sep=separator, dtype=str, keep_default_na=False)["note"].tolist()
        assert found == [*(f"'{text}" for text in FORMULAS), *kept[len(FORMULAS):]]
        attempts(len(FORMULAS))
    assert pd.read_parquet(tmp_path / "out.parquet")["note"].tolist() == kept


# --- codes that look like numbers

CODED = """
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from ml_pkg import CSV, Dataset, Evaluation, Experiment
columns = ColumnTransformer([("codes", OneHotEncoder(handle_unknown="ignore"), ["postcode"])], remainder="passthrough")
coded = Experiment("coded", Dataset(CSV("coded.csv", text=["postcode"]), target="dear"), make_pipeline(columns, LogisticRegression(max_iter=1000)), Evaluation(2, ["accuracy"]))
"""


def test_codes_stay_text_from_the_declaration_to_the_prediction(command:Callable, project:Path):
    drawn = np.random.default_rng(0)
    rows = pd.DataFrame({"postcode": drawn.choice(["01288", "04103", "80331"], 120), "rooms": drawn.integers(1, 9, 120)})
    rows.assign(dear=np.where(rows["postcode"] == "80331", "yes", "no")).to_csv(project / "coded.csv", index=False)
    (project / "coded.py").write_text(CODED)
    trained = command("train", "coded:coded")
    assert trained.returncode == 0, trained.stderr
    pd.DataFrame({"postcode": ["01288", "80331", "80331", "1288"], "rooms": [3, 3, 4, 3]}).to_csv(project / "new.csv", index=False)
    done = command("predict", "coded", "new.csv", "-o", "answers.csv", "--keep", "postcode")
    assert done.returncode == 0, done.stderr
    assert "did not have: postcode (1)" in done.stderr # 01288 is known by its zero, and 1288 is none
    answers = pd.read_csv(project / "answers.csv", dtype="str")
    assert answers["dear"].tolist() [:3] == ["no", "yes", "yes"] and answers["postcode"].tolist() == ["01288", "80331", "80331", "1288"]


def test_the_key_of_codes_is_that_of_their_text(tmp_path:Path, monkeypatch:pytest.MonkeyPatch):
    monkeypatch.setenv("ML_PKG_WORKSPACE", str(tmp_path / "workspace"))
    (tmp_path / "a.csv").write_text("postcode,dear\n01288,no\n80331,yes\n")
    by_text, by_number = Dataset(CSV(tmp_path / "a.csv", text="postcode"), target="dear"), Dataset(tmp_path / "a.csv", target="dear")
    by_text.rows.to_parquet(tmp_path / "a.parquet")
    assert by_text.fingerprint == Dataset(tmp_path / "a.parquet", target="dear").fingerprint != by_number.fingerprint
    assert [column.kind for column in by_text.schema.columns] == ["text"]
