"""A sweep that is killed, interrupted, or loses a worker goes on from where it was, and its leaderboard is the same."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import TRACE, make_project, traces

from ml_pkg.checkpoints import Checkpoints
from ml_pkg.fitting import Plans
from ml_pkg.processes import is_alive

KILLS = int(os.environ.get("ML_PKG_KILLS", "10")) # sweeps that are killed, five for each workspace

SWEPT = TRACE + """
import time
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from ml_pkg import Dataset, Evaluation, Experiment

class Slow(TransformerMixin, BaseEstimator):
    def __init__(self, name=""): self.name = name
    def fit(self, X, y=None):
        time.sleep(0.15)
        self.mean_ = X.mean(axis=0)
        trace(self.name, len(X), y.index[:40].to_numpy().sum(), os.getpid())
        return self
    def transform(self, X): return X - self.mean_

class Last(LogisticRegression):
    def fit(self, X, y):
        time.sleep(0.05)
        super().fit(X, y)
        trace(f"C={self.C}", len(X), y.index[:40].to_numpy().sum(), os.getpid())
        return self

flowers = Experiment("flowers", Dataset("iris.csv", target="species"), make_pipeline(Slow("first"), Slow("second"), Last(max_iter=1000)), Evaluation(3, ["accuracy", "f1_macro"]))
sweep = flowers.vary(last__C=[0.1, 1.0, 10.0, 100.0])
"""

RUN = """
import sys
from swept import sweep
print("begins", flush=True)
board = sweep.run(n_jobs=2)
board.scores.to_pickle(sys.argv[1])
print(board.verdict, flush=True)
"""


@pytest.fixture
def swept(tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    "A project with a sweep of four variants behind two slow steps, and a file that its fits leave traces in."
    folder = make_project(tmp_path / "swept")
    (folder / "swept.py").write_text(SWEPT)
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("swept", None)
    return folder


def start(folder:Path, board:Path, **environment) -> subprocess.Popen:
    "Begins the sweep in a group of processes of its own."
    process = subprocess.Popen([sys.executable, "-c", RUN, board], cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "begins\n"
    return process


def finished(folder:Path, board:Path, **environment) -> pd.DataFrame:
    out, errors = (process := start(folder, board, **environment)).communicate(timeout=300)
    assert process.returncode == 0, errors
    return pd.read_pickle(board)


def fitted(trace:Path) -> list[str]:
    "What was fitted: step, rows, and which rows; without the process."
    return [line.rpartition(" ")[0] for line in traces(trace)]


def published(sweep, store:Checkpoints) -> set[str]:
    "The traces that steps would leave whose results are kept."
    found = set()
    for experiment in sweep:
        works = Plans(store, 1).of(experiment.estimator, experiment.dataset, experiment.evaluation, experiment.seed)
        for work in works:
            rows = work.shared.rows
            train = rows.pairs[work.number][0]
            which = f"{len(train)} {rows.y.index[train][:40].to_numpy().sum()}"
            for name, keys in (("first", work.keys[1:]), ("second", work.keys[2:]), (f"C={experiment.estimator[-1].C}", work.keys[3:])):
                if any(store.is_here(key) for key in keys): found.add(f"{name} {which}")
    return found


def test_killed_again_and_again_a_sweep_repeats_nothing_that_was_published(swept:Path, tmp_path:Path):
    expected = finished(swept, tmp_path / "board.pkl", ML_PKG_WORKSPACE=str(tmp_path / "reference"))
    assert sorted(set(fitted(tmp_path / "trace"))) == sorted(fitted(tmp_path / "trace")) and len(fitted(tmp_path / "trace")) == 2 * 3 + 4 * 3 # each step once in each fold
    sweep = importlib.import_module("swept").sweep
    moment = random.Random(0)
    for attempt in range(5 * max(1, KILLS // 5)):
        workspace = tmp_path / f"workspace{attempt // 5}" # five kills for each workspace, each further on
        store = Checkpoints(workspace / "checkpoints")
        kept = published(sweep, store)
        (tmp_path / "trace").write_text("")
        process = start(swept, tmp_path / "out.pkl", ML_PKG_WORKSPACE=str(workspace))
        time.sleep(moment.uniform(0.5, 5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not kept & set(fitted(tmp_path / "trace")), attempt
        if attempt % 5 < 4: continue
        kept = published(sweep, store)
        (tmp_path / "trace").write_text("")
        pd.testing.assert_frame_equal(finished(swept, tmp_path / "out.pkl", ML_PKG_WORKSPACE=str(workspace)), expected, check_exact=True)
        again = fitted(tmp_path / "trace")
        assert not kept & set(again) and len(set(again)) == len(again)


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(swept:Path, tmp_path:Path):
    workspace = str(tmp_path / "workspace")
    process = start(swept, tmp_path / "out.pkl", ML_PKG_WORKSPACE=workspace)
    while len(fitted(tmp_path / "trace")) < 8: time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT) # as a terminal does it
    out, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors and out == ""
    before = fitted(tmp_path / "trace")
    board = finished(swept, tmp_path / "board.pkl", ML_PKG_WORKSPACE=workspace)
    assert len(fitted(tmp_path / "trace")) - len(before) <= 2 * 3 + 4 * 3 - len(before) + 2 # of each worker, a step that was under way is taken again
    pd.testing.assert_frame_equal(board, finished(swept, tmp_path / "other.pkl", ML_PKG_WORKSPACE=str(tmp_path / "fresh")), check_exact=True)


def test_a_worker_that_is_killed_loses_only_its_running_step(swept:Path, tmp_path:Path):
    process = start(swept, tmp_path / "out.pkl", ML_PKG_WORKSPACE=str(tmp_path / "workspace"))
    while len(fitted(tmp_path / "trace")) < 5: time.sleep(0.01)
    worker = int((tmp_path / "trace").read_text().split()[-1])
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "best of 4 tried" in out
    repeated = len(fitted(tmp_path / "trace")) - len(set(fitted(tmp_path / "trace")))
    assert len(set(fitted(tmp_path / "trace"))) == 2 * 3 + 4 * 3 and repeated <= 2 # what the two workers were at


def test_workers_of_a_process_that_is_killed_end_with_it(swept:Path, tmp_path:Path):
    process = start(swept, tmp_path / "out.pkl", ML_PKG_WORKSPACE=str(tmp_path / "workspace"))
    while len({line.rpartition(" ")[2] for line in traces(tmp_path / "trace")}) < 2: time.sleep(0.01)
    workers = {int(line.rpartition(" ")[2]) for line in traces(tmp_path / "trace")}
    process.kill() # and not its group
    process.wait()
    ends = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < ends: time.sleep(0.1)
    assert not [worker for worker in workers if is_alive(worker)]


PICKED = """
from sklearn.base import BaseEstimator, TransformerMixin

PLACES = [0]

class Picked(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None): return self
    def transform(self, X): return X.iloc[:, PLACES]
"""

EDITED = """
import importlib, os, warnings
from pathlib import Path
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from ml_pkg import Dataset, Evaluation, Experiment, NoCheckpoints
from ml_pkg.identity import identify
import picked

PLACES = [1, 2]

class Picked(TransformerMixin, BaseEstimator): # what the file will say
    def fit(self, X, y=None): return self
    def transform(self, X): return -X.iloc[:, PLACES]

def scores(n_jobs, step, strengths=(0.1, 1.0, 10.0, 100.0), **how):
    flowers = Experiment("flowers", Dataset("iris.csv", target="species"), make_pipeline(step, LogisticRegression(max_iter=1000)), Evaluation(3, ["accuracy"]))
    return flowers.vary(logisticregression__C=list(strengths)).run(n_jobs=n_jobs, **how).scores["score"].sort_index().tolist()

def edit(*changes):
    file = Path(picked.__file__)
    text, seconds = file.read_text(), file.stat().st_mtime + 2 # a file of bytecode goes by seconds
    for old, new in changes: text = text.replace(old, new)
    file.write_text(text)
    os.utime(file, (seconds, seconds))
    importlib.reload(picked)

told = []
warnings.showwarning = lambda message, *where: told.append(str(message))
warnings.simplefilter("always")
first = scores(2, picked.Picked())
twin = scores(2, Picked()) # the workers have met it now, and have another one in the file's module
edit(("[0]", "[1, 2]"), ("X.iloc", "-X.iloc"))
assert identify(picked.Picked()).key == identify(Picked()).key
others = (0.2, 2.0, 20.0)
edited = scores(2, picked.Picked(), others)
assert edited == scores(1, picked.Picked(), others, checkpoints=NoCheckpoints()) != first[:3], (first, edited)
assert not any("The folds are fitted here" in each for each in told), told
picked.PLACES = [3]
given = scores(2, picked.Picked())
assert given == scores(1, picked.Picked(), checkpoints=NoCheckpoints()) != twin, (twin, given)
print(sum("The folds are fitted here" in each for each in told), "told")
"""


def test_workers_do_not_go_on_with_code_that_was_edited_since_they_were_started(swept:Path, tmp_path:Path):
    (swept/"picked.py").write_text(PICKED)
    (swept/"edited.py").write_text(EDITED)
    done = subprocess.run([sys.executable, "edited.py"], cwd=swept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1 told", done.stdout
