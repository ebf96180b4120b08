"""Processes that are killed, and folders that fail, never make a wrong result."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import can_run_python, unprivileged

from ml_pkg import Checkpoints
from ml_pkg.checkpoints import pack
from ml_pkg.entries import read_entry

KEY = "ab" * 16
KILLS = int(os.environ.get("ML_PKG_KILLS", 10)) # fits that are killed, five for each store

FITTING = """
import sys, time
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from ml_pkg import Checkpoints, Dataset, Evaluation
from ml_pkg.entries import read_entry
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
if out == "kept": # how many fits of a slow step there are
    steps = [entry.value.steps[-1].name for path in Checkpoints(store).path.glob("??/*.entry") if hasattr((entry := read_entry(path)).value, "train")]
    sys.exit(print(sum(name.startswith("slow") for name in steps)))
pipeline = make_pipeline(Slow("first", trace), Slow("second", trace), Slow("third", trace), DummyClassifier())
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


@pytest.mark.thorough
def test_killed_while_fitting_repeats_nothing_that_was_kept(tmp_path):
    reference, program = tmp_path / "reference.pkl", tmp_path / "fitting.py"
    program.write_text(FITTING)
    trace = tmp_path / "trace"
    subprocess.run([sys.executable, program, tmp_path / "first", trace, reference], check=True, stdout=subprocess.DEVNULL)
    expected = pd.read_pickle(reference)
    steps = trace.read_text().splitlines()
    assert len(steps) == 9
    random_moment, counts = random.Random(0), []
    for attempt in range(5 * max(1, KILLS // 5)):
        if attempt % 5 == 0: store = tmp_path / f"store{attempt}" # five kills for each store, each further on
        out = tmp_path / "out.pkl"
        killed = subprocess.Popen([sys.executable, program, store, trace, out], stdout=subprocess.PIPE, text=True)
        killed.stdout.readline()
        further = len(trace.read_text().splitlines()) + random_moment.randrange(3)
        while len(trace.read_text().splitlines()) < further and killed.poll() is None: time.sleep(0.001)
        time.sleep(random_moment.uniform(0, 0.03))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        if attempt % 5 < 4: continue
        kept = int(subprocess.run([sys.executable, program, store, trace, "kept"], check=True, capture_output=True, text=True).stdout)
        counts.append(kept)
        trace.write_text("")
        subprocess.run([sys.executable, program, store, trace, out], check=True, stdout=subprocess.DEVNULL)
        pd.testing.assert_frame_equal(pd.read_pickle(out), expected, check_exact=True)
        assert len(trace.read_text().splitlines()) <= 9 - kept
        trace.write_text("")
        subprocess.run([sys.executable, program, store, trace, out], check=True, stdout=subprocess.DEVNULL)
        assert trace.read_text() == ""
    assert max(counts) > 0, counts


def test_interrupted_by_ctrl_c_keeps_what_was_finished(tmp_path):
    program, trace, out, store = tmp_path / "fitting.py", tmp_path / "trace", tmp_path / "out.pkl", tmp_path / "store"
    program.write_text(FITTING)
    subprocess.run([sys.executable, program, tmp_path / "first", trace, tmp_path / "reference.pkl"], check=True, stdout=subprocess.DEVNULL)
    trace.write_text("")
    for _ in range(3):
        interrupted = subprocess.Popen([sys.executable, program, store, trace, out], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                       preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # what a shell starts in the background ignores it
        seen = len(trace.read_text().splitlines())
        while len(trace.read_text().splitlines()) < seen + 2: time.sleep(0.002)
        interrupted.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in interrupted.communicate()[1] and interrupted.returncode != 0
    assert not list(store.glob("??/*.lease")) and not list(store.glob("??/*.part"))
    assert 3 <= len(list(store.glob("??/*.entry"))) < 9
    subprocess.run([sys.executable, program, store, trace, out], check=True, stdout=subprocess.DEVNULL)
    pd.testing.assert_frame_equal(pd.read_pickle(out), pd.read_pickle(tmp_path / "reference.pkl"), check_exact=True)
    assert len(trace.read_text().splitlines()) <= 9 + 3 # a step that was under way is taken again, and none that was finished


SHARING = """
import sys, time
from ml_pkg.checkpoints import Checkpoints, made
def compute():
    print("computes", flush=True)
    time.sleep(float(sys.argv[2]))
    return sys.argv[3]
found = made(Checkpoints(sys.argv[1]), "ab" * 16, "a result", compute)
print(found.value, found.reused, flush=True)
"""


def sharing(*arguments):
    return subprocess.Popen([sys.executable, "-c", SHARING, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_two_processes_that_need_one_result_compute_it_once(tmp_path):
    first = sharing(tmp_path, 2, "first")
    assert first.stdout.readline() == "computes\n"
    second = sharing(tmp_path, 2, "second")
    assert (first.communicate()[0], second.communicate()[0]) == ("first False\n", "first True\n")


def test_a_killed_process_is_not_waited_for(tmp_path):
    first = sharing(tmp_path, 600, "first")
    assert first.stdout.readline() == "computes\n"
    second = sharing(tmp_path, 0.5, "second")
    time.sleep(1.5) # long enough to be waiting
    assert second.poll() is None
    first.kill(), first.wait()
    began = time.monotonic()
    assert second.communicate()[0] == "computes\nsecond False\n"
    assert time.monotonic() - began < 30 and not list(tmp_path.glob("??/*.lease"))


READING = """
import sys, warnings
from ml_pkg.checkpoints import Checkpoints, made
warnings.simplefilter("error")
store = Checkpoints(sys.argv[1])
print(made(store, "ab" * 16, "a result", lambda: "anew").value)
warnings.simplefilter("ignore")
print(made(store, "cd" * 16, "another result", lambda: __import__("time").sleep(0.1) or "anew").value)
"""


def test_a_read_only_store_is_read(tmp_path, python, monkeypatch):
    "What is there is found, what is not is computed, and nothing is written."
    monkeypatch.setenv("ML_PKG_KEY", "a secret that both users know")
    store = Checkpoints(tmp_path / "store")
    assert store.save(KEY, pack("kept", "a result"), seconds=100)
    def files() -> list[str]: return sorted(path.name for path in store.path.rglob("*") if path.is_file())
    before = files()
    for path in (*store.path.rglob("*"), store.path): path.chmod(0o555 if path.is_dir() else 0o444)
    options = unprivileged(tmp_path)
    # Where root's interpreter is out of other users' reach, root itself is stopped by a file size of zero.
    if not can_run_python(options): options = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))}
    assert python(READING, store.path, cwd="/", **options).split() == ["kept", "anew"]
    assert files() == before


def test_killed_at_50_random_moments_of_writing_leaves_whole_entries(tmp_path, attempts):
    random_moment, store = random.Random(1), Checkpoints(tmp_path)
    for _ in range(50):
        writer = started(WRITING, tmp_path)
        time.sleep(random_moment.uniform(0, 0.05))
        writer.kill()
        writer.wait()
        for number in range(7):
            place = store.place(f"{number:032x}")
            if place.exists(): assert (read_entry(place).value == number).all()
        attempts(1)
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
