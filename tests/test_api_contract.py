"""What `ml_pkg serve` answers is what its description says: to generated requests, to hostile bodies, to paths that lead elsewhere, and to a client of the Open Inference Protocol that others wrote.

ML_PKG_CASES asks for more generated requests than are tried each time.
"""

import gzip
import http.client
import json
import os
import re
import site
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import PACKAGE, serving

from ml_pkg.model import Model

pytestmark = pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "orjson", "httptools", "prometheus_client"])), reason="what a server needs is not installed: pip install 'ml_pkg[serve]'")

CASES = int(os.environ.get("ML_PKG_CASES", 300))
SECRET = "a line that no answer may have"

VISITS = '''
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ml_pkg import Dataset, Evaluation, Experiment

drawn, count = np.random.default_rng(0), 120
rows = pd.DataFrame({
    "pages": drawn.integers(1, 40, count), "seconds": drawn.gamma(2.0, 60.0, count).round(2), "returning": drawn.random(count) < 0.5,
    "city": drawn.choice(["Bern", "Genève", "Zürich"], count), "device": pd.Categorical(drawn.choice(["desktop", "phone"], count)),
    "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(drawn.integers(0, 10**6, count), unit="s")})
rows["bought"] = np.where(rows["seconds"] > 110, "yes", "no")
told = ColumnTransformer([("numbers", SimpleImputer(), ["pages", "seconds", "returning"]), ("words", OneHotEncoder(handle_unknown="ignore"), ["city", "device"])])
visits = Experiment("visits", Dataset(rows, target="bought"), make_pipeline(told, LogisticRegression(max_iter=1000)), Evaluation(cv=2, metrics=["accuracy"]))
visits.run().model.save("visits.mlpkg")
''' # a column of each kind


class Visits(NamedTuple):
    "A server of a model that has a column of each kind."
    port: int
    model: Model
    private: tuple[str, ...] # what no answer may tell: folders of this machine, and what is in a file beside the model

    def ask(self, method:str, path:str, body:bytes|Iterable[bytes]|None=None, **headers:str) -> "Answer":
        "One request over a connection of its own, whose path is sent as it is; a body in parts is sent in chunks."
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}, encode_chunked=body is not None and not isinstance(body, bytes))
            found = connection.getresponse()
            return Answer(found.status, found.getheader("content-type", ""), found.read())
        finally: connection.close()


class Answer(NamedTuple):
    status: int
    type: str
    content: bytes


@pytest.fixture(scope="module")
def visits(tmp_path_factory:pytest.TempPathFactory) -> Iterator[Visits]:
    folder = tmp_path_factory.mktemp("visits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ML_PKG_WORKSPACE", str(folder / "workspace"))
        patch.setenv("PYTHONPATH", str(PACKAGE.parent))
        patch.setenv("OMP_NUM_THREADS", "1")
        made = subprocess.run([sys.executable, "-c", VISITS], cwd=folder, capture_output=True, text=True, timeout=120)
        assert made.returncode == 0, made.stderr
        (folder / "secret.txt").write_text(SECRET)
        with serving(folder, "visits.mlpkg") as server:
            yield Visits(server.port, Model.load(folder / "visits.mlpkg"), (SECRET, "root:", str(folder), str(PACKAGE), *site.getsitepackages(), str(Path.home())))
            assert server.ends() == 0
    assert "Traceback" not in (errors := (folder / "stderr.txt").read_text()), errors


def assert_tells_nothing(answer:Answer, private:Iterable[str]) -> None:
    said = answer.content.decode()
    assert not re.search(r"Traceback|File \\?\"|\.py\b|site-packages", said), said
    assert not [each for each in private if each in said], said


def assert_refused(visits:Visits, answer:Answer, status:int|None=None, field:str|None=None) -> None:
    "An error as all errors are told, that names the field and gives nothing away."
    assert 400 <= answer.status < 500 and answer.type == "application/json", answer
    assert_tells_nothing(answer, visits.private)
    assert len(answer.content) < 50_000, f"{len(answer.content):,} bytes say what is wrong"
    document = json.loads(answer.content)
    assert set(document) == {"error"} and set(document["error"]) == {"status", "message", "field"} and document["error"]["message"], answer
    assert (document["error"]["status"], document["error"]["field"]) == (answer.status, field), answer
    assert status in (None, answer.status), answer


# generated requests

def _operations(visits:Visits) -> dict[str, Any]:
    schemathesis = pytest.importorskip("schemathesis")
    found = schemathesis.openapi.from_url(f"http://127.0.0.1:{visits.port}/openapi.json")
    return {operation.label: operation for operation in (each.ok() for each in found.get_all_operations())}


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("label", ["POST /predict", "POST /feedback"])
def test_answers_are_as_described(visits:Visits, label:str, mode:str, attempts:Callable):
    "To requests that fit the description, and to such that do not."
    seen = _try(_operations(visits)[label], mode, CASES // 4)
    print(f"{label}, {mode}: {seen.total():,} requests, by status: {dict(seen)}")
    assert seen.total() >= CASES // 4 and (seen[200] if mode == "positive" else seen[400] + seen[422]) > 0
    attempts(seen.total())


def test_everything_is_described(visits:Visits):
    "Addresses without a body have one request that fits."
    operations = _operations(visits)
    assert list(operations) == ["POST /predict", "POST /feedback", "GET /model", "GET /health", "GET /ready"]
    for label, operation in operations.items():
        if label.startswith("GET"): assert set(_try(operation, "positive", 1)) == {200}


def _try(operation:Any, mode:str, count:int) -> Counter:
    "Send the same requests each time, and check each answer. Gives how many there were, by status."
    import requests
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as described
    checks = [not_a_server_error, described.status_code_conformance, described.content_type_conformance, described.response_headers_conformance, described.response_schema_conformance]
    seen, session = Counter(), requests.Session()
    @settings(max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def sent(case:Any) -> None:
        response = case.call(session=session)
        seen[response.status_code] += 1
        case.validate_response(response, checks=checks)
    sent()
    return seen


# hostile bodies

CELLS = {"pages": "15", "seconds": "110.06", "returning": "true", "city": '"Bern"', "device": '"phone"', "at": '"2026-01-09 14:31:56"'}


def row(**cells:str) -> str:
    "A good row as it is sent, with some cells that are written otherwise."
    return "{" + ", ".join(f'"{name}": {written}' for name, written in {**CELLS, **cells}.items()) + "}"


def rows(*written:str) -> bytes: return f'{{"rows": [{", ".join(written)}]}}'.encode("utf-8", "surrogatepass")
def cell(**cells:str) -> bytes: return rows(row(**cells))
def without(*names:str) -> str: return "{" + ", ".join(f'"{name}": {written}' for name, written in CELLS.items() if name not in names) + "}"


DEEP, DIGITS, HUGE = 100_000, "7" * 5_000, "ü" * 300_000
HOSTILE:dict[str, tuple[bytes, int, str|None]] = { # what -> body, status, field
    "NaN": (cell(seconds="NaN"), 422, "rows[0].seconds"),
    "NaN as text": (cell(seconds='"NaN"'), 422, "rows[0].seconds"),
    "Infinity": (cell(seconds="Infinity"), 422, "rows[0].seconds"),
    "-Infinity": (cell(seconds="-Infinity"), 422, "rows[0].seconds"),
    "Infinity as text": (cell(seconds='"Infinity"'), 422, "rows[0].seconds"),
    "nan in small letters": (cell(seconds="nan"), 400, None),
    "1e999": (cell(seconds="1e999"), 422, "rows[0].seconds"),
    "-1e999": (cell(seconds="-1e999"), 422, "rows[0].seconds"),
    "1e999 as text": (cell(seconds='"1e999"'), 422, "rows[0].seconds"),
    "1e999 among whole numbers": (cell(pages="1e999"), 422, "rows[0].pages"),
    "5,000 digits": (cell(pages=DIGITS), 422, "rows[0].pages"),
    "5,000 digits among numbers": (cell(seconds=f"-{DIGITS}"), 422, "rows[0].seconds"),
    "5,000 digits as text": (cell(pages=f'"{DIGITS}"'), 422, "rows[0].pages"),
    "a whole number of 65 bits": (cell(pages=str(2**64)), 422, "rows[0].pages"),
    "a whole number that is no double": (cell(seconds=str(2**53 + 1)), 422, "rows[0].seconds"),
    "a leading zero": (cell(pages="007"), 400, None),
    "hexadecimal": (cell(pages="0x0f"), 400, None),
    "half a page": (cell(pages="15.5"), 422, "rows[0].pages"),
    "lists in lists": (b"[" * DEEP + b"]" * DEEP, 422, None),
    "lists in lists that do not end": (b"[" * DEEP, 422, None),
    "objects in objects": (b'{"rows":' * DEEP + b"1" + b"}" * DEEP, 422, None),
    "lists in a cell": (cell(seconds="[" * DEEP + "]" * DEEP), 422, None),
    "2,000 lists in a cell": (cell(seconds="[" * 2_000 + "]" * 2_000), 422, None),
    "a key twice, alike": (rows(row()[:-1] + ', "pages": 15}'), 422, "rows[0].pages"),
    "a key twice, otherwise": (rows(row()[:-1] + ', "pages": 16}'), 422, "rows[0].pages"),
    "a key twice, once escaped": (rows(row()[:-1] + r', "p\u0061ges": 16}'), 422, "rows[0].pages"),
    "a key twice in the second row": (rows(row(), row()[:-1] + ', "city": "Bern"}'), 422, "rows[1].city"),
    "a key twice that is no column": (rows(row()[:-1] + ', "note": 1, "note": 2}'), 422, "rows[0].note"),
    "rows twice": (f'{{"rows": [{row()}], "rows": [{row()}]}}'.encode(), 422, "rows"),
    "rows twice, once escaped": (rf'{{"rows": [{row()}], "\u0072ows": []}}'.encode(), 422, "rows"),
    "half a pair": (cell(city=r'"\ud800"'), 422, "rows[0].city"),
    "the other half": (cell(city=r'"Bern\udc00"'), 422, "rows[0].city"),
    "half a pair as bytes": (cell(city='"\ud800"'), 400, None),
    "half a pair in a category": (cell(device=r'"\ud83d"'), 422, "rows[0].device"),
    "a NUL among numbers": (cell(pages=r'"\u0000"'), 422, "rows[0].pages"),
    "a bare NUL in a text": (cell(city='"\0"'), 400, None),
    "only NULs": (b"\0" * 100, 400, None),
    "a byte order mark": (b"\xef\xbb\xbf" + cell(), 400, None),
    "UTF-16": (cell().decode().encode("utf-16"), 400, None),
    "UTF-32": (cell().decode().encode("utf-32"), 400, None),
    "no UTF-8": (cell().replace(b"Bern", b"Gen\xe8ve"), 400, None),
    "UTF-8 of two bytes for one": (cell().replace(b"Bern", b"\xc0\xaf"), 400, None),
    "nothing": (b"", 400, None),
    "white space": (b" \r\n\t " * 100, 400, None),
    "null": (b"null", 422, None),
    "true": (b"true", 422, None),
    "a number": (b"1", 422, None),
    "a list": (b"[]", 422, None),
    "a text": (b'"rows"', 422, None),
    "an object with nothing": (b"{}", 422, "rows"),
    "rows misspelt": (f'{{"row": [{row()}]}}'.encode(), 422, "rows"),
    "rows: null": (b'{"rows": null}', 422, "rows"),
    "rows: a text": (b'{"rows": "rows"}', 422, "rows"),
    "rows: an object": (f'{{"rows": {row()}}}'.encode(), 422, "rows"),
    "numbers as rows": (rows("1", "2"), 422, "rows[0]"),
    "null as a row": (rows(row(), "null"), 422, "rows[1]"),
    "lists as rows": (rows("[15, 110.06]"), 422, "rows[0]"),
    "rows in rows": (rows(f"[{row()}]"), 422, "rows[0]"),
    "a text as a row": (rows('"pages"'), 422, "rows[0]"),
    "a row with nothing": (rows("{}"), 422, "rows[0].pages"),
    "a column missing": (rows(without("seconds")), 422, "rows[0].seconds"),
    "a column missing in the third row": (rows(row(), row(), without("at")), 422, "rows[2].at"),
    "a column misspelt": (rows(row().replace("seconds", "secconds")), 422, "rows[0].seconds"),
    "a column in capitals": (rows(row().replace("city", "CITY")), 422, "rows[0].city"),
    "an object in a cell": (cell(seconds='{"value": 1}'), 422, "rows[0].seconds"),
    "a list in a cell": (cell(pages="[15]"), 422, "rows[0].pages"),
    "a list in a text": (cell(city='["Bern"]'), 422, "rows[0].city"),
    "a huge text among numbers": (cell(seconds=f'"{HUGE}"'), 422, "rows[0].seconds"),
    "a huge text as a time": (cell(at=f'"{HUGE}"'), 422, "rows[0].at"),
    "a huge key in place of a column": (rows(without("city")[:-1] + f', "{HUGE}": 1}}'), 422, "rows[0].city"),
    "a huge key that is wrong": (rows(without()[:-1] + f', "{HUGE}": NaN}}'), 422, f"rows[0].{HUGE[:992]} … {HUGE[:1000]}"),
    "a text among whole numbers": (cell(pages='"many"'), 422, "rows[0].pages"),
    "an empty text among numbers": (cell(seconds='""'), 422, "rows[0].seconds"),
    "digits with an underscore": (cell(pages='"1_5"'), 422, "rows[0].pages"),
    "a number among texts": (cell(city="3000"), 422, "rows[0].city"),
    "true among texts": (cell(city="true"), 422, "rows[0].city"),
    "a number among categories": (cell(device="1"), 422, "rows[0].device"),
    "a text among truths": (cell(returning='"true"'), 422, "rows[0].returning"),
    "two among truths": (cell(returning="2"), 422, "rows[0].returning"),
    "a time that is none": (cell(at='"soon"'), 422, "rows[0].at"),
    "the 30th of February": (cell(at='"2026-02-30"'), 422, "rows[0].at"),
    "a time with a zone": (cell(at='"2026-01-09T14:31:56+01:00"'), 422, "rows[0].at"),
    "a time as a number": (cell(at="1767225600"), 422, "rows[0].at"),
    "a time beyond the calendar": (cell(at='"999999-01-01"'), 422, "rows[0].at"),
    "Python's None": (cell(city="None"), 400, None),
    "single quotes": (cell().replace(b'"', b"'"), 400, None),
    "a comma too many": (cell()[:-2] + b",]}", 400, None),
    "half a body": (cell()[:-20], 400, None),
    "two documents": (cell() + cell(), 400, None),
    "a comment": (b"// rows\n" + cell(), 400, None),
    "a form": (b"rows=1&pages=15", 400, None),
    "XML": (b"<?xml version='1.0'?><!DOCTYPE r [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><r>&e;</r>", 400, None),
    "a pickle": (b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", 400, None),
    "gzip": (gzip.compress(cell()), 400, None),
    "10,001 rows": (rows(*["{}"] * 10_001), 413, "rows"),
    "a body over the limit": (cell(city=f'"{"x" * 1_000_000}"'), 413, None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bodies_are_refused(visits:Visits, what:str):
    body, status, field = HOSTILE[what]
    assert_refused(visits, visits.ask("POST", "/predict", body, content_type="application/json"), status, field)


def test_the_row_that_hostile_ones_are_made_from_is_good(visits:Visits):
    "Also in chunks, and whatever the body is called."
    for body, type in ((cell(), "application/json"), (iter([cell()[:30], cell()[30:]]), "application/json"), (cell(), "nonsense")):
        answer = visits.ask("POST", "/predict", body, content_type=type)
        assert (answer.status, json.loads(answer.content)["predictions"][0]["prediction"]) == (200, visits.model.predict([json.loads(row())]).iloc[0])


WRAPPED:dict[str, tuple[Any, int, str|None, dict[str, str]]] = { # what -> body, status, field, headers
    "gzip that is said": (gzip.compress(cell()), 400, None, {"content_encoding": "gzip"}),
    "a form that is said": (b"rows=1", 400, None, {"content_type": "application/x-www-form-urlencoded"}),
    "parts of a form": (b'--x\r\ncontent-disposition: form-data; name="rows"; filename="../../etc/passwd"\r\n\r\n1\r\n--x--\r\n', 400, None, {"content_type": "multipart/form-data; boundary=x"}),
    "a type that is none": (b"rows", 400, None, {"content_type": "//;;=\xff"}),
    "no body at all": (None, 400, None, {}),
    "chunks of which one is wrong": ([cell(seconds="NaN")[:40], cell(seconds="NaN")[40:]], 422, "rows[0].seconds", {}),
    "chunks without an end": ([b" " * 100_000] * 11, 413, None, {}),
}


@pytest.mark.parametrize("what", WRAPPED)
def test_hostile_wrappings_are_refused(visits:Visits, what:str):
    body, status, field, headers = WRAPPED[what]
    assert_refused(visits, visits.ask("POST", "/predict", iter(body) if isinstance(body, list) else body, **headers), status, field)


def labels(*written:str) -> bytes: return f'{{"feedback": [{", ".join(written)}]}}'.encode("utf-8", "surrogatepass")


FEEDBACK:dict[str, tuple[bytes, int, str|None]] = {
    "nothing": (b"", 400, None),
    "null": (b"null", 422, "feedback"),
    "an object": (b'{"feedback": {}}', 422, "feedback"),
    "numbers": (labels("1"), 422, "feedback[0]"),
    "no id": (labels('{"label": 1}'), 422, "feedback[0].id"),
    "no label": (labels('{"id": "a-1", "label": 1}', '{"id": "a-1"}'), 422, "feedback[1].label"),
    "an empty id": (labels('{"id": "", "label": 1}'), 422, "feedback[0].id"),
    "a long id": (labels(f'{{"id": "{"x" * 201}", "label": 1}}'), 422, "feedback[0].id"),
    "a number as an id": (labels('{"id": 1, "label": 1}'), 422, "feedback[0].id"),
    "half a pair as an id": (labels(r'{"id": "\ud800", "label": 1}'), 422, "feedback[0].id"),
    "NaN": (labels('{"id": "a-1", "label": NaN}'), 422, "feedback[0].label"),
    "1e999": (labels('{"id": "a-1", "label": 1e999}'), 422, "feedback[0].label"),
    "5,000 digits": (labels(f'{{"id": "a-1", "label": {DIGITS}}}'), 422, "feedback[0].label"),
    "a list as a label": (labels('{"id": "a-1", "label": []}'), 422, "feedback[0].label"),
    "two labels": (labels('{"id": "a-1", "label": 1, "label": 2}'), 422, "feedback[0].label"),
    "half a pair": (labels(r'{"id": "a-1", "label": "\udfff"}'), 422, "feedback[0].label"),
    "lists in lists": (b'{"feedback": ' + b"[" * DEEP + b"]" * DEEP + b"}", 422, None),
    "10,001 labels": (labels(*['{"id": "a-1", "label": 1}'] * 10_001), 413, "feedback"),
}


@pytest.mark.parametrize("what", FEEDBACK)
def test_hostile_feedback_is_refused(visits:Visits, what:str):
    body, status, field = FEEDBACK[what]
    assert_refused(visits, visits.ask("POST", "/feedback", body), status, field)


# tables that are not as they were

def test_what_is_unusual_is_answered_and_counted(visits:Visits, attempts:Callable):
    def counted(name:str) -> float: # in every way: a column may have been missing before, and be unseen now
        return sum(map(float, re.findall(rf'^ml_pkg_unusual_values_total\{{column="{name}".*\}} (\S+)$', visits.ask("GET", "/metrics").content.decode(), re.MULTILINE)))
    for name, written, what in [("city", '"Nowhere"', "unseen"), ("device", '"\\u0000"', "unseen"), ("seconds", "9e9", "beyond"), ("pages", "-4000", "beyond"),
        *((name, "null", "missing") for name in ("seconds", "pages", "returning"))]:
        before = counted(name)
        answer = visits.ask("POST", "/predict", rows(row(**{name: written}), row()))
        assert answer.status == 200 and all(0 <= each <= 1 for found in json.loads(answer.content)["predictions"] for each in found["probabilities"].values()), answer
        assert counted(name) == before + 1
        assert json.loads(answer.content)["unusual"] == {what: {name: 1}}
        attempts(1)
    assert "unusual" not in json.loads(visits.ask("POST", "/predict", rows(row())).content)


RELOAD = "import sys; import pandas as pd; from ml_pkg.model import Model; Model.load(sys.argv[1]).predict_proba(pd.read_parquet(sys.argv[2])).to_parquet(sys.argv[3])"


def test_the_same_bits_in_every_way(visits:Visits, tmp_path:Path, attempts:Callable):
    "As a batch, row by row, backwards, of a fresh process, over the wire, and in files."
    import pandas as pd

    from ml_pkg.prediction import predict_file
    count = 300
    frame = _many(count)
    expected = visits.model.predict_proba(frame)
    def same(found:pd.DataFrame) -> None:
        assert found[["no", "yes"]].to_numpy().tobytes() == expected[["no", "yes"]].to_numpy().tobytes()
        attempts(count)
    def served(part:pd.DataFrame) -> list[dict]:
        answer = visits.ask("POST", "/predict", json.dumps({"rows": [{**each, "at": str(each["at"])} for each in part.to_dict("records")]}).encode())
        assert answer.status == 200, answer
        return [each["probabilities"] for each in json.loads(answer.content)["predictions"]]
    same(pd.concat([visits.model.predict_proba(frame[place:place + 1]) for place in range(count)]))
    same(visits.model.predict_proba(frame[::-1])[::-1])
    visits.model.save(tmp_path / "visits.mlpkg")
    frame.to_parquet(tmp_path / "rows.parquet")
    subprocess.run([sys.executable, "-c", RELOAD, *(tmp_path / name for name in ("visits.mlpkg", "rows.parquet", "found.parquet"))], check=True, cwd=tmp_path)
    same(pd.read_parquet(tmp_path / "found.parquet"))
    same(pd.DataFrame(served(frame)))
    same(pd.DataFrame([served(frame[place:place + 1])[0] for place in range(count)]))
    for name in ("out.parquet", "out.csv"):
        predict_file(visits.model, tmp_path / "rows.parquet", tmp_path / name, probabilities=True, rows=77)
        found = pd.read_parquet(tmp_path / name) if name.endswith("parquet") else pd.read_csv(tmp_path / name, float_precision="round_trip")
        same(found.rename(columns=lambda column: column.removeprefix("probability ")))


def _many(count:int) -> Any:
    "Rows such as the model knows, and some cities that it does not."
    import numpy as np
    import pandas as pd
    drawn = np.random.default_rng(1)
    return pd.DataFrame({"pages": drawn.integers(1, 40, count), "seconds": drawn.gamma(2.0, 60.0, count), "returning": drawn.random(count) < 0.5,
        "city": drawn.choice(["Bern", "Genève", "東京"], count), "device": drawn.choice(["desktop", "phone"], count), "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(drawn.integers(0, 10**6, count), unit="s")})


# the Open Inference Protocol

INPUTS = {"pages": ("INT64", [15]), "seconds": ("FP64", [110.06]), "returning": ("BOOL", [True]), "city": ("BYTES", ["Bern"]), "device": ("BYTES", ["phone"]), "at": ("BYTES", ["2026-01-09 14:31:56"])}


def tensors(*more:Any, **changed:dict) -> bytes:
    "A request of one row as tensors, of which some say something else."
    good = {name: {"name": name, "datatype": datatype, "shape": [1], "data": data} for name, (datatype, data) in INPUTS.items()}
    return json.dumps({"inputs": [*({**tensor, **changed.get(name, {})} for name, tensor in good.items()), *more]}).encode()


TENSORS:dict[str, tuple[bytes, int, str|None, dict[str, str]]] = { # what -> body, status, field, headers
    "nothing": (b"", 400, None, {}),
    "no inputs": (b"{}", 400, "inputs", {}),
    "inputs: an object": (b'{"inputs": {"pages": 1}}', 400, "inputs", {}),
    "numbers as inputs": (b'{"inputs": [1]}', 400, "inputs[0]", {}),
    "an input twice": (tensors({"name": "pages", "datatype": "INT64", "shape": [1], "data": [15]}), 400, "inputs[6]", {}),
    "a list as a datatype": (tensors(pages={"datatype": ["INT64"]}), 400, "inputs[0].datatype", {}),
    "an unknown datatype": (tensors(seconds={"datatype": "BF16"}), 400, "inputs[1].datatype", {}),
    "a negative shape": (tensors(pages={"shape": [-1]}), 400, "inputs[0].shape", {}),
    "a shape of truths": (tensors(pages={"shape": [True]}), 400, "inputs[0].shape", {}),
    "a shape of more rows than a request may have": (tensors(pages={"shape": [10**18]}), 413, "rows", {}), # before any of them is read
    "a shape of more values than there are": (tensors(pages={"shape": [1000]}), 400, "inputs[0].shape", {}),
    "a shape with no size": (tensors(pages={"shape": []}), 400, "inputs[0].shape", {}),
    "three dimensions": (tensors(pages={"shape": [1, 1, 1]}), 400, "inputs[0].shape", {}),
    "data that is null": (tensors(city={"data": None}), 400, "inputs[3].data", {}),
    "data that is an object": (tensors(seconds={"data": {"0": 1.0}}), 400, "inputs[1].data", {}),
    "objects as data": (tensors(seconds={"data": [{}]}), 422, "rows[0].seconds", {}),
    "lists in lists": (tensors(seconds={"data": [[[1.0]]]}), 422, "rows[0].seconds", {}),
    "parameters that are a list": (tensors(pages={"parameters": [1]}), 400, "inputs[0].parameters", {}),
    "more bytes than were sent": (tensors(pages={"data": None, "parameters": {"binary_data_size": 8}}), 400, "inputs[0]", {}),
    "a negative number of bytes": (tensors(pages={"data": None, "parameters": {"binary_data_size": -8}}), 400, "inputs[0]", {}),
    "a column missing": (b'{"inputs": [{"name": "pages", "datatype": "INT64", "shape": [1], "data": [15]}]}', 422, "rows[0].seconds", {}),
    "NaN": (tensors(seconds={"data": [float("nan")]}), 422, "inputs[1].data[0]", {}),
    "an output that is none": (tensors()[:-1] + b', "outputs": [{"name": "../id"}]}', 400, "outputs[0].name", {}),
    "an output twice": (tensors()[:-1] + b', "outputs": [{"name": "id"}, {"name": "id"}]}', 400, "outputs[1].name", {}),
    "an output whose name is a list": (tensors()[:-1] + b', "outputs": [{"name": []}]}', 400, "outputs[0].name", {}),
    "a header that is longer than the body": (tensors(), 400, "Inference-Header-Content-Length", {"inference_header_content_length": "99999999"}),
    "a header that is no number": (tensors(), 400, "Inference-Header-Content-Length", {"inference_header_content_length": "-1"}),
    "a header of other digits": (tensors(), 400, "Inference-Header-Content-Length", {"inference_header_content_length": "\xb2"}),
    "lists in lists, deep": (b"[" * DEEP, 422, None, {}),
    "two rows and one": (tensors(pages={"shape": [2], "data": [15, 16]}), 400, "inputs", {}),
    "10,001 rows": (json.dumps({"inputs": [{"name": "pages", "datatype": "INT64", "shape": [10_001], "data": [1] * 10_001}]}).encode(), 413, "rows", {}),
}


@pytest.mark.parametrize("what", TENSORS)
def test_hostile_tensors_are_refused(visits:Visits, what:str):
    "In the protocol's own form: one text, that begins with the field."
    body, status, field, headers = TENSORS[what]
    answer = visits.ask("POST", "/v2/models/visits/infer", body, **headers)
    assert (answer.status, answer.type) == (status, "application/json"), answer
    assert_tells_nothing(answer, visits.private)
    document = json.loads(answer.content)
    assert set(document) == {"error"} and document["error"].startswith(f"{field}: " if field else "the request"), answer


def _triton_inputs(rows:Any, binary:bool) -> list:
    "The rows of a frame, as the other client sends them."
    import numpy as np
    import tritonclient.http as triton
    made = []
    for name, (datatype, _) in INPUTS.items():
        values = np.array([str(value).encode() for value in rows[name]], dtype=object) if datatype == "BYTES" else rows[name].to_numpy()
        made.append(triton.InferInput(name, [len(rows)], datatype))
        made[-1].set_data_from_numpy(values, binary_data=binary)
    return made


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "JSON"])
def test_another_client_gets_what_the_model_predicts(visits:Visits, binary:bool, attempts:Callable):
    "To the last bit."
    triton = pytest.importorskip("tritonclient.http")
    count = 1_000
    rows = _many(count)
    client = triton.InferenceServerClient(f"127.0.0.1:{visits.port}")
    try:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("visits") and not client.is_model_ready("visitors")
        found = client.get_model_metadata("visits")
        assert {each["name"]: each["datatype"] for each in found["inputs"]} == {name: datatype for name, (datatype, _) in INPUTS.items()}
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        answer = client.infer("visits", _triton_inputs(rows, binary), request_id="one", outputs=[triton.InferRequestedOutput(output["name"], binary_data=binary) for output in found["outputs"]])
    finally: client.close()
    texts = [value.decode() if isinstance(value, bytes) else value for value in answer.as_numpy("prediction")]
    assert texts == visits.model.predict(rows).tolist() and set(texts) == {"no", "yes"}
    for label, expected in visits.model.predict_proba(rows).items(): assert answer.as_numpy(f"probability {label}").tolist() == expected.tolist()
    assert answer.get_response()["id"] == "one" and len(set(answer.as_numpy("id").tolist())) == count
    attempts(count)


def test_another_client_is_told_what_is_wrong(visits:Visits):
    triton = pytest.importorskip("tritonclient.http")
    import pandas as pd
    client = triton.InferenceServerClient(f"127.0.0.1:{visits.port}")
    wrong = pd.DataFrame([json.loads(row(at='"soon"'))])
    try:
        with pytest.raises(triton.InferenceServerException, match=r"rows\[0\]\.at: "): client.infer("visits", _triton_inputs(wrong, True))
        with pytest.raises(triton.InferenceServerException, match="'visits' is served"): client.infer("visitors", _triton_inputs(wrong, True))
    finally: client.close()


# paths that lead elsewhere

UP = "../" * 12
PATHS = [
    f"/{UP}etc/passwd", "/../secret.txt", "/..", "/.", "//etc/passwd", "//", "/./secret.txt", "/secret.txt", "/visits.mlpkg", "/stderr.txt", "/%2e%2e/secret.txt", f"/{UP.replace('.', '%2e')}etc/passwd",
    f"/{UP.replace('/', '%2f')}etc%2fpasswd", "/%252e%252e%252fsecret.txt", r"/..\secret.txt", "/..%5c..%5csecret.txt", "/..%c0%afsecret.txt", "/..;/secret.txt", "/....//secret.txt",
    "/secret.txt#/model", "/file:///etc/passwd", "file:///etc/passwd", "http://127.0.0.1/etc/passwd", "/http://127.0.0.1/model", "https://elsewhere.example/secret.txt", "?/etc/passwd", "*",
    "/model/../secret.txt", "/model/..", "/model/", "/health/../secret.txt", "/predict/../secret.txt", "/openapi.json/..", "/docs", "/redoc", "/static/../secret.txt", "/metrics/../secret.txt",
    f"/v2/models/{UP}etc/passwd", "/v2/models/..", "/v2/models/%2e%2e", "/v2/models/..%2f..%2fsecret.txt", f"/v2/models/{UP.replace('/', '%2f')}etc%2fpasswd", "/v2/models/file:%2f%2f%2fetc%2fpasswd", "/v2/models/visits.mlpkg",
    "/v2/models/%00", "/v2/models/visits%00", "/v2/models/visits/versions/..", "/v2/models/visits/versions/..%2f..%2fsecret.txt", "/v2/models/visits/../../secret.txt", "/v2/models/%ff%fe", "/v2/models/s3:%2f%2fbucket%2fkey",
    "/" + "a" * 20_000, "/" + "../" * 6_000, "/v2/models/" + "a" * 20_000, "/" + "%2e%2e%2f" * 3_000, "/" + "a" * 40_000, "/model?" + "a" * 40_000, "/\xe9", "/%", "/%zz", "/%00",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path[:60]))
def test_paths_lead_nowhere(visits:Visits, path:str, monkeypatch:pytest.MonkeyPatch):
    monkeypatch.setattr(http.client.HTTPConnection, "_encode_request", lambda connection, request: request.encode("latin-1")) # also what no client should send
    answer = visits.ask("GET", path)
    assert 400 <= answer.status < 500 and answer.type == "application/json" and len(answer.content) < 50_000, answer
    assert_tells_nothing(answer, visits.private)
    assert set(json.loads(answer.content)) == {"error"}


@pytest.mark.parametrize("path", ["/", "/#/../secret.txt"])
def test_the_root_tells_of_addresses_and_of_nothing_else(visits:Visits, path:str):
    "What a client sends after # is no part of the path."
    answer = visits.ask("GET", path)
    assert answer.status == 200 and set(json.loads(answer.content)) == {"model", "version", "addresses"}
    assert_tells_nothing(answer, visits.private)
