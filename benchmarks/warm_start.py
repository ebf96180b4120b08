"""How long a second `ml_pkg train` of the same experiment takes, beside importing scikit-learn and pandas.

    python benchmarks/warm_start.py

Fresh processes, taken in turns, one BLAS and one OpenMP thread; medians. Below 1.3 is the aim.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = 10
TRAIN = [sys.executable, "-c", "from ml_pkg.cli import main; main()", "train", "ml_pkg.experiments.iris:iris"]
IMPORT = [sys.executable, "-c", "import sklearn.pipeline, pandas"]


def seconds(command:list[str], environment:dict[str, str]) -> float:
    "Wall time of a process."
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as workspace:
        environment = {**os.environ, "ML_PKG_WORKSPACE": workspace, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        first = seconds(TRAIN, environment)
        pairs = [(seconds(TRAIN, environment), seconds(IMPORT, environment)) for _ in range(REPEATS)]
    train, imports = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, one thread, median of {REPEATS}")
    print(f"first train                 {first:.3f} s")
    print(f"second train                {train:.3f} s")
    print(f"import sklearn.pipeline, pandas {imports:.3f} s")
    print(f"ratio                       {train / imports:.2f}")


if __name__ == "__main__": main()
