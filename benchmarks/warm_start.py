"""How long it takes to be told, in a fresh process, what has been computed before, beside importing scikit-learn and pandas.

    python benchmarks/warm_start.py
    python benchmarks/warm_start.py --rows 100000

Two cases: `ml_pkg train` of iris, and `run()` of an experiment over a CSV of a million rows. Fresh processes, taken in
turns, one BLAS and one OpenMP thread; medians of ten. Each has to stay below 1.5 times the import. Where strace is
installed, it is also shown that the second run opened neither the CSV nor a checkpoint.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

REPEATS, BAR = 10, 1.5
TRAIN = [sys.executable, "-c", "from ml_pkg.commands import main; main()", "train", "ml_pkg.experiments.iris:iris"]
IMPORT = [sys.executable, "-c", "import sklearn.pipeline, pandas"]
RUN = [sys.executable, "-W", "ignore", "-c", "from many import many; print(many.run())"]

DECLARED = """
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from ml_pkg import Dataset, Evaluation, Experiment

many = Experiment("many", Dataset("many.csv", target="y"), make_pipeline(StandardScaler(), PolynomialFeatures(2), SelectKBest(k=20), LogisticRegression(max_iter=20)), Evaluation(cv=3))
"""


def seconds(command:list[str], environment:dict[str, str], folder:Path) -> float:
    "Wall time of a process."
    started = time.perf_counter()
    subprocess.run(command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def report(name:str, command:list[str], environment:dict[str, str], folder:Path) -> bool:
    "Print how long a first and a second run take, and what the second took of the bar; whether it holds."
    first = seconds(command, environment, folder)
    pairs = [(seconds(command, environment, folder), seconds(IMPORT, environment, folder)) for _ in range(REPEATS)]
    second, imports = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"{name}: first {first:.3f} s, second {second:.3f} s; import sklearn.pipeline, pandas {imports:.3f} s")
    print(f"{'pass' if second / imports < BAR else 'FAIL'}  {name}: {second / imports:.2f} of the import, below {BAR}", flush=True)
    return second / imports < BAR


def write_rows(folder:Path, rows:int) -> None:
    "A CSV of ten columns of numbers and a binary target, and a module that declares an experiment over it."
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, 10))
    frame = pd.DataFrame(values, columns=[f"number_{place}" for place in range(10)])
    frame.assign(y=(values[:, 0] + random.normal(size=rows) > 0).astype(int)).to_csv(folder / "many.csv", index=False)
    (folder / "many.py").write_text(DECLARED)


def report_opened(environment:dict[str, str], folder:Path) -> bool:
    "Print what a traced second run opened of the rows and of the checkpoints; whether that is nothing."
    if not (strace := shutil.which("strace")):
        print("strace is not installed: what is opened is not shown")
        return True
    subprocess.run([strace, "-f", "-e", "trace=open,openat", "-o", folder / "trace.txt", *RUN], env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    opened = re.findall(r'open(?:at)?\(.*?"([^"]*)".*\) = \d', (folder / "trace.txt").read_text())
    rows = [path for path in opened if path.endswith((".csv", ".entry", ".feather"))]
    print(f"{'FAIL' if rows else 'pass'}  opened by the second run: {len(opened)} files, of them rows or checkpoints: {len(rows)}")
    return not rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, one thread, median of {REPEATS}")
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ML_PKG_WORKSPACE": f"{folder}/workspace", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        write_rows(Path(folder), rows)
        held = [report("train iris", TRAIN, environment, Path(folder)), report(f"run over {rows:,} rows", RUN, environment, Path(folder)), report_opened(environment, Path(folder))]
    raise SystemExit(0 if all(held) else 1)


if __name__ == "__main__": main()
