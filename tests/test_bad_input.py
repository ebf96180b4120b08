"""What a user can get wrong is answered in one line that names it, with exit code 2."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

IMPORTS = """
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from ml_pkg import Dataset, Evaluation, Experiment
pipeline = make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000))
base = Experiment("base", Dataset("iris.csv", target="species"), pipeline)
"""

DECLARATIONS = {
    "missing file": ('Experiment("e", Dataset("gone.csv", target="species"), pipeline)', "no file gone.csv"),
    "empty file": ('Experiment("e", Dataset("empty.csv", target="species"), pipeline)', "empty.csv is empty"),
    "header only": ('Experiment("e", Dataset("header.csv", target="species"), pipeline)', "header.csv has a header and no rows"),
    "misspelt target": ('Experiment("e", Dataset("iris.csv", target="specie"), pipeline)', "Did you mean 'species'?"),
    "unknown target": ('Experiment("e", Dataset("iris.csv", target="price"), pipeline)', "'price' is not a column of iris.csv. Columns: sepal_length"),
    "target declared twice": ('Experiment("e", Dataset("iris.csv", target=["species", "species"]), pipeline)', "'species' stands twice in target"),
    "column twice": ('Experiment("e", Dataset("twice.csv", target="species"), pipeline)', "the column 'a' 2 times"),
    "target with nulls": ('Experiment("e", Dataset("nulls.csv", target="species"), pipeline)', "'species' of nulls.csv is missing in 1 of 150 rows, first in row 3"),
    "one class": ('Experiment("e", Dataset("one_class.csv", target="species"), pipeline)', "only one class, 'setosa'"),
    "fewer rows than folds": ('Experiment("e", Dataset("few.csv", target="species"), pipeline)', "4 rows to fit on, fewer than the 5 folds"),
    "text in a numeric estimator": ('Experiment("e", Dataset("colour.csv", target="species"), pipeline)', "cannot take the column 'colour' (str, such as 'red')"),
    "unknown step": ('base.drop("selectkbst")', "Did you mean 'selectkbest'?"),
    "unknown parameter": ("base.replace(selectkbest__kk=3)", "Did you mean 'k'? Parameters: k, score_func"),
    "unknown metric": ('base.with_evaluation(Evaluation(metrics="acuracy"))', "Did you mean 'accuracy'?"),
    "no predict": ('Experiment("e", Dataset("iris.csv", target="species"), StandardScaler())', "StandardScaler has no predict"),
    "no identifier": ('Experiment("my model", Dataset("iris.csv", target="species"), pipeline)', "and not 'my model'"),
    "no experiment": ("pipeline", "'experiment' of declared is a Pipeline and no Experiment"),
    "does not import": ("1 / 0", "module 'declared' does not import: ZeroDivisionError"),
}


@pytest.fixture
def files(project:Path) -> Path:
    "The project, with files that have one fault each."
    rows = pd.read_csv(project / "iris.csv")
    (project / "empty.csv").write_text("")
    (project / "twice.csv").write_text("a,a,species\n1,2,x\n")
    rows[:0].to_csv(project / "header.csv", index=False)
    rows.assign(species=rows["species"].where(rows.index != 3)).to_csv(project / "nulls.csv", index=False)
    rows[:50].to_csv(project / "one_class.csv", index=False)
    rows[48:52].to_csv(project / "few.csv", index=False)
    rows.assign(colour="red").to_csv(project / "colour.csv", index=False)
    return project


def assert_refused(done, contains:str) -> None:
    "One line on standard error besides warnings, exit code 2, no traceback."
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert contains in done.stderr


@pytest.mark.parametrize("case", DECLARATIONS)
def test_declaration_is_refused(case:str, files:Path, command:Callable):
    expression, contains = DECLARATIONS[case]
    (files / "declared.py").write_text(f"{IMPORTS}\nexperiment = {expression}\n")
    assert_refused(command("train", "declared:experiment"), contains)


@pytest.mark.parametrize(("address", "contains"), [
    ("flowrs:flowers", "there is no module 'flowrs'"), ("flowers:flower", "Did you mean 'flowers'?"), ("quiet.ipynb:flowers", "no exported cell"),
    ("gone.ipynb:flowers", "there is no notebook gone.ipynb"), ("flowers.py:flowers", "is the path of a file"),
])
def test_address_is_refused(address:str, contains:str, project:Path, command:Callable):
    (project / "quiet.ipynb").write_text(notebook("flowers = 1"))
    assert_refused(command("train", address), contains)


def notebook(*sources:str) -> str:
    "A notebook with code cells."
    import json
    return json.dumps({"cells": [{"cell_type": "code", "id": f"c{place}", "metadata": {}, "outputs": [], "execution_count": None, "source": source} for place, source in enumerate(sources)],
                       "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_notebook_runs_its_exported_cells_only(project:Path, command:Callable):
    source = (project / "flowers.py").read_text()
    (project / "flowers.ipynb").write_text(notebook(f"#| export\n{source}", "raise RuntimeError('explored')"))
    assert command("train", "flowers.ipynb:flowers").returncode == 0


@pytest.fixture
def trained(command:Callable, workspace:Path) -> Path:
    "The file of a model."
    assert command("train", "flowers:flowers").returncode == 0
    return next((workspace / "models").glob("*.mlpkg"))


ROWS = pd.DataFrame({"sepal_length": [5.0, 6.0], "sepal_width": [3.4, 3.1], "petal_length": [1.5, 5.9], "petal_width": [0.3, 2.1]})
UNSEEN = {
    "lacks a column": (ROWS.drop(columns="petal_width"), "column 'petal_width' is missing"),
    "text for numbers": (ROWS.assign(petal_width=["0.3", "wide"]), "column 'petal_width', row 1: 'wide' is not a number"),
    "nulls where there were none": (ROWS.assign(petal_width=[0.3, None]), "column 'petal_width', row 1: the value is missing"),
}


def test_unseen_files(trained:Path, project:Path, command:Callable):
    "What fits is predicted the same in any form; what does not is refused, and nothing is written."
    for place, frame in enumerate((ROWS, ROWS[ROWS.columns[::-1]], ROWS.assign(more="x"))):
        frame.to_csv(project / f"good{place}.csv", index=False)
        assert command("predict", "flowers", f"good{place}.csv").stdout == "species\nsetosa\nvirginica\n"
    ROWS.astype(int).to_csv(project / "integers.csv", index=False)
    assert command("predict", "flowers", "integers.csv").stdout.count("\n") == 3
    for frame, contains in UNSEEN.values():
        frame.to_csv(project / "bad.csv", index=False)
        assert_refused(command("predict", "flowers", "bad.csv", "-o", "out.csv"), contains)
        assert not (project / "out.csv").exists()


class Payload:
    "What a stranger would put into a pickle."
    def __init__(self, marker:Path): self.marker = marker
    def __reduce__(self): return (Path.touch, (self.marker,))


def test_model_files(trained:Path, project:Path, command:Callable):
    "Cut, changed, or from elsewhere: refused, and no payload runs."
    ROWS.to_csv(project / "unseen.csv", index=False)
    content, marker = trained.read_bytes(), project / "marker"
    cases = {"cut": content[:-100], "changed": content[:600] + bytes([content[600] ^ 1]) + content[601:], "pickle": pickle.dumps(Payload(marker))}
    for name, bad in cases.items():
        (project / f"{name}.mlpkg").write_bytes(bad)
        assert_refused(command("predict", f"{name}.mlpkg", "unseen.csv"), f"{name}.mlpkg is no model file")
    rewritten(trained, project / "swapped.mlpkg", {"card.json": b"{}"})
    assert_refused(command("predict", "swapped.mlpkg", "unseen.csv"), "swapped.mlpkg was changed after it was written: card.json")
    stranger(trained, project / "stranger.mlpkg", pickle.dumps(Payload(marker)))
    assert_refused(command("predict", "stranger.mlpkg", "unseen.csv"), "could run code")
    assert not marker.exists()
    command("predict", "stranger.mlpkg", "unseen.csv", "--trusted")
    assert marker.exists() # the payload was a real one


def rewritten(model:Path, target:Path, changes:dict[str, bytes]) -> None:
    "A well-formed copy of a model file in which some members are others."
    with zipfile.ZipFile(model) as archive: members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in {**members, **changes}.items(): archive.writestr(name, content)


def stranger(model:Path, target:Path, payload:bytes) -> None:
    "A well-formed model file whose estimator is a pickle that this workspace did not write."
    import hashlib
    import json
    with zipfile.ZipFile(model) as archive: manifest = json.loads(archive.read("manifest.json"))
    manifest["persister"], manifest["members"]["estimator"] = "pickle", hashlib.sha256(payload).hexdigest()
    rewritten(model, target, {"estimator": payload, "manifest.json": json.dumps(manifest).encode()})
