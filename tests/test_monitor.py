"""`ml_pkg monitor` beside a real server: a model that one process fitted, another served, and a third one watches."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from conftest import predicted, serving

from ml_pkg.model import Model
from ml_pkg.run import load_run

FITTED = "import flowers; print(flowers.flowers.fit().card['run'])"


def ask(project:Path, rows:pd.DataFrame) -> pd.Timestamp:
    "Have the rows answered by a server of their own; a moment before they came."
    began = pd.Timestamp.now("UTC")
    with serving(project, "flowers") as server:
        predicted(server, rows.to_dict("records"))
        assert server.ends() == 0
    return began


@pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "orjson", "httptools", "prometheus_client"])), reason="what a server needs is not installed: pip install 'ml_pkg[serve]'")
@pytest.mark.thorough
def test_a_shift_of_what_is_served_is_found_and_none_without(project:Path, python:Callable, command:Callable):
    python(FITTED)
    flowers = pd.read_csv(project / "iris.csv").drop(columns="species").sample(300, replace=True, random_state=0)
    ask(project, flowers)
    same = command("monitor", "flowers")
    assert (same.returncode, same.stdout.partition(":")[0]) == (0, "cannot be told"), same.stdout + same.stderr # 150 training rows do not rule out a small move
    since = ask(project, flowers.assign(petal_length=flowers["petal_length"] + 2))
    moved = command("monitor", "flowers", "--since", since.isoformat(), "--html", "report.html")
    assert moved.returncode == 1 and "petal_length: moved by" in moved.stdout, moved.stdout + moved.stderr
    assert "petal_length" in (project / "report.html").read_text()
    found = json.loads(command("monitor", "flowers", "--since", since.isoformat(), "--json").stdout)
    assert found["rows"] == 300 and "inputs have moved" in found["alarms"] and found["not_judged"] == {}
    assert [each["name"] for each in found["inputs"] if each["verdict"] == "moved" and each["kind"] == "values"] == ["petal_length"]


def test_a_model_of_an_earlier_version_says_what_to_do(project:Path, python:Callable, command:Callable):
    model = load_run(python(FITTED)).model
    Model(model.estimator, model.schema, model.card).save(project / "old.mlpkg")
    done = command("monitor", "old.mlpkg")
    assert done.returncode == 2 and "has no reference profile" in done.stderr and "Fit it again" in done.stderr
