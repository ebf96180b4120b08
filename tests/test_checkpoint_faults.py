"""Processes that are killed, and folders that fail, never make a wrong result."""

import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from ml_pkg import Checkpoints
from ml_pkg.checkpoints import pack
from ml_pkg.entries import read_entry

KEY = "ab" * 16

FITTING = """
import sys, time
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from ml_pkg import Checkpoints, Dataset, Evaluation
from ml_pkg.fitting import cross_validate

class Slow(TransformerMixin, BaseEstimator):
    def __init__(self, name="", trace=""): self.name, self.trace = name, trace
    def fit(self, X, y=None):
        time.sleep(0.02)
        self.mean_ = X.mean(axis=0)
        with open(self.trace, "a") as file: file.write(f"{self.name} {float(self.mean_.sum())!r}\\n")
        return self
    def transform(self, X): return X - self.mean_

store, trace, out = sys.argv[1:]
pipeline = make_pipeline(Slow("first", trace), Slow("second", trace), Slow("third", trace), LogisticRegression())
print("begins", flush=True)
folds = cross_validate(pipeline, Dataset(load_iris(as_frame=True).frame, target="target"), Evaluation(3), 0, checkpoints=Checkpoints(store, share=0.5))
pd.concat([fold.predictions for fold in folds]).to_pickle(out)
"""

WRITING = """
import sys, numpy as np
from ml_pkg.checkpoints import Checkpoints, pack
store = Checkpoints(sys.argv[1])
print("begins", flush=True)
number = 0
while True:
    store.save(f"{number % 7:032x}", pack(np.full(200_000, float(number % 7)), "numbers"), seconds=100)
    number += 1
"""


def started(program, *arguments):
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begins\n"
    return process


def test_killed_50_times_while_fitting_repeats_nothing_that_was_kept(tmp_path):
    reference, program = tmp_path / "reference.pkl", tmp_path / "fitting.py"
    program.write_text(FITTING)
    trace = tmp_path / "trace"
    subprocess.run([sys.executable, program, tmp_path / "first", trace, reference], check=True, stdout=subprocess.DEVNULL)
    expected = pd.read_pickle(reference)
    steps = trace.read_text().splitlines()
    assert len(steps) == 9
    random_moment = random.Random(0)
    for attempt in range(50):
        if attempt % 5 == 0: store = tmp_path / f"store{attempt}" # five kills for each store, each further on
        out = tmp_path / "out.pkl"
        killed = subprocess.Popen([sys.executable, program, store, trace, out], stdout=subprocess.PIPE, text=True)
        killed.stdout.readline()
        time.sleep(random_moment.uniform(0, 0.35))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if attempt % 5 < 4: continue
        kept = len(list(store.glob("??/*.entry")))
        trace.write_text("")
        subprocess.run([sys.executable, program, store, trace, out], check=True, stdout=subprocess.DEVNULL)
        pd.testing.assert_frame_equal(pd.read_pickle(out), expected, check_exact=True)
        assert len(trace.read_text().splitlines()) <= 9 - min(kept, 9)
        trace.write_text("")
        subprocess.run([sys.executable, program, store, trace, out], check=True, stdout=subprocess.DEVNULL)
        assert trace.read_text() == ""


def test_killed_at_50_random_moments_of_writing_leaves_whole_entries(tmp_path):
    random_moment, store = random.Random(1), Checkpoints(tmp_path)
    for _ in range(50):
        writer = started(WRITING, tmp_path)
        time.sleep(random_moment.uniform(0, 0.05))
        writer.kill()
        writer.wait()
        for number in range(7):
            place = store.place(f"{number:032x}")
            if place.exists(): assert (read_entry(place).value == number).all()
    assert store.usage().entries > 0 and not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("writers", [2, 8])
def test_several_writers_of_one_key(tmp_path, writers):
    processes = [started(WRITING, tmp_path) for _ in range(writers)]
    store, until = Checkpoints(tmp_path), time.monotonic() + 2
    found = 0
    while time.monotonic() < until:
        for number in range(7):
            if entry := store.load(f"{number:032x}"):
                assert (entry.value == number).all()
                found += 1
    for process in processes: process.kill(), process.wait()
    assert found > 50 and not (tmp_path / "damaged").exists()


def test_a_value_that_is_mapped_survives_eviction(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(KEY, pack(np.arange(1_000_000.0), "numbers"), seconds=100)
    mapped = store.load(KEY).value
    subprocess.run([sys.executable, "-c", f"from ml_pkg import Checkpoints; print(Checkpoints({str(tmp_path)!r}).clear())"], check=True)
    assert (mapped == np.arange(1_000_000.0)).all() and store.load(KEY) is None


def test_an_entry_deleted_between_look_up_and_read_is_a_miss(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(KEY, pack(1, "one"), seconds=100)
    monkeypatch.setattr(Checkpoints, "has", lambda self, key: (self.place(key).unlink(missing_ok=True), True)[1])
    assert store.load(KEY) is None


FULL = """
import sys, time, warnings
import numpy as np
from ml_pkg.checkpoints import Checkpoints, made, pack
store, key = Checkpoints(sys.argv[1]), "ab" * 16
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result = made(store, key, "numbers", lambda: (time.sleep(0.2), np.zeros(1_000_000))[1], share=1.0)
assert (result.value == 0).all() and not store.has(key)
assert "cannot be written" in str(caught[0].message), caught
assert store.save(key, pack(1, "one"), seconds=100) # there is room for this
"""


def test_no_room_costs_the_entry_and_not_the_result(tmp_path):
    limit = 1_000_000
    subprocess.run([sys.executable, "-c", FULL, tmp_path], check=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert [path.suffix for path in tmp_path.glob("??/*")] == [".entry"] # nothing half-written stays, and no lease
