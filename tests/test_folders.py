"""A folder is predicted to the bit as its files are, here and on real clusters, and what was written is not written again."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import CLI, TRACE, free_port, traces, waited

PARTS = 12
PATIENCE = 300 # seconds that a slow machine has for what nothing is promised of

SLOW = TRACE + """
import time
from sklearn.linear_model import LogisticRegression
from ml_pkg import Dataset, Evaluation, Experiment

class Slow(LogisticRegression):
    "Leaves a trace of each table it is asked about, and of each time it is loaded."
    def __setstate__(self, state):
        trace("loaded", os.getpid())
        super().__setstate__(state)

    def predict(self, X):
        if "TRACE" in os.environ and len(X) == 32: trace("predicts", float(X.iloc[0, 0]), os.getpid()) # a block
        time.sleep(float(os.environ.get("SLOW", "0")))
        return super().predict(X)

flowers = Experiment("flowers", Dataset("iris.csv", target="species"), Slow(max_iter=1000), Evaluation(3))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory:pytest.TempPathFactory, cli:list[str]) -> Path:
    "A project with a model, a folder of parts, and what `predict` makes of each part by itself; made once."
    from conftest import PACKAGE, make_project
    folder = make_project(tmp_path_factory.mktemp("made") / "project")
    (folder / "slow.py").write_text(SLOW)
    iris = pd.read_csv(folder / "iris.csv")
    for number in range(PARTS):
        path = folder / "rows" / f"group={number % 3}" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        iris.drop(columns="species").sample(32, random_state=number).assign(part=number).reset_index(drop=True).to_parquet(path)
    environment = {**os.environ, "ML_PKG_WORKSPACE": str(folder / "workspace"), "TRACE": str(folder / "trace"), "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([*cli, "train", "slow:flowers"], cwd=folder, env=environment, check=True, capture_output=True, timeout=PATIENCE)
    program = "import sys; from pathlib import Path; from ml_pkg.addresses import find_model; from ml_pkg.prediction import predict_file; model = find_model('flowers', trusted=True)\nfor path in Path('rows').rglob('*.parquet'): (Path('alone') / path.parent.name).mkdir(parents=True, exist_ok=True); predict_file(model, path, Path('alone') / path.parent.name / path.name, keep=['part'])"
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, timeout=PATIENCE)
    return folder


@pytest.fixture
def folder(made:Path, tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    "The same project for this test alone, and a file for traces."
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.setenv("ML_PKG_WORKSPACE", str(tmp_path / "project" / "workspace"))
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    return tmp_path / "project"


@pytest.fixture
def words() -> list[str]:
    "The command, for all tests the same."
    return [*CLI, "predict", "flowers", "rows", "-o", "predicted", "--keep", "part", "--trusted"]


def written(folder:Path) -> dict[str, tuple[bytes, int, int]]:
    "Content, time and inode of all predictions that are there."
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*.parquet")}


def contents(folder:Path) -> dict[str, bytes]: return {name: content for name, (content, *_) in written(folder).items()}


def predictions(tmp_path:Path) -> list[str]:
    "Which parts were predicted, by the first of their values."
    return [line.split()[1] for line in traces(tmp_path / "trace") if line.startswith("predicts")]


def run(folder:Path, *arguments:str, code:int=0, **environment:str) -> subprocess.CompletedProcess:
    done = subprocess.run(list(map(str, arguments)), cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, (done.stdout, done.stderr[-4000:])
    return done


def report(folder:Path, words:list[str], *arguments:str, code:int=0, **environment:str) -> dict:
    return json.loads(run(folder, *words, "--json", *arguments, code=code, **environment).stdout)


def count(found:dict) -> tuple[int, int, list[str]]: return found["done"], found["reused"], list(found["failed"])


@pytest.mark.thorough
def test_several_processes_write_the_bytes_of_each_file_by_itself(folder:Path, tmp_path:Path, words:list[str]):
    assert count(report(folder, words, "--jobs", "2")) == (PARTS, 0, [])
    assert contents(folder / "predicted") == contents(folder / "alone") and len(predictions(tmp_path)) == PARTS
    first = written(folder / "predicted")
    assert count(report(folder, words, "--jobs", "2")) == (0, PARTS, [])
    assert written(folder / "predicted") == first and len(predictions(tmp_path)) == PARTS
    loads = [line.split()[1] for line in traces(tmp_path / "trace") if line.startswith("loaded")]
    assert max(map(loads.count, loads)) == 1 # in each process
    (folder / "predicted" / "group=0" / "0.parquet").write_bytes(b"cut")
    assert count(report(folder, words)) == (1, PARTS - 1, [])
    assert contents(folder / "predicted") == contents(folder / "alone")


def end_of_workers(folder:Path, group:int) -> None:
    "Orphans finish what they have been given, and then wait a while for more."
    seen:list[int] = []
    def is_quiet() -> bool:
        seen.append(len(written(folder / "predicted")))
        return len(set(seen[-40:])) == 1 and len(seen) > 40 # two seconds
    waited(is_quiet, "end of its workers")
    os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize("group", [pytest.param(False, id="the command"), pytest.param(True, id="all its processes", marks=pytest.mark.thorough)])
def test_killed_it_goes_on_and_writes_each_part_once(folder:Path, tmp_path:Path, words:list[str], group:bool):
    process = subprocess.Popen([*words, "--jobs", "2"], cwd=folder, env={**os.environ, "SLOW": "0.3"}, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited(lambda: len(written(folder / "predicted")) >= 4, "four parts", PATIENCE)
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    if not group: end_of_workers(folder, process.pid)
    before = written(folder / "predicted")
    assert 4 <= len(before) < PARTS
    asked = len(predictions(tmp_path))
    assert count(report(folder, words, "--jobs", "2")) == (PARTS - len(before), len(before), [])
    after = written(folder / "predicted")
    assert {name: after[name] for name in before} == before # neither content nor time nor inode
    assert contents(folder / "predicted") == contents(folder / "alone")
    assert len(predictions(tmp_path)) - asked == PARTS - len(before)
    assert not [path for path in folder.rglob("*.part")] # what was begun is cleared away


@pytest.mark.parametrize("group", [pytest.param(False, id="the command", marks=pytest.mark.thorough), pytest.param(True, id="its group, as a terminal does")])
def test_ctrl_c_stops_soon_and_keeps_what_is_done(folder:Path, words:list[str], group:bool):
    process = subprocess.Popen([*words, "--jobs", "2"], cwd=folder, env={**os.environ, "SLOW": "0.5"}, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    waited(lambda: len(written(folder / "predicted")) >= 3, "three parts", PATIENCE)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    began = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and time.monotonic() - began < 10, errors
    assert errors.splitlines()[-1] == "error: interrupted" and "the same command goes on from there" in errors
    before = written(folder / "predicted")
    assert 3 <= len(before) < PARTS
    assert count(report(folder, words)) == (PARTS - len(before), len(before), [])
    assert {name: written(folder / "predicted")[name] for name in before} == before


@pytest.mark.thorough
def test_two_at_once_do_no_harm(folder:Path, words:list[str]):
    both = [subprocess.Popen([*words, "--json", *jobs], cwd=folder, env={**os.environ, "SLOW": "0.05"}, stdout=subprocess.PIPE, text=True) for jobs in ([], ["--jobs", "2"])]
    for process in both:
        found = json.loads(process.communicate(timeout=PATIENCE)[0])
        assert process.returncode == 0 and found["done"] + found["reused"] == PARTS
    assert contents(folder / "predicted") == contents(folder / "alone")
    assert count(report(folder, words)) == (0, PARTS, [])


def test_a_part_that_fails_is_named_and_is_all_that_the_next_call_does(folder:Path, tmp_path:Path, words:list[str]):
    path = folder / "rows" / "group=1" / "4.parquet"
    whole = path.read_bytes()
    rows = pd.read_parquet(path)
    rows.assign(sepal_width=[*rows["sepal_width"][:7], None, *rows["sepal_width"][8:]]).to_parquet(path)
    done = run(folder, *words, "--jobs", "2", code=1)
    assert done.stdout.startswith(f"{PARTS} parts: {PARTS - 1} done, 0 reused, 1 failed · {(PARTS - 1) * 32} rows predicted with flowers")
    assert done.stderr.startswith("error: group=1/4.parquet: column 'sepal_width', row 7: the value is missing") and done.stderr.count("\n") == 1
    assert len(written(folder / "predicted")) == PARTS - 1
    path.write_bytes(whole)
    asked = len(predictions(tmp_path))
    assert count(report(folder, words, "--jobs", "2")) == (1, PARTS - 1, [])
    assert len(predictions(tmp_path)) - asked == 1 and contents(folder / "predicted") == contents(folder / "alone")


def kill_one(tmp_path:Path, after:int) -> None:
    "Kill the worker that left the last trace, once there are a few."
    lines = waited(lambda: len(predictions(tmp_path)) >= after and traces(tmp_path / "trace"), f"{after} parts", PATIENCE)
    os.kill(int(next(line for line in reversed(lines) if line.startswith("predicts")).split()[-1]), signal.SIGKILL)


def test_a_worker_of_this_machine_that_is_killed_loses_only_its_part(folder:Path, tmp_path:Path, words:list[str]):
    process = subprocess.Popen([*words, "--jobs", "2", "--json"], cwd=folder, env={**os.environ, "SLOW": "0.3"}, stdout=subprocess.PIPE, text=True)
    kill_one(tmp_path, 4)
    found = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert process.returncode == 0 and found["done"] + found["reused"] == PARTS
    assert contents(folder / "predicted") == contents(folder / "alone")
    assert len(predictions(tmp_path)) <= PARTS + 2 # what the two workers were at


DASK = """
import sys
import tempfile
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=int(sys.argv[1]), dashboard_address=":0", host="127.0.0.1") as cluster:
        print(cluster.scheduler_address.partition("//")[2], flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def dask(folder:Path) -> Iterator[Callable]:
    "Starts a Dask cluster of two workers, and gives its address."
    pytest.importorskip("distributed")
    (folder / "cluster.py").write_text(DASK)
    started:list[subprocess.Popen] = []
    def start(threads:int=1, **options) -> str:
        started.append(subprocess.Popen([sys.executable, "cluster.py", str(threads)], **{"cwd": folder, "env": with_project(folder), "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "start_new_session": True, **options}))
        return f"dask://{started[-1].stdout.readline().strip()}"
    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def with_project(folder:Path, **environment:str) -> dict[str, str]:
    "Workers of a cluster import the project, and see no workspace."
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}", "ML_PKG_WORKSPACE": str(folder / "nowhere"), "ML_PKG_KEY": "theirs", "SLOW": "0.2", **environment}


def test_dask_writes_the_same_bytes_also_when_a_worker_is_killed(folder:Path, tmp_path:Path, words:list[str], dask:Callable):
    process = subprocess.Popen([*words, "--on", dask(threads=2), "--json"], cwd=folder, stdout=subprocess.PIPE, text=True)
    kill_one(tmp_path, 4)
    found = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert process.returncode == 0 and found["done"] + found["reused"] == PARTS
    assert contents(folder / "predicted") == contents(folder / "alone")
    assert len(predictions(tmp_path)) <= PARTS + 2 * 2 # what the worker was at, and what it had written but not told of
    assert not [path for path in folder.rglob(".model.*")] # the model is not left beside the predictions


def test_a_cluster_without_the_project_says_so_once(folder:Path, words:list[str], dask:Callable):
    address = dask(cwd=folder.parent, env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"]}) if (folder / "cluster.py").rename(folder.parent / "cluster.py") else ""
    done = run(folder, *words, "--on", address, code=2)
    assert done.stderr.splitlines()[-1].startswith(f"error: a worker of the Dask cluster at {address.replace('dask', 'tcp')} cannot do it: ") and "No module named 'slow'" in done.stderr


@pytest.mark.thorough
def test_a_cluster_that_goes_away_ends_it_and_the_next_call_goes_on(folder:Path, tmp_path:Path, words:list[str], dask:Callable):
    address = dask()
    process = subprocess.Popen([*words, "--on", address], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    waited(lambda: len(written(folder / "predicted")) >= 3, "three parts", PATIENCE)
    owner = int(subprocess.run(["ps", "-o", "ppid=", "-p", traces(tmp_path / "trace")[-1].split()[-1]], capture_output=True, text=True, check=True).stdout)
    os.killpg(os.getpgid(owner), signal.SIGKILL)
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2 and errors.splitlines()[-1].startswith("error: "), errors[-3000:]
    before = written(folder / "predicted")
    assert count(report(folder, words)) == (PARTS - len(before), len(before), [])
    assert {name: written(folder / "predicted")[name] for name in before} == before


@pytest.fixture
def ray(folder:Path, monkeypatch:pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    "A Ray cluster of two processors on this machine only: its address for a machine of it, and for any other."
    pytest.importorskip("ray")
    port, client = free_port(), free_port()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32)) # this cluster's own
    temporary = Path(tempfile.gettempdir()) / f"ray-{secrets.token_hex(4)}" # the paths of sockets have to be short
    words = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={temporary}"]
    # without the second variable some of those who come from outside are sent away at first: see ml_pkg.folders
    with (folder / "ray.log").open("w") as log: process = subprocess.Popen(list(map(str, words)), cwd=folder, env=with_project(folder, RAY_raylet_start_wait_time_s="120", GRPC_ENABLE_FORK_SUPPORT="0"), stdout=log, stderr=log, start_new_session=True)
    try:
        try: waited(lambda: "Ray runtime started" in (folder / "ray.log").read_text(), "cluster", 90)
        except AssertionError: pytest.skip(f"Ray's own processes did not start here: {(folder / 'ray.log').read_text()[-300:]}")
        yield f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.thorough
def test_ray_writes_the_same_bytes_also_when_a_worker_is_killed(folder:Path, tmp_path:Path, words:list[str], ray:tuple[str, str]):
    process = subprocess.Popen([*words, "--on", "ray", "--json"], cwd=folder, env={**os.environ, "RAY_ADDRESS": ray[0]}, stdout=subprocess.PIPE, text=True)
    kill_one(tmp_path, 4)
    found = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert process.returncode == 0 and found["done"] + found["reused"] == PARTS
    assert contents(folder / "predicted") == contents(folder / "alone")
    assert len(predictions(tmp_path)) <= PARTS + 2
    pytest.importorskip("grpc") # the rest asks from outside
    shutil.rmtree(folder / "predicted")
    assert count(report(folder, words, "--on", ray[1])) == (PARTS, 0, [])
    assert contents(folder / "predicted") == contents(folder / "alone")
