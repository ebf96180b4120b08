"""What the first run of an experiment costs above scikit-learn's own `cross_validate`, with nothing stored yet.

    python benchmarks/first_run.py
    python benchmarks/first_run.py --rows 10000 --pipelines dense text --repeats 3
    python benchmarks/first_run.py --rows 10000 --profile

Three pipelines at three sizes, the rows in memory. Plain and ours take turns in one process, with the same folds, and
must come to the same scores; ours also keeps predictions and probabilities out of fold, and starts from an empty
workspace every time. Peak memory is that of a process of its own. One BLAS and one OpenMP thread.

While times are measured, the process keeps the memory that it frees (glibc's `MALLOC_TRIM_THRESHOLD_` and
`MALLOC_MMAP_THRESHOLD_`), for both sides. Otherwise every large array is made of pages that the system has to find and
clear first, and on a virtual machine that hands freed pages back to its host, this costs up to as much as the fit and
differs from one repeat to the next. `--system-malloc` measures with the allocator as it is.
"""

import argparse
import cProfile
import os
import pstats
import re
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import sklearn
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from threadpoolctl import threadpool_limits

import ml_pkg
from ml_pkg import Dataset, Evaluation, Experiment, temporary_workspace

TIME_BAR, MEMORY_BAR = 1.10, 1.20
KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_THRESHOLD_": str(2**40)} # bytes
MOST_TEXTS = 200_000 # a million would take minutes a run


def with_target(frame:pd.DataFrame, signal:np.ndarray, random:np.random.Generator) -> pd.DataFrame:
    "The frame with a binary column `y` that follows a signal, with noise."
    return frame.assign(y=(signal + random.normal(size=len(frame)) > 0).astype("int64"))


def dense_frame(rows:int) -> pd.DataFrame:
    "Twenty columns of numbers; the target depends on two of them and on a product."
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, 20))
    frame = pd.DataFrame(values, columns=[f"number_{place}" for place in range(20)])
    return with_target(frame, values[:, 0] - values[:, 1] + values[:, 2] * values[:, 3], random)


def dense_pipeline() -> Pipeline:
    return make_pipeline(StandardScaler(), PolynomialFeatures(2, interaction_only=True), SelectKBest(k=50),
                         LogisticRegression(max_iter=12, random_state=0))


def mixed_frame(rows:int) -> pd.DataFrame:
    "Ten columns of numbers with a tenth missing, and five of text with few values."
    random = np.random.default_rng(1)
    values = random.normal(size=(rows, 10))
    signal = values[:, 0] - values[:, 1]
    values[random.random(values.shape) < 0.1] = np.nan
    numbers = {f"number_{place}": values[:, place] for place in range(10)}
    kinds = {f"kind_{place}": np.array([f"kind {letter}" for letter in "abcdefghijklmnop"])[random.integers(16, size=rows)] for place in range(5)}
    return with_target(pd.DataFrame({**numbers, **kinds}), signal, random)


def mixed_pipeline() -> Pipeline:
    numbers, kinds = [f"number_{place}" for place in range(10)], [f"kind_{place}" for place in range(5)]
    columns = ColumnTransformer([("numbers", make_pipeline(SimpleImputer(), StandardScaler()), numbers), ("kinds", OneHotEncoder(handle_unknown="ignore"), kinds)])
    return make_pipeline(columns, LogisticRegression(max_iter=20, random_state=0))


def text_frame(rows:int) -> pd.DataFrame:
    "One column of ten words each, common words more often; one word decides."
    random = np.random.default_rng(2)
    chosen = np.minimum(random.zipf(1.3, size=(rows, 10)), 20_000)
    texts = [" ".join(f"word{number}" for number in row) for row in chosen.tolist()]
    return with_target(pd.DataFrame({"text": texts}), np.where((chosen == 2).any(axis=1), 1.0, -1.0), random)


def text_pipeline() -> Pipeline:
    return make_pipeline(ColumnTransformer([("text", TfidfVectorizer(), "text")]), LogisticRegression(max_iter=20, random_state=0))


class Case(NamedTuple):
    "A kind of rows and the pipeline for it."
    frame: Callable[[int], pd.DataFrame]
    pipeline: Callable[[], Pipeline]
    most_rows: float = float("inf")


CASES = {"dense": Case(dense_frame, dense_pipeline), "mixed": Case(mixed_frame, mixed_pipeline), "text": Case(text_frame, text_pipeline, MOST_TEXTS)}


def plain(pipeline:Pipeline, frame:pd.DataFrame) -> Callable[[], np.ndarray]:
    "Cross-validate with scikit-learn alone."
    done = cross_validate(pipeline, frame.drop(columns="y"), frame["y"], cv=5, scoring="accuracy")
    return lambda: done["test_score"]


def ours(pipeline:Pipeline, frame:pd.DataFrame) -> Callable[[], np.ndarray]:
    "Declare an experiment and run it, in a workspace that was empty."
    done = Experiment("bench", Dataset(frame, target="y"), pipeline, Evaluation(cv=5, metrics=["accuracy"])).run()
    return lambda: done.scores["accuracy"].to_numpy()


CONTESTANTS = {"plain": plain, "ours": ours} # each gives back how its scores by fold are read


def seconds(contestant:Callable, pipeline:Pipeline, frame:pd.DataFrame) -> tuple[float, np.ndarray]:
    "Wall time of one first run, and its scores. Making and removing the workspace does not count, nor does reading the scores."
    with temporary_workspace():
        started = time.perf_counter()
        scores = contestant(pipeline, frame)
        return time.perf_counter() - started, scores()


class Measured(NamedTuple):
    "One pipeline at one size."
    plain: float   # median seconds
    ours: float
    ratio: float   # median of the ratios of neighbours


def repeats_at(rows:int, repeats:int) -> int:
    "Small tables are quick and noisy, so they are measured more often."
    return repeats * (5 if rows < 50_000 else 2 if rows < 500_000 else 1)


def measure(name:str, rows:int, repeats:int) -> Measured:
    "Plain and ours in turns. Raises SystemExit if they do not come to the same scores."
    frame, pipeline, pairs = CASES[name].frame(rows), CASES[name].pipeline(), []
    for number in range(repeats_at(rows, repeats)):
        order = list(CONTESTANTS) if number % 2 == 0 else list(reversed(CONTESTANTS)) # neither always comes second
        done = {contestant: seconds(CONTESTANTS[contestant], pipeline, frame) for contestant in order}
        if not np.array_equal(done["plain"][1], done["ours"][1]): raise SystemExit(f"{name}, {rows:,} rows: scores differ, {done['plain'][1]} and {done['ours'][1]}")
        pairs.append((done["plain"][0], done["ours"][0]))
    middle = [statistics.median(each) for each in zip(*pairs, strict=True)]
    return Measured(*middle, statistics.median(ours / plain for plain, ours in pairs))


def rows_of(name:str, sizes:list[int]) -> list[int]:
    "The sizes at which a pipeline is measured; the largest text is smaller."
    return list(dict.fromkeys(int(min(rows, CASES[name].most_rows)) for rows in sizes))


def warm_up(names:list[str]) -> None:
    "Load every library that either side needs, so that no measurement pays for it."
    for name in names:
        for contestant in CONTESTANTS.values(): seconds(contestant, CASES[name].pipeline(), CASES[name].frame(500))


def peak_here(contestant:str, name:str, rows:int) -> int:
    "Peak resident memory of this process after one first run, in bytes."
    frame = CASES[name].frame(rows)
    seconds(CONTESTANTS[contestant], CASES[name].pipeline(), frame)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def peak(contestant:str, name:str, rows:int) -> float:
    "Peak resident memory of a process that makes one first run, in gigabytes."
    command = [sys.executable, __file__, "--peak", contestant, name, str(rows)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e9


def profile(name:str, rows:int) -> None:
    "Print where the time of one first run of ours goes: our own functions first, then all."
    frame, pipeline, profiler = CASES[name].frame(rows), CASES[name].pipeline(), cProfile.Profile()
    print(f"\n=== {name}, {rows:,} rows: one first run of ours, profiled")
    profiler.enable()
    seconds(ours, pipeline, frame)
    profiler.disable()
    times = pstats.Stats(profiler).sort_stats("cumulative")
    times.print_stats(re.escape(os.path.dirname(ml_pkg.__file__)), 50)
    times.sort_stats("tottime").strip_dirs().print_stats(25)


def report_times(cases:list[tuple[str, int]], repeats:int) -> bool:
    "Print the times of each pipeline at each size and the bar; whether it holds."
    print(f"\n{'pipeline':<10}{'rows':>10}{'plain':>11}{'ours':>11}{'ratio':>8}{'extra':>11}")
    ratios = []
    for name, rows in cases:
        each = measure(name, rows, repeats)
        ratios.append(each.ratio)
        print(f"{name:<10}{rows:>10,}{each.plain:>9.3f} s{each.ours:>9.3f} s{each.ratio:>8.3f}{1000 * (each.ours - each.plain):>8.0f} ms", flush=True)
    return verdict(f"median of the {len(ratios)} ratios", statistics.median(ratios), TIME_BAR)


def report_memory(names:list[str], rows:int) -> bool:
    "Print the peak memory of each pipeline at one size and the bar; whether it holds for all."
    print(f"\n{'pipeline':<10}{'rows':>10}{'plain':>11}{'ours':>11}{'ratio':>8}   peak memory of one process")
    ratios = {}
    for name in names:
        at = rows_of(name, [rows])[0]
        peaks = {contestant: peak(contestant, name, at) for contestant in CONTESTANTS}
        ratios[name] = peaks["ours"] / peaks["plain"]
        print(f"{name:<10}{at:>10,}{peaks['plain']:>8.2f} GB{peaks['ours']:>8.2f} GB{ratios[name]:>8.3f}", flush=True)
    return all([verdict(f"peak memory, {name}", ratio, MEMORY_BAR) for name, ratio in ratios.items()])


def verdict(what:str, ratio:float, bar:float) -> bool:
    "Print one bar, and whether it holds."
    print(f"{'pass' if ratio <= bar else 'FAIL'}  {what}: {ratio:.3f}, at most {bar:.2f}")
    return ratio <= bar


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes; text stops at 200,000")
    parser.add_argument("--pipelines", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3, help="at the largest size; smaller ones are repeated more often")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory, measured at the largest size")
    parser.add_argument("--system-malloc", action="store_true", help="let the process give memory back while times are measured")
    parser.add_argument("--profile", action="store_true", help="instead, print where the time of ours goes, by function")
    parser.add_argument("--quiet", action="store_true", help="leave out the line about this machine")
    parser.add_argument("--peak", nargs=3, metavar=("CONTESTANT", "PIPELINE", "ROWS"), help="only print the peak memory of this process, in bytes")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    threadpool_limits(1)
    warnings.simplefilter("ignore") # few iterations: nothing converges, and that is meant
    if chosen.peak:
        contestant, name, rows = chosen.peak
        print(peak_here(contestant, name, int(rows)))
        return
    cases = [(name, rows) for name in chosen.pipelines for rows in rows_of(name, chosen.rows)]
    if chosen.profile:
        warm_up(chosen.pipelines)
        for case in cases: profile(*case)
        return
    if not chosen.quiet: print(f"Python {sys.version.split()[0]}, scikit-learn {sklearn.__version__}, ml_pkg {ml_pkg.__version__}, {os.cpu_count()} cores, one BLAS and one OpenMP thread, "
          f"medians of at least {chosen.repeats}; text has at most {MOST_TEXTS:,} rows")
    # Memory first: on Linux a process starts out with the peak of the one that started it, and this one is still small.
    held = [] if chosen.no_memory else [report_memory(chosen.pipelines, max(chosen.rows))]
    held.append(in_process_of_its_own() if not chosen.system_malloc and not KEEP_FREED.items() <= os.environ.items() else times_here(chosen, cases))
    raise SystemExit(0 if all(held) else 1)


def times_here(chosen:argparse.Namespace, cases:list[tuple[str, int]]) -> bool:
    "Measure and print the times in this process."
    warm_up(chosen.pipelines)
    return report_times(cases, chosen.repeats)


def in_process_of_its_own() -> bool:
    "The same measurement of times, in a process that keeps the memory it frees."
    return subprocess.run([sys.executable, *sys.argv, "--no-memory", "--quiet"], env={**os.environ, **KEEP_FREED}).returncode == 0


if __name__ == "__main__": main()
