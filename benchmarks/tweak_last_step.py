"""What a fit costs when only the last step of a pipeline has changed, beside other stores of step results.

    python benchmarks/tweak_last_step.py
    python benchmarks/tweak_last_step.py --rows 10000 --only ours joblib --repeats 5

StandardScaler, PolynomialFeatures, SelectKBest and a LogisticRegression that gets another C every time, on 20 columns of
numbers. Every contestant runs in a process of its own, one after another, from an empty store that is deleted afterwards.
In the same process, in turns with the fits that are timed, the same classifier is fitted on the transformed rows already in
memory: that is the baseline, and what a fit takes longer than its baseline is the overhead. Files are read back from the
page cache, for all alike. One BLAS and one OpenMP thread.

skrub and Apache Hamilton get a virtual environment each, made when it is first needed, with the same scikit-learn, numpy,
pandas and joblib as here. skrub stores as SKB_CACHE says, without a limit of size. Hamilton's nodes give back the rows and
not the fitted steps, so it stores less than the others.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import environments
import numpy as np
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

COLUMNS = 20
MOST_OVERHEAD, MOST_SHARE, MOST_IDENTICAL = 0.010, 0.03, 0.020 # seconds, share of the baseline, seconds
LEAST_FACTOR = {10_000: 5, 1_000_000: 50}                      # joblib's overhead over ours, by rows
REQUIREMENTS = {"skrub": ["skrub==0.11.0"], "hamilton": ["apache-hamilton==1.90.0"]}


# What is fitted. This file also runs in the other environments, where ml_pkg is not installed.

def table(rows:int) -> tuple[np.ndarray, np.ndarray]:
    "Correlated numbers, shape (rows, 20), and a binary target that follows two of them and a product, with noise."
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, COLUMNS)) + 2 * random.normal(size=(rows, 1))
    return X, (X[:, 0] - X[:, 1] + X[:, 2] * X[:, 3] + random.normal(size=rows) > 0).astype("int64")


def transformers() -> list[tuple[str, object]]:
    "The steps that stay as they are."
    return [("scale", StandardScaler()), ("expand", PolynomialFeatures(2, interaction_only=True)), ("select", SelectKBest(k=50))]


def classifier(C:float) -> LogisticRegression:
    "The step that changes. It always makes the same number of iterations: columns that are correlated need more of them."
    return LogisticRegression(C=C, max_iter=35, tol=1e-14, random_state=0)


# The contestants: made with the folder of an empty store; `fit` gives back the coefficients, `again` fits the same once more.

class Plain:
    "scikit-learn alone: every step is fitted every time."
    def __init__(self, folder:Path): self.memory = None

    def fit(self, X:np.ndarray, y:np.ndarray, C:float) -> np.ndarray:
        return Pipeline([*transformers(), ("classify", classifier(C))], memory=self.memory).fit(X, y)["classify"].coef_

    def again(self, X:np.ndarray, y:np.ndarray, C:float) -> Callable:
        "What is timed as a repeated identical run."
        return lambda: self.fit(X, y, C)


class Joblib(Plain):
    "A pipeline with joblib's store."
    def __init__(self, folder:Path):
        from joblib import Memory
        self.memory = Memory(folder, verbose=0)


class Ours(Plain):
    "A pipeline with our store; identical again is an experiment's run."
    def __init__(self, folder:Path):
        from ml_pkg import Checkpoints
        self.memory = Checkpoints(folder)

    def again(self, X:np.ndarray, y:np.ndarray, C:float) -> Callable:
        import pandas as pd

        from ml_pkg import Dataset, Evaluation, Experiment
        frame = pd.DataFrame(X, columns=[f"number_{place}" for place in range(COLUMNS)]).assign(y=y)
        pipeline = Pipeline([*transformers(), ("classify", classifier(C))])
        experiment = Experiment("bench", Dataset(frame, target="y"), pipeline, Evaluation(cv=5, metrics=["accuracy"]))
        experiment.run(checkpoints=self.memory)
        return lambda: experiment.run(checkpoints=self.memory)


class Skrub(Plain):
    "skrub's data operations; SKB_CACHE names the store."
    def fit(self, X:np.ndarray, y:np.ndarray, C:float) -> np.ndarray:
        import skrub
        rows, target = skrub.X(), skrub.y()
        for _, step in transformers(): rows = rows.skb.apply(step, y=target)
        learner = rows.skb.apply(classifier(C), y=target).skb.set_name("classify").skb.make_learner()
        return learner.fit({"X": X, "y": y}).find_fitted_estimator("classify").coef_


class Hamilton(Plain):
    "Apache Hamilton: one function a step, and its store."
    def __init__(self, folder:Path):
        from hamilton import ad_hoc_utils, driver
        steps = ad_hoc_utils.create_temporary_module(scaled, expanded, selected, fitted, module_name="steps")
        self.driver = driver.Builder().with_modules(steps).with_cache(path=folder).build()

    def fit(self, X:np.ndarray, y:np.ndarray, C:float) -> np.ndarray:
        return self.driver.execute(["fitted"], inputs={"X": X, "y": y, "C": C})["fitted"].coef_


def scaled(X:np.ndarray) -> np.ndarray: return StandardScaler().fit_transform(X)
def expanded(scaled:np.ndarray) -> np.ndarray: return PolynomialFeatures(2, interaction_only=True).fit_transform(scaled)
def selected(expanded:np.ndarray, y:np.ndarray) -> np.ndarray: return SelectKBest(k=50).fit_transform(expanded, y)
def fitted(selected:np.ndarray, y:np.ndarray, C:float) -> LogisticRegression: return classifier(C).fit(selected, y)


CONTESTANTS = {"plain": Plain, "joblib": Joblib, "skrub": Skrub, "hamilton": Hamilton, "ours": Ours}


# One contestant, in its own process.

def timed(work:Callable) -> tuple[float, object]:
    "Wall time, and what came of it."
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def pair(contestant:Plain, X:np.ndarray, y:np.ndarray, reached:np.ndarray, number:int) -> tuple[float, float]:
    "Seconds of the baseline and of the tweaked fit for a C that is new. Raises SystemExit if they differ in what they learn."
    C = 1.0 + 0.01 * (number + 1)
    work = {"baseline": lambda: classifier(C).fit(reached, y).coef_, "tweaked": lambda: contestant.fit(X, y, C)}
    order = list(work) if number % 2 == 0 else list(reversed(work)) # neither always comes second
    done = {name: timed(work[name]) for name in order}
    if not np.allclose(done["baseline"][1], done["tweaked"][1]): raise SystemExit(f"C={C}: the coefficients are not those of the baseline")
    return done["baseline"][0], done["tweaked"][0]


def work(name:str, rows:int, repeats:int, folder:Path) -> dict[str, list[float]]:
    "All times of one contestant at one size, in seconds."
    X, y = table(rows)
    small = table(1_000)
    for each in (Plain(folder), contestant := CONTESTANTS[name](folder)): each.fit(*small, 1.0) # imports do not count
    _, plain = (timed(lambda: Plain(folder).fit(X, y, 1.0))[0] for _ in range(2)) # the first one pays for fresh memory
    first, _ = timed(lambda: contestant.fit(X, y, 1.0))
    os.sync() # the disk has caught up before anything else is timed
    reached = Pipeline(transformers()).fit_transform(X, y)
    pairs = [pair(contestant, X, y, reached, number) for number in range(repeats)]
    del reached
    again = contestant.again(X, y, 1.0)
    identical = [timed(again)[0] for _ in range(3 if rows > 500_000 else repeats)]
    return {"baseline": [pair[0] for pair in pairs], "tweaked": [pair[1] for pair in pairs], "plain": [plain], "first": [first], "identical": identical}


def stay_within_memory() -> None:
    "Let this process fail for lack of memory by itself, rather than the system end another one."
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists(): return
    kilobytes = next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(0.97 * 1024 * kilobytes),) * 2)


def run_worker(name:str, rows:int, repeats:int, folder:Path) -> None:
    "Print the times of one contestant as a line of JSON."
    stay_within_memory()
    warnings.simplefilter("ignore") # few iterations: nothing converges, and that is meant
    print("\n" + json.dumps(work(name, rows, repeats, folder)))


# Environments and processes.

def surroundings(name:str, store:str) -> dict[str, str]:
    "Environment variables of a contestant's process."
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or name not in REQUIREMENTS}
    return {**inherited, **environments.ONE_THREAD, "ML_PKG_WORKSPACE": f"{store}/workspace", "HAMILTON_TELEMETRY_ENABLED": "false", "SKB_TARGET_CACHE_SIZE": "none",
            **({"SKB_CACHE": f"{store}/steps"} if name == "skrub" else {})}


def measure(name:str, python:Path, rows:int, repeats:int) -> dict[str, list[float]] | None:
    "Times of one contestant in a process of its own, its store deleted; None if it failed, which is told."
    with tempfile.TemporaryDirectory(prefix="tweak-") as store:
        command = [str(python), __file__, "--worker", name, "--rows", str(rows), "--repeats", str(repeats), "--store", f"{store}/steps"]
        done = subprocess.run(command, env=surroundings(name, store), capture_output=True, text=True)
    if done.returncode == 0: return json.loads(environments.last_line(done.stdout))
    print(f"{name} failed at {rows:,} rows (exit {done.returncode}): {environments.last_line(done.stderr)}", flush=True)
    return None


# What is printed.

def medians(times:dict[str, list[float]]) -> dict[str, float]:
    "One number for each kind of time; the overhead is the median difference of a fit and its own baseline."
    overheads = [tweaked - baseline for baseline, tweaked in zip(times["baseline"], times["tweaked"], strict=True)]
    middle = {kind: statistics.median(each) for kind, each in times.items()}
    return {**middle, "overhead": statistics.median(overheads), "first over plain": middle["first"] / middle["plain"]}


def show(rows:int, results:dict[str, dict[str, float]]) -> None:
    "Print the table of one size, in milliseconds."
    kinds = ["baseline", "tweaked", "overhead", "first", "identical"]
    print(f"\n{rows:,} rows, milliseconds\n{'':<10}" + "".join(f"{kind:>11}" for kind in kinds) + f"{'first over plain':>18}")
    for name, middle in results.items():
        print(f"{name:<10}" + "".join(f"{1000 * middle[kind]:>11.1f}" for kind in kinds) + f"{middle['first over plain']:>18.2f}", flush=True)


def bars(rows:int, results:dict[str, dict[str, float]]) -> list[bool]:
    "Print what has to hold at one size, and whether it does."
    if "ours" not in results: return [verdict(rows, "ours was measured", False)]
    ours, joblib = results["ours"], results.get("joblib")
    allowed = MOST_OVERHEAD + MOST_SHARE * ours["baseline"]
    held = [verdict(rows, f"overhead {1000 * ours['overhead']:.1f} ms, below {1000 * allowed:.1f} ms", ours["overhead"] < allowed),
            verdict(rows, f"identical again {1000 * ours['identical']:.1f} ms, below {1000 * MOST_IDENTICAL:.0f} ms", ours["identical"] < MOST_IDENTICAL)]
    if joblib and rows in LEAST_FACTOR:
        factor = LEAST_FACTOR[rows]
        held.append(verdict(rows, f"joblib's overhead {1000 * joblib['overhead']:.1f} ms, at least {factor} times ours", joblib["overhead"] >= factor * ours["overhead"]))
    return held


def verdict(rows:int, what:str, holds:bool) -> bool:
    "Print one bar."
    print(f"{'pass' if holds else 'FAIL'}  {rows:>9,} rows: {what}")
    return holds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=7, help="tweaked fits that are timed")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="CONTESTANT", help=", ".join(CONTESTANTS))
    environments.add_option(parser)
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS) # a process of one contestant
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if chosen.worker:
        run_worker(chosen.worker, chosen.rows[0], chosen.repeats, chosen.store)
        return
    print(f"{environments.versions()}, medians of {chosen.repeats}")
    pythons, absent = environments.environments({name: (name, REQUIREMENTS.get(name, [])) for name in chosen.only}, chosen.environments)
    for name, reason in absent.items(): print(f"{name} {reason}, and is left out")
    held, results = [], {}
    for rows in chosen.rows:
        times = {name: measure(name, python, rows, chosen.repeats) for name, python in pythons.items()}
        results[rows] = {name: medians(each) for name, each in times.items() if each}
        show(rows, results[rows])
    if "ours" in chosen.only: held = [each for rows in chosen.rows for each in bars(rows, results[rows])]
    raise SystemExit(0 if all(held) else 1)


if __name__ == "__main__": main()
