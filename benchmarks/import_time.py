"""What `import ml_pkg` costs above bare Python.

    python benchmarks/import_time.py

Fresh processes, taken in turns; medians. Below 30 ms is the aim.
"""

import statistics
import subprocess
import sys
import time

REPEATS = 10


def milliseconds(statement:str) -> float:
    "Wall time of a process that runs one statement."
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    pairs = [(milliseconds("import ml_pkg"), milliseconds("pass")) for _ in range(REPEATS)]
    ours, bare = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"Python {sys.version.split()[0]}, median of {REPEATS}: bare {bare:.1f} ms, import ml_pkg {ours:.1f} ms, difference {ours - bare:.1f} ms")


if __name__ == "__main__": main()
