"""A run that has run before reads neither its rows nor what was made of them."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

DECLARED = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from ml_pkg import Dataset, Evaluation, Experiment

many = Experiment("many", Dataset("many.csv", target="y"), make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=5)), Evaluation(cv=3))
"""

RUN = "from many import many; from ml_pkg import Checkpoints; run = many.run(checkpoints=Checkpoints(share=1e9)); print(run.reused, run.summary)" # every step is worth keeping


@pytest.fixture
def project_of_many_rows(project:Path) -> Path:
    random = np.random.default_rng(0)
    values = random.normal(size=(50_000, 8))
    pd.DataFrame(values, columns=list("abcdefgh")).assign(y=(values[:, 0] > 0).astype(int)).to_csv(project / "many.csv", index=False)
    (project / "many.py").write_text(DECLARED)
    time.sleep(2.1) # what was written a moment ago may be written again without a trace in its times, so it is read again
    return project


def opened(log:Path) -> set[str]:
    "Paths that a traced process and its children opened."
    return set(re.findall(r'open(?:at)?\(.*?"([^"]*)".*\) = \d', log.read_text()))


def test_neither_the_rows_nor_checkpoints_are_read(project_of_many_rows:Path, workspace:Path, tmp_path:Path):
    strace, log = shutil.which("strace"), tmp_path / "trace.txt"
    assert strace, "this test watches a process with strace: apt-get install strace"
    def traced() -> tuple[str, set[str]]:
        done = subprocess.run([strace, "-f", "-e", "trace=open,openat", "-o", log, sys.executable, "-W", "ignore", "-c", RUN], cwd=project_of_many_rows, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout, opened(log)
    cold, read = traced()
    assert cold.startswith("False") and any(path.endswith("many.csv") for path in read) # the trace does see it
    assert list(workspace.glob("checkpoints/??/*.entry"))
    warm, read = traced()
    assert warm == cold.replace("False", "True", 1)
    assert any(path.endswith("runs.sqlite") for path in read)
    assert not [path for path in read if path.endswith((".csv", ".entry", ".feather", ".declaration"))]
