"""A long file is predicted in the memory of a short one, and appears as a whole or not at all."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROWS = 2_000_000
MEBIBYTE = 1024 * 1024

GENERATE = '''
import sys
import numpy as np, pyarrow as pa, pyarrow.csv

rows, path = int(sys.argv[1]), sys.argv[2]
random = np.random.default_rng(0)
table = {name: random.integers(low, high, rows) / 10 for name, low, high in [("sepal_length", 43, 80), ("sepal_width", 20, 45), ("petal_length", 10, 70), ("petal_width", 1, 26)]}
pyarrow.csv.write_csv(pa.table({"flower": np.arange(rows), **table}), path)
'''

# A small process starts the command: a child's peak includes what its parent held when it was started.
MEASURED = '''
import resource, subprocess, sys

code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024), file=sys.stderr)
sys.exit(code)
'''


@pytest.fixture(scope="module")
def flowers(tmp_path_factory:pytest.TempPathFactory) -> Callable:
    "A CSV with a number of flowers; made once."
    folder = tmp_path_factory.mktemp("flowers")
    def of(rows:int) -> Path:
        path = folder / f"{rows}.csv"
        if not path.exists(): subprocess.run([sys.executable, "-c", GENERATE, str(rows), str(path)], check=True, timeout=60)
        return path
    yield of
    for path in folder.iterdir(): path.unlink()


@pytest.fixture
def trained(command:Callable) -> None:
    "A model of the workspace."
    assert command("train", "flowers:flowers").returncode == 0


def peak(cli:list[str], folder:Path, source:Path, output:Path) -> int:
    "The most memory, in bytes, that predicting a file took."
    words = [*cli, "predict", "flowers", source, "-o", output, "--probabilities", "--keep", "flower"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])


def lines(path:Path) -> int:
    with path.open("rb") as file: return sum(block.count(b"\n") for block in iter(lambda: file.read(MEBIBYTE), b""))


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_file(trained, cli:list[str], project:Path, flowers:Callable):
    "Ten times the rows, the same peak within a few blocks; every row is answered."
    short, long = project / "short.csv", project / "long.csv"
    few = peak(cli, project, flowers(ROWS // 10), short)
    many = peak(cli, project, flowers(ROWS), long)
    print(f"peak {few / MEBIBYTE:.0f} MiB for {ROWS // 10:,} rows, {many / MEBIBYTE:.0f} MiB for {ROWS:,}")
    assert (lines(short), lines(long)) == (ROWS // 10 + 1, ROWS + 1)
    assert many < 600 * MEBIBYTE
    assert many - few < 60 * MEBIBYTE
    assert long.read_bytes().startswith(b"flower,species,probability setosa,probability versicolor,probability virginica\n0,")


def test_killed_half_way_leaves_no_output(trained, command:Callable, cli:list[str], project:Path, flowers:Callable):
    "Neither under its name, nor in place of what was there before; what it had begun is cleared away by the next."
    output = project / "predictions.csv"
    output.write_text("from yesterday\n")
    process = subprocess.Popen([*cli, "predict", "flowers", str(flowers(ROWS)), "-o", str(output)], cwd=project)
    try: wait_for(lambda: any(part.stat().st_size > MEBIBYTE for part in project.glob(".predictions.csv*.part")), process)
    finally: process.kill()
    assert process.wait() == -signal.SIGKILL
    assert output.read_text() == "from yesterday\n"
    assert command("predict", "flowers", flowers(ROWS // 10), "-o", output).returncode == 0
    assert lines(output) == ROWS // 10 + 1
    assert [path.name for path in project.iterdir() if "predictions" in path.name] == ["predictions.csv"]


def wait_for(condition:Callable, process:subprocess.Popen) -> None:
    "Return as soon as something holds; fail if the process ends before."
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, "predicted everything before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
