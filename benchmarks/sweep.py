"""A sweep of variants that share their first steps, beside other ways to search; and what a variant costs as sweeps grow.

    python benchmarks/sweep.py                    # 24 variants by 5 folds, side by side, then warm
    python benchmarks/sweep.py --quick            # once, on fewer rows; times are shown and not judged
    python benchmarks/sweep.py --only "GridSearchCV 2" "ours 2"
    python benchmarks/sweep.py --growth           # 24, 240 and 2,400 variants: seconds each, and memory

An IterativeImputer, PolynomialFeatures and a StandardScaler that all variants share, four values of k in SelectKBest, six of C in
a LogisticRegression. The least possible is measured in the same run: a plain loop of scikit-learn calls in one process fits and
applies each distinct step once in each fold, and scores each variant; the sum of these times, divided by the number of jobs,
is what nobody can beat who does the same work. Two such loops at once show how much two cores cost each other. A machine that
is shared does not keep its pace from one minute to the next, so that a loop and a sweep that follow each other tell of the machine:
ours is judged in turns of a second or two (benchmarks/turns.py) with one loop alone, and with as many at once as it has jobs,
which all sides meet alike, and against the steps as they were timed in its own
processes. With two jobs, one loop alone counts what the cores cost each other, which nobody is spared who uses both; as many at once
tell if steps take longer in ours; its own steps miss nothing that ours waits for (what is written reaches
the disk while a side is stopped, too). How long it takes to write what is
kept is a matter of the machine (a virtual one may get its memory page by page), so it is said what a plain loop takes for as
many bytes right afterwards. Every step that is shared adds a line to a file whenever it is fitted, in whatever process. All have
to come to the same scores.

The sizes of --growth take turns in the same way, the smaller sweeps again and again beside the largest, so that seconds per variant
are those of the same machine.

Contestants take turns, each in a process of its own and from an empty store. Before its clock starts, each has made a sweep of
a few rows with the same steps, so that neither imports nor the start of worker processes count: that time is in the
column `start`. Those that keep results are then asked for the same sweep once more in a new process. The peers get
arrays, which they are quickest with; ours gets a frame, and reads predictions and probabilities out of fold as well. One BLAS and
one OpenMP thread, for all. No model is fitted on all rows at the end.

dask-ml and skrub get a virtual environment each, made when it is first needed, with the same scikit-learn, numpy, pandas and
joblib as here. dask-ml runs on its threads, which is its default. skrub stores as SKB_CACHE says, without a limit of size.
"""

import argparse
import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import environments
import numpy as np
import turns
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (IterativeImputer is there after it)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

COLUMNS = 20
KEPT, STRENGTHS = (60, 80, 100, 120), 6     # values of k, number of values of C
ITERATIONS = 100                            # of each LogisticRegression; no fit converges before
MOST_OVER_LEAST, MOST_WARM = 1.15, 0.5      # ratio, seconds
MOST_UNEVEN, MOST_MEMORY = 1.2, 1.5         # ratios of the dearest size to the cheapest, and of the peaks of the largest and the smallest
ROWS, QUICK_ROWS, FEW_ROWS, GROWTH_ROWS = 20_000, 4_000, 400, 1_000
REQUIREMENTS = {"dask-ml": ["dask-ml==2025.1.0"], "skrub": ["skrub==0.11.0"]}


# What is fitted. This file also runs in the other environments, where ml_pkg is not installed.

def table(rows:int) -> tuple[np.ndarray, np.ndarray]:
    "Correlated numbers, shape (rows, 20), a tenth of them missing, and a binary target that follows two of them and a product."
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, COLUMNS)) + 2 * random.normal(size=(rows, 1))
    y = (X[:, 0] - X[:, 1] + X[:, 2] * X[:, 3] + random.normal(size=rows) > 0).astype("int64")
    X[random.random(X.shape) < 0.1] = np.nan
    return X, y


def note(step:object) -> None:
    "Add a line to the log of fits. Each line is one write to the end of the file, so that no process overwrites another's."
    handle = os.open(os.environ["SWEEP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{type(step).__name__.lower()}\n".encode())
    os.close(handle)


class Noted:
    "Notes every fit."
    def fit(self, X:np.ndarray, y:np.ndarray|None=None) -> "Noted":
        note(self)
        return super().fit(X, y)


class Impute(IterativeImputer):
    "Notes every fit. Its `fit` calls `fit_transform`, where other transformers do the reverse."
    def fit_transform(self, X:np.ndarray, y:np.ndarray|None=None) -> np.ndarray:
        note(self)
        return super().fit_transform(X, y)


class Expand(Noted, PolynomialFeatures): pass
class Scale(Noted, StandardScaler): pass
class Select(Noted, SelectKBest): pass


STEPS = tuple(step.__name__.lower() for step in (Impute, Expand, Scale, Select))


def shared_steps(imputer:object) -> list[tuple[str, object]]:
    "What all variants have in common."
    return [("impute", imputer), ("expand", Expand(2, interaction_only=True, include_bias=False)), ("scale", Scale())]


def expensive() -> Impute: return Impute(max_iter=1, random_state=0)
def classifier(C:Any=1.0) -> LogisticRegression: return LogisticRegression(C=C, max_iter=ITERATIONS, tol=1e-14, random_state=0)


def pipeline(imputer:object, memory:Any=None) -> Pipeline:
    return Pipeline([*shared_steps(imputer), ("selectkbest", Select(k=KEPT[0])), ("logisticregression", classifier())], memory=memory)


def grid(strengths:int) -> dict[str, list]:
    "The values that vary, by scikit-learn's names. However many values of C there are, they lie in the same range."
    return {"selectkbest__k": list(KEPT), "logisticregression__C": np.geomspace(0.01, 10, strengths).tolist()}


# The contestants: made with a number of jobs and a folder; `prepared` gives what is timed, `scores` reads what came of it.

class Variant(NamedTuple):
    "One line of a result: what varies, and its mean accuracy."
    k: int
    C: float
    accuracy: float


class Grid:
    "scikit-learn's search over a pipeline."
    def __init__(self, jobs:int, folder:Path): self.jobs, self.memory = jobs, None

    def prepared(self, X:np.ndarray, y:np.ndarray, values:dict[str, list]) -> Callable:
        search = GridSearchCV(pipeline(expensive(), self.memory), values, scoring="accuracy", cv=5, n_jobs=self.jobs, refit=False)
        return lambda: search.fit(X, y)

    def scores(self, done:Any) -> list[Variant]:
        each = zip(done.cv_results_["params"], done.cv_results_["mean_test_score"], strict=True)
        return [Variant(values["selectkbest__k"], values["logisticregression__C"], float(mean)) for values, mean in each]

    def shown(self, done:Any) -> None: "Nothing is shown."
    def step_seconds(self, done:Any) -> float: return float("nan") # nobody but ours times its steps
    def written(self) -> tuple[int, float]: return 0, 0.0          # nor is asked what it wrote


class Joblib(Grid):
    "The same with joblib's store."
    def __init__(self, jobs:int, folder:Path):
        from joblib import Memory
        super().__init__(jobs, folder)
        self.memory = Memory(folder, verbose=0)


class Dask(Grid):
    "dask-ml's search, which does what pipelines have in common once."
    def prepared(self, X:np.ndarray, y:np.ndarray, values:dict[str, list]) -> Callable:
        from dask_ml.model_selection import GridSearchCV
        search = GridSearchCV(pipeline(expensive()), values, scoring="accuracy", cv=5, n_jobs=self.jobs, refit=False, iid=False, return_train_score=False)
        return lambda: search.fit(X, y)


class Skrub(Grid):
    "skrub's data operations and choices; SKB_CACHE names the store, if there is to be one."
    def prepared(self, X:np.ndarray, y:np.ndarray, values:dict[str, list]) -> Callable:
        import skrub
        k, C = (skrub.choose_from(choices, name=name) for name, choices in values.items())
        rows, target = skrub.X(), skrub.y()
        for _, step in [*shared_steps(expensive()), ("select", Select(k=k))]: rows = rows.skb.apply(step, y=target)
        search = rows.skb.apply(classifier(C), y=target).skb.make_grid_search(scoring="accuracy", cv=5, n_jobs=self.jobs, refit=False)
        return lambda: search.fit({"X": X, "y": y})

    def scores(self, done:Any) -> list[Variant]:
        found = done.results_
        return [Variant(int(k), float(C), float(mean)) for k, C, mean in zip(found["selectkbest__k"], found["logisticregression__C"], found["mean_test_score"], strict=True)]


class Ours(Grid):
    "A sweep over an experiment, in the workspace that the environment names."
    imputer = staticmethod(expensive)

    def prepared(self, X:np.ndarray, y:np.ndarray, values:dict[str, list]) -> Callable:
        import pandas as pd

        from ml_pkg import Dataset, Evaluation, Experiment
        frame = pd.DataFrame(X, columns=[f"number_{place}" for place in range(COLUMNS)]).assign(y=y)
        experiment = Experiment(name="bench", dataset=Dataset(frame, target="y"), estimator=pipeline(self.imputer()), evaluation=Evaluation(cv=5, metrics=["accuracy"]))
        sweep = experiment.vary(**values)
        return lambda: sweep.run(n_jobs=self.jobs, budget=len(sweep)) # more than a thousand variants have to be asked for

    def scores(self, done:Any) -> list[Variant]:
        found = [(each.experiment.estimator.get_params(), done.frame.loc[each.name, "score"]) for each in done]
        return [Variant(values["selectkbest__k"], values["logisticregression__C"], float(score)) for values, score in found]

    def shown(self, done:Any) -> None:
        "As a notebook shows it."
        done._repr_html_()

    def step_seconds(self, done:Any) -> float:
        "What the steps took that were computed, asking for predictions once and scoring among them."
        return float(sum(each.run.timings.query("outcome == 'computed'")["seconds"].sum() for each in done))

    def written(self) -> tuple[int, float]:
        "The bytes that are kept, and the seconds that a plain loop takes to write as many, here and now."
        workspace, part = Path(os.environ["ML_PKG_WORKSPACE"]), np.random.default_rng(0).bytes(16 * 2**20)
        count = sum(path.stat().st_size for path in workspace.rglob("*") if path.is_file())
        with tempfile.TemporaryFile(dir=workspace, buffering=0) as file: return count, seconds(lambda: [file.write(part) for _ in range(-(-count // len(part)))])[0]


class Growing(Ours):
    "A sweep whose shared steps are cheap, so that what is seen is the price of a variant."
    imputer = staticmethod(SimpleImputer)


class Contestant(NamedTuple):
    "Who takes part."
    kind: type[Grid]
    jobs: int
    environment: str = ""   # of its own, if any
    keeps: bool = False     # whether it has results when it is asked again


CONTESTANTS = {"GridSearchCV 1": Contestant(Grid, 1), "joblib.Memory 1": Contestant(Joblib, 1, keeps=True), "ours 1": Contestant(Ours, 1, keeps=True),
               "GridSearchCV 2": Contestant(Grid, 2), "joblib.Memory 2": Contestant(Joblib, 2, keeps=True), "dask-ml 2": Contestant(Dask, 2, "dask-ml"),
               "skrub 2": Contestant(Skrub, 2, "skrub"), "skrub cached 2": Contestant(Skrub, 2, "skrub", keeps=True), "ours 2": Contestant(Ours, 2, keeps=True)}


# In a process of its own: one contestant, or the loop.

def seconds(work:Callable) -> tuple[float, Any]:
    "Wall time, and what came of it."
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


class Clock:
    "Adds up how long calls take."
    def __init__(self): self.total = 0.0

    def __call__(self, function:Callable, *arguments:Any) -> Any:
        took, result = seconds(lambda: function(*arguments))
        self.total += took
        return result


def loop(X:np.ndarray, y:np.ndarray, values:dict[str, list]) -> tuple[float, list[Variant]]:
    "Seconds of all distinct steps, and the scores of all variants."
    clock, accuracies = Clock(), collections.defaultdict(list)
    for train, test in StratifiedKFold(5).split(X, y):
        rows, others, target, truth = X[train], X[test], y[train], y[test]
        for _, step in shared_steps(expensive()): rows, others = clock(step.fit_transform, rows, target), clock(step.transform, others)
        for k in values["selectkbest__k"]:
            select = Select(k=k)
            chosen, left = clock(select.fit_transform, rows, target), clock(select.transform, others)
            for C in values["logisticregression__C"]: accuracies[k, C].append(clock(clock(classifier(C).fit, chosen, target).score, left, truth))
    return clock.total, [Variant(k, C, float(np.mean(each))) for (k, C), each in accuracies.items()]


def work_least(rows:int, waits:bool) -> dict[str, Any]:
    loop(*table(FEW_ROWS), grid(1))
    forget_fits()
    X, y = table(rows)
    with in_turn(waits): took, scores = loop(X, y, grid(STRENGTHS))
    return {"seconds": took, "scores": sorted(scores), "fits": fits()}


def pause() -> None: time.sleep(0.2) # long enough that no process does the share of another; to find this function, it imports this file


def ready(jobs:int) -> None:
    "Start joblib's worker processes."
    from joblib import Parallel, delayed
    if jobs > 1: Parallel(n_jobs=jobs)(delayed(pause)() for _ in range(jobs))


@contextlib.contextmanager
def in_turn(waits:bool) -> Iterator[None]:
    "Whether what is timed waits for its turns."
    if waits: turns.begin()
    yield
    if waits: turns.end()


def work(kind:type[Grid], jobs:int, rows:int, strengths:int, folder:Path, waits:bool) -> dict[str, Any]:
    "One sweep, after a small one that does not count."
    contestant = kind(jobs, folder)
    def small() -> None:
        ready(jobs)
        contestant.shown(contestant.prepared(*table(FEW_ROWS), grid(2))())
    start, _ = seconds(small)
    X, y = table(rows)
    forget_fits()
    declare, sweep = seconds(lambda: contestant.prepared(X, y, grid(strengths)))
    with in_turn(waits): took, done = seconds(sweep)
    counted = fits()
    display, _ = seconds(lambda: contestant.shown(done))
    scores = [] if kind is Growing else sorted(contestant.scores(done))
    return {"start": start, "declare": declare, "seconds": took, "display": display, "steps": contestant.step_seconds(done), "fits": counted, "scores": scores, "written": contestant.written()}


def fits() -> dict[str, int]:
    "How often each shared step was fitted since the log was emptied."
    return collections.Counter(Path(os.environ["SWEEP_LOG"]).read_text().split())


def forget_fits() -> None: Path(os.environ["SWEEP_LOG"]).write_text("")


# Environments and processes.

def surroundings(name:str, store:str) -> dict[str, str]:
    "Environment variables of a process. Worker processes inherit them."
    own = name in CONTESTANTS and CONTESTANTS[name].environment
    inherited = {key: value for key, value in os.environ.items() if key not in ("SKB_CACHE", *(["PYTHONPATH"] if own else []))}
    return {**inherited, **environments.ONE_THREAD, "PYTHONWARNINGS": "ignore", "SWEEP_LOG": f"{store}/fits.log", "ML_PKG_WORKSPACE": f"{store}/workspace", "SKB_TARGET_CACHE_SIZE": "none",
            **({"SKB_CACHE": f"{store}/steps"} if name == "skrub cached 2" else {})}


def begun(python:Path, name:str, rows:int, strengths:int, store:str, waits:bool=False) -> subprocess.Popen:
    "A process that does one sweep, or the loop."
    os.sync() # nobody waits for what another has written
    command = [str(python), __file__, "--worker", name, "--rows", str(rows), "--strengths", str(strengths), "--store", f"{store}/steps", *(["--in-turns"] if waits else [])]
    return subprocess.Popen(command, env=surroundings(name, store), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None if waits else subprocess.PIPE, text=True)


def ended(process:subprocess.Popen) -> dict[str, Any]:
    "What a process measured; the reason, if it failed."
    printed, complaints = process.communicate()
    if process.returncode == 0: return json.loads(environments.last_line(printed))
    return {"failed": f"exit {process.returncode}: {environments.last_line(complaints)}"}


@contextlib.contextmanager
def empty_store() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True) as folder: yield folder


def least(rows:int) -> dict[str, Any]:
    "The loop by itself, and two of them at once."
    with empty_store() as one, empty_store() as other:
        alone = ended(begun(Path(sys.executable), "least", rows, STRENGTHS, one))
        both = [ended(each) for each in [begun(Path(sys.executable), "least", rows, STRENGTHS, store) for store in (one, other)]]
    for each in (alone, *both):
        if "failed" in each: raise SystemExit(f"the loop of scikit-learn calls failed ({each['failed']})")
    return {**alone, "at once": statistics.mean(each["seconds"] for each in both)}


def over_loops(name:str, python:Path, rows:int) -> dict[str, float]:
    "One contestant from an empty store in turns with one loop, and with as many at once as it has jobs: its seconds over those of a loop, divided by its jobs."
    jobs = CONTESTANTS[name].jobs
    with contextlib.ExitStack() as stores:
        def waiting(python:Path, name:str) -> subprocess.Popen: return begun(python, name, rows, STRENGTHS, stores.enter_context(empty_store()), waits=True)
        def loops(number:int) -> tuple[list[subprocess.Popen], int]: return [waiting(Path(sys.executable), "least") for _ in range(number)], jobs
        (took,), *least = turns.timed([([waiting(python, name)], 1), *map(loops, sorted({1, jobs}))])
    alone, at_once = least[0], least[-1]
    return {"alone": took * jobs / statistics.mean(alone), "at once": took * jobs / statistics.mean(at_once)}


def measure(name:str, python:Path, rows:int) -> dict[str, Any]:
    "One contestant from an empty store, and once more from the store it has made, if it keeps one."
    with empty_store() as store:
        cold = ended(begun(python, name, rows, STRENGTHS, store))
        warm = ended(begun(python, name, rows, STRENGTHS, store)) if CONTESTANTS[name].keeps and "failed" not in cold else None
    return {**cold, "warm": warm, **({"over loops": over_loops(name, python, rows)} if name.startswith("ours") and "failed" not in cold else {})}


# Side by side.

class Result(NamedTuple):
    "One contestant over all repeats: medians, and ratios to what was measured in the same repeat."
    seconds: float
    start: float
    over_least: float             # the loop before all contestants
    over_loops: dict[str, float]  # in turns with one, `alone`, and with as many as there are jobs, `at once`; NaN for who is not held against them
    over_steps: float             # NaN for who does not time its steps
    over_grid: float|None
    fits: dict[str, int]
    same: bool                    # whether all scores are those of the loop
    warm: dict[str, float]|None   # medians: declare, seconds, display


def agree(measured:list, expected:list) -> bool:
    "Whether two lists of variants have the same accuracies."
    return [each[:2] for each in measured] == [each[:2] for each in expected] and np.allclose([each[2] for each in measured], [each[2] for each in expected], rtol=0, atol=1e-12)


def result(name:str, rounds:list[dict]) -> Result:
    "What is told of a contestant. A round has what each one measured, and `least`."
    jobs, mine = CONTESTANTS[name].jobs, [each[name] for each in rounds]
    plain = [each.get(f"GridSearchCV {jobs}", {}).get("seconds") for each in rounds]
    def middle(values:Iterator) -> float: return statistics.median(values)
    warm = [each["warm"] for each in mine if each["warm"]]
    return Result(middle(each["seconds"] for each in mine), middle(each["start"] for each in mine),
                  middle(each["seconds"] * jobs / round["least"]["seconds"] for each, round in zip(mine, rounds, strict=True)),
                  {kind: middle(each.get("over loops", {}).get(kind, float("nan")) for each in mine) for kind in ("alone", "at once")},
                  middle(each["seconds"] * jobs / each["steps"] for each in mine),
                  middle(each["seconds"] / other for each, other in zip(mine, plain, strict=True)) if all(plain) else None,
                  {step: max(each["fits"].get(step, 0) for each in mine) for step in STEPS},
                  all(agree(each["scores"], round["least"]["scores"]) for each, round in zip([*mine, *warm], [*rounds, *(rounds if warm else [])], strict=True)),
                  {part: middle(each[part] for each in warm) for part in ("declare", "seconds", "display")} if warm else None)


def side_by_side(chosen:argparse.Namespace, rows:int, repeats:int) -> bool:
    "Measure and print all contestants; whether every bar holds."
    kept_in = {name: CONTESTANTS[name].environment for name in chosen.only}
    pythons, failed = environments.environments({name: (kept, REQUIREMENTS.get(kept, [])) for name, kept in kept_in.items()}, chosen.environments)
    rounds = []
    for number in range(repeats):
        rounds.append({"least": least(rows)})
        names = [name for name in pythons if name not in failed]
        first = number * len(names) // repeats
        for name in [*names[first:], *names[:first]]: # nobody always comes first
            measured = measure(name, pythons[name], rows)
            trouble = next((each["failed"] for each in (measured, measured.get("warm") or {}) if "failed" in each), None)
            if trouble: failed[name] = trouble
            rounds[-1][name] = measured
    results = {name: result(name, rounds) for name in pythons if name not in failed}
    show(rounds, results, failed)
    return all(bars(rounds, results, [name for name in chosen.only if name in failed], is_timed=not chosen.quick))


def ratio(value:float) -> str: return "" if np.isnan(value) else f"{value:.2f}"


def show(rounds:list[dict], results:dict[str, Result], failed:dict[str, str]) -> None:
    "Print the tables."
    alone, at_once = (statistics.median(each["least"][kind] for each in rounds) for kind in ("seconds", "at once"))
    print(f"\nleast possible: {alone:.1f} s with one job, {alone / 2:.1f} s with two; two loops at once take {at_once / alone:.2f} times as long each")
    print(f"\n{'':<17}{'seconds':>9}{'over least':>12}{'one loop':>10}{'loops':>12}{'over steps':>12}{'over grid':>11}{'start':>8}   fits of" + "".join(f"{step:>8}" for step in STEPS))
    distinct = rounds[0]["least"]["fits"]
    print(f"{'distinct steps':<17}{'':>9}{'':>12}{'':>10}{'':>12}{'':>12}{'':>11}{'':>8}          " + "".join(f"{distinct[step]:>8}" for step in STEPS))
    for name, each in results.items():
        over_grid = "" if each.over_grid is None else f"{each.over_grid:.2f}"
        print(f"{name:<17}{each.seconds:>9.2f}{each.over_least:>12.2f}{ratio(each.over_loops['alone']):>10}{ratio(each.over_loops['at once']):>12}{ratio(each.over_steps):>12}{over_grid:>11}{each.start:>8.1f}          " + "".join(f"{each.fits[step]:>8}" for step in STEPS))
    for name, reason in failed.items(): print(f"{name:<17} {reason}")
    print("\nagain, warm, in a new process")
    for name, each in results.items():
        if each.warm: print(f"{name:<17}{each.warm['seconds']:>9.2f} s")
    for name, each in results.items():
        if each.warm and name.startswith("ours"): print(f"{name}: to declare the sweep {1000 * each.warm['declare']:.0f} ms, to show its leaderboard {1000 * each.warm['display']:.0f} ms")
    for name in (name for name in results if name.startswith("ours")):
        kept, took = (statistics.median(each) for each in zip(*(round[name]["written"] for round in rounds), strict=True))
        print(f"{name}: a plain loop takes {took:.2f} s to write the {kept / 1e6:.0f} MB that it keeps")
    print()


def bars(rounds:list[dict], results:dict[str, Result], failed:list[str], is_timed:bool) -> list[bool]:
    "Print what has to hold, and whether it does."
    held = [verdict(f"{name} was measured", False) for name in failed if name.startswith("ours")]
    held += [verdict(f"{name} has the scores of the loop", each.same) for name, each in results.items() if name.startswith("ours") or not each.same]
    distinct = {step: rounds[0]["least"]["fits"][step] for step in STEPS}
    for name in [name for name in results if name.startswith("ours")]:
        held.append(verdict(f"{name} fits each distinct step once", results[name].fits == distinct))
        if is_timed: held += times_hold(name, results)
    return held


def times_hold(name:str, results:dict[str, Result]) -> list[bool]:
    "The bars of one of ours that depend on time."
    each, jobs = results[name], CONTESTANTS[name].jobs
    alone, at_once = each.over_loops["alone"], each.over_loops["at once"]
    several = "" if jobs == 1 else f", {at_once:.3f} times those of {jobs} loops at once"
    held = [verdict(f"{name} takes {alone:.3f} times the steps of the loop{several}, in turns, and {each.over_steps:.3f} times its own, divided by its jobs; at most {MOST_OVER_LEAST}",
                1 <= alone <= MOST_OVER_LEAST and at_once <= MOST_OVER_LEAST and each.over_steps <= MOST_OVER_LEAST),
            verdict(f"{name} again, warm, takes {each.warm['seconds']:.3f} s, less than {MOST_WARM}", each.warm["seconds"] < MOST_WARM)]
    peers = {peer: other.seconds for peer, other in results.items() if CONTESTANTS[peer].jobs == jobs and not peer.startswith("ours")}
    if best := min(peers, key=peers.get, default=None): held.append(verdict(f"{name} takes {each.seconds:.2f} s, less than {best} with {peers[best]:.2f} s", each.seconds < peers[best]))
    return held


def verdict(what:str, holds:bool) -> bool:
    "Print one bar."
    print(f"{'pass' if holds else 'FAIL'}  {what}")
    return holds


# Growth.

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(process:int) -> int:
    "Bytes that a process has in memory; 0 if it has ended."
    try: return PAGE * int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError): return 0


class Peaks:
    "Watches how much memory a process and its workers have, four times a second, while the block runs."
    def __init__(self, process:int): self.process, self.main, self.workers, self.over = process, 0, 0, threading.Event()

    def __enter__(self) -> "Peaks":
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error:Any) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        while (here := resident(self.process)) and not self.over.wait(0.25):
            self.main = max(self.main, here)
            self.workers = max(self.workers, sum(map(resident, turns.descendants(self.process))))


class Grown:
    "One sweep of ours from an empty workspace, which waits for its turns."
    def __init__(self, size:int, rows:int, until:contextlib.ExitStack): self.size, self.rows, self.until = size, rows, until

    def start(self) -> subprocess.Popen:
        store = self.until.enter_context(empty_store())
        process = begun(Path(sys.executable), "growing", self.rows, self.size // len(KEPT), store, waits=True)
        self.peaks = self.until.enter_context(Peaks(process.pid))
        return process

    def measured(self, timed:turns.Timed) -> dict[str, float]:
        "Seconds, as a whole and per variant, and peaks in MiB, when it has ended."
        done = json.loads(environments.last_line("".join(timed.printed)))
        return {"fits": sum(done["fits"].values()), "declare": done["declare"], "seconds": timed.seconds, "each": (done["declare"] + timed.seconds) / self.size, "display": done["display"],
                "main": self.peaks.main / 2**20, "workers": self.peaks.workers / 2**20}


def times_each(sizes:list[int]) -> dict[int, int]:
    "How often the smaller sweeps are made beside the largest: they are quick and noisy."
    return {size: max(1, min(5, max(sizes) // (5 * size))) for size in sizes if size != max(sizes)}


def grown(sizes:list[int], rows:int) -> dict[int, list[dict[str, float]]]:
    "The largest sweep, and the smaller ones in turns with it, spread over its time. Raises SystemExit if one fails."
    smaller = [size for _, size in sorted(((number + 0.5) / times, size) for size, times in times_each(sizes).items() for number in range(times))]
    with contextlib.ExitStack() as until:
        largest, *others = [Grown(size, rows, until) for size in (max(sizes), *smaller)]
        first, done = turns.beside(largest.start(), [each.start for each in others], max(1.0, largest.size / sum(smaller, start=1)))
        found = {size: [] for size in sizes}
        for each, timed in zip((largest, *others), (first, *done), strict=True): found[each.size].append(each.measured(timed))
    return found


def growth(rows:int, sizes:list[int], repeats:int, is_timed:bool) -> bool:
    "Measure and print sweeps of several sizes; whether every bar holds."
    rounds = [grown(sizes, rows) for _ in range(repeats)]
    done = {size: [each for round in rounds for each in round[size]] for size in sizes}
    middle = {size: {part: statistics.median(each[part] for each in measured) for part in measured[0]} for size, measured in done.items()}
    print(f"\n{'variants':>9}{'declare s':>11}{'run s':>9}{'ms/variant':>12}{'show s':>9}{'main MiB':>10}{'workers MiB':>13}{'shared fits':>13}{'repeats':>9}")
    for size, each in middle.items():
        print(f"{size:>9,}{each['declare']:>11.3f}{each['seconds']:>9.2f}{1000 * each['each']:>12.1f}{each['display']:>9.3f}{each['main']:>10.0f}{each['workers']:>13.0f}{each['fits']:>13.0f}{len(done[size]):>9}")
    print()
    per_variant = [each["each"] for each in middle.values()]
    memory = [each["main"] + each["workers"] for each in middle.values()]
    uneven, more = max(per_variant) / min(per_variant), memory[-1] / memory[0]
    held = [verdict(f"{sizes[-1]:,} variants need {more:.2f} times the memory of {sizes[0]:,}, at most {MOST_MEMORY}", more <= MOST_MEMORY)]
    if is_timed: held.append(verdict(f"seconds per variant differ by {uneven:.2f} times, at most {MOST_UNEVEN}", uneven <= MOST_UNEVEN))
    return all(held)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", action="store_true", help="instead, sweeps of ours that grow")
    parser.add_argument("--quick", action="store_true", help="fewer rows, one repeat, or the two smaller sizes of --growth; times are not judged")
    parser.add_argument("--repeats", type=int, help="default: 3; with --growth 1, and more for the smaller sizes")
    parser.add_argument("--rows", type=int, help=f"default: {ROWS:,}, or {GROWTH_ROWS:,} with --growth")
    parser.add_argument("--sizes", type=int, nargs="+", default=[24, 240, 2_400], help=f"variants with --growth, in multiples of {len(KEPT)}")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="CONTESTANT", help="; ".join(CONTESTANTS))
    environments.add_option(parser)
    parser.add_argument("--in-turns", action="store_true", help=argparse.SUPPRESS)
    for hidden, kind in (("--worker", str), ("--strengths", int), ("--store", Path)): parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS) # a process of its own
    chosen = parser.parse_args()
    if any(size % len(KEPT) for size in chosen.sizes): parser.error(f"--sizes takes multiples of {len(KEPT)}, the number of values of k")
    return chosen


def main() -> None:
    chosen = arguments()
    if chosen.worker:
        kind, jobs = (Growing, 2) if chosen.worker == "growing" else CONTESTANTS.get(chosen.worker, (None, 0))[:2]
        print("\n" + json.dumps(work(kind, jobs, chosen.rows, chosen.strengths, chosen.store, chosen.in_turns) if kind else work_least(chosen.rows, chosen.in_turns)))
        return
    repeats = chosen.repeats or (1 if chosen.quick or chosen.growth else 3)
    rows = chosen.rows or (GROWTH_ROWS if chosen.growth else QUICK_ROWS if chosen.quick else ROWS)
    print(f"{environments.versions('ml_pkg')}, {rows:,} rows by {COLUMNS}, medians of {'at least ' * chosen.growth}{repeats}", flush=True)
    held = growth(rows, chosen.sizes[:2] if chosen.quick else chosen.sizes, repeats, not chosen.quick) if chosen.growth else side_by_side(chosen, rows, repeats)
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    import sweep  # this file: its steps belong to a module that worker processes can import, and not to __main__
    sweep.main()
