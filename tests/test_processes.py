"""Runs outlive their process: they are reused, restored, recorded whole, whatever happens to whom."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

OWN_CLASS = """
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from ml_pkg import Dataset, Experiment

power = 2
class Power(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None): return self
    def transform(self, X): return X ** power

run = Experiment("own", Dataset("iris.csv", target="species"), make_pipeline(Power(), LogisticRegression(max_iter=5000))).run()
print(run.id, run.key)
"""

MANY_RUNS = """
from flowers import flowers
for seed in range(10_000):
    print(flowers.with_seed(seed).run().id, flush=True)
"""


def check(workspace:Path) -> sqlite3.Connection:
    "The database, which has to be sound."
    connection = sqlite3.connect(workspace / "runs.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    return connection


def test_run_is_reused_in_another_process(command:Callable):
    first, second = (json.loads(command("train", "flowers:flowers", "--json").stdout) for _ in range(2))
    assert (first["reused"], second["reused"], second["reuses"]) == (False, True, first["run"])
    assert first["scores"] == second["scores"] and first["key"] == second["key"]


@pytest.mark.parametrize("form", ["command", "script", "deleted script"])
def test_declaration_with_a_class_of_its_own_is_restored(form:str, python:Callable, project:Path):
    "The class was defined in a program, whose source may be gone; another process gets it back, with the same key, and fits its model."
    script = project / "own.py"
    script.write_text(OWN_CLASS)
    identifier, key = python(OWN_CLASS if form == "command" else "import subprocess, sys; subprocess.run([sys.executable, 'own.py'], check=True)").split()
    if form == "deleted script": script.unlink()
    again = python(f"from ml_pkg import load_run\nrun = load_run('{identifier}')\nprint(run.experiment.key, run.experiment.run().reused, len(run.model.predict(run.experiment.dataset.X)))")
    assert again.split() == [key, "True", "150"]


@pytest.mark.parametrize("count", [2, 8])
def test_several_at_once(count:int, cli:list[str], project:Path, workspace:Path):
    "All succeed, and agree."
    processes = [subprocess.Popen([*cli, "train", "flowers:flowers", "--json"], cwd=project, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    results = [json.loads(process.communicate(timeout=200)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    assert len({result["run"] for result in results}) == count
    assert len({json.dumps(result["scores"]) for result in results}) == 1
    assert check(workspace).execute("SELECT count(*) FROM runs WHERE status = 'finished'").fetchone() == (count,)


@pytest.mark.thorough
def test_killed_at_random_moments(project:Path, workspace:Path):
    "What a process was told is recorded is there, whole, and there is no half of anything."
    moments, told = random.Random(0), []
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", MANY_RUNS], cwd=project, stdout=subprocess.PIPE, text=True)
        told.append(process.stdout.readline().strip()) # it is at work
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        told += process.communicate()[0].split("\n")[:-1]
    with check(workspace) as connection:
        recorded = {row[0] for row in connection.execute("SELECT id FROM runs")}
        scored = connection.execute("SELECT r.id, count(s.value) FROM runs r LEFT JOIN scores s ON s.run = r.id WHERE r.reuses IS NULL GROUP BY r.id").fetchall()
    assert set(told) <= recorded and len(told) >= 12
    assert {count for _, count in scored} == {6} # two metrics, three folds


def test_failure_is_recorded(project:Path, command:Callable):
    (project / "broken.py").write_text((project / "flowers.py").read_text().replace("max_iter=1000", "max_iter=-1"))
    done = command("train", "broken:flowers")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "max_iter" in done.stderr
    shown = json.loads(command("show", "latest", "--json").stdout)
    assert shown["status"] == "failed" and "InvalidParameterError" in shown["traceback"]


def test_edited_code_is_run_again(project:Path, command:Callable):
    "A helper in another module, a comment, a constant: only what changes behaviour counts."
    (project / "helpers.py").write_text("factor = 2\ndef scale(X): return X * factor\n")
    (project / "scaled.py").write_text((project / "flowers.py").read_text().replace("SelectKBest(k=2)", "FunctionTransformer(scaled)").replace(
        "from ml_pkg import", "from sklearn.preprocessing import FunctionTransformer\nimport helpers\ndef scaled(X): return helpers.scale(X)\nfrom ml_pkg import"))
    def reused(): return json.loads(command("train", "scaled:flowers", "--json").stdout)["reused"]
    assert [reused(), reused()] == [False, True]
    (project / "helpers.py").write_text("factor = 2 # the same\ndef scale(X):\n    'Scaled.'\n    return X * factor\n")
    assert reused()
    (project / "helpers.py").write_text("factor = 3\ndef scale(X): return X * factor\n")
    assert not reused()
    (project / "helpers.py").write_text("factor = 3\ndef scale(X): return X + factor\n")
    assert not reused()
