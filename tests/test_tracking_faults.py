"""What is recorded stays recorded, whatever happens; each fault is counted: `python -m pytest tests/test_tracking_faults.py -q -s` prints attempts and losses."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import PACKAGE, assert_sound, make_project, run_ids

from ml_pkg.doctor import doctor
from ml_pkg.errors import InvalidDeclaration, WorkspaceUnusable
from ml_pkg.history import run_list
from ml_pkg.rescue import rescue
from ml_pkg.run import load_run
from ml_pkg.store import MIGRATIONS, annotate, connected, record
from ml_pkg.workspace import Workspace

TIMES = max(1.0, float(os.environ.get("ML_PKG_FAULTS", "1"))) # more attempts than by default, never fewer


def times(number:int) -> int: return round(number * TIMES)


@pytest.fixture(scope="module")
def told() -> Iterator[Callable]:
    "Takes a line for the scoreboard, which is printed at the end."
    lines:list[str] = []
    yield lines.append
    print("\n\n" + "\n".join(lines))


WRITER = """
import os, random, signal, sys, time
import ml_pkg.store as store
from ml_pkg.workspace import Workspace

mode, folder = sys.argv[1:3]
store.journal_mode = lambda version: mode
from pathlib import Path
workspace = Workspace(Path(folder))

def run_of(number):
    "A run with what a cross-validation in five folds leaves: about 130 rows."
    return ({"experiment": "iris", "key": f"{number:032x}", "status": "finished", "started": store.now(), "seconds": 1.0, "origin": "script", "source": "iris = Experiment(…)" * 20, "schema": "{}" * 200, "estimator": "Pipeline(…)" * 30}, {
        "components": [{"path": f"estimator.steps.{part}", "content": f"{part}" * 10} for part in range(40)], "parameters": [{"name": f"step__{part}", "value": repr(part)} for part in range(25)],
        "packages": [{"name": f"package{part}", "version": "1.0.0"} for part in range(9)], "scores": [{"metric": metric, "fold": fold, "value": random.random()} for metric in ("accuracy", "f1") for fold in range(5)],
        "metrics": [{"metric": metric, "place": place} for place, metric in enumerate(("accuracy", "f1"))], "timings": [{"fold": fold, "place": place, "step": f"step{place}", "seconds": 0.1, "outcome": "computed"} for fold in range(5) for place in range(6)],
        "warnings": [{"fold": 0, "step": "fit", "category": "ConvergenceWarning", "message": "too few iterations"}],
        "files": [{"kind": kind, "path": f"/somewhere/{kind}/{number}", "sha256": f"{number:064x}", "key": f"{number:032x}", "written": store.now()} for kind in ("declarations", "predictions")]})

def recorded(number):
    row, details = run_of(number)
    with store.connected(workspace) as connection: return store.record(connection, row, **details)
"""

MANY = WRITER + """
for number in range(int(sys.argv[3])): print(recorded(number), flush=True)
"""

# Starts processes that record in a loop, and kills each at a random moment. A process is a fork, since an interpreter takes longer to start than a run to record.
KILLER = WRITER + """
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.write(writing, b"begins\\n")
        for number in range(10**9): os.write(writing, recorded(number).encode() + b"\\n")
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        begun = lines.readline()
        time.sleep(random.Random(seed).uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for line in lines:
            if len(line) == 9: print(line.decode().strip()) # a line that was cut off acknowledges nothing
print("done", flush=True)
"""


def started(program:str, *arguments) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process:subprocess.Popen) -> list[str]:
    "The lines that it printed."
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out.split()


def filled(folder:Path, runs:int) -> Workspace:
    "A workspace with so many runs."
    finished(started(MANY, "DELETE", folder, runs))
    return Workspace(folder)


# --- many processes, and processes that are killed

@pytest.mark.parametrize(("mode", "processes", "runs"), [("DELETE", 8, 1000), ("WAL", 8, 250)])
def test_many_processes_record_at_once(mode:str, processes:int, runs:int, memory:Path, told:Callable, attempts:Callable):
    "Every run is there once, and nobody was told of a lock."
    writers = [started(MANY, mode, memory, times(runs)) for _ in range(processes)]
    acknowledged = [line for writer in writers for line in finished(writer)]
    there = run_ids(memory / "runs.sqlite")
    told(f"{processes} processes recording {times(runs):,} runs each ({mode}): {processes * times(runs):,} records, {len(set(acknowledged) - set(there))} lost, 0 lock errors")
    assert len(set(acknowledged)) == processes * times(runs) and sorted(acknowledged) == sorted(there)
    assert_sound(memory / "runs.sqlite")
    with closing(sqlite3.connect(memory / "runs.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0].upper() == mode
        assert connection.execute("SELECT count(*) FROM (SELECT run FROM scores GROUP BY run HAVING count(*) = 10)").fetchone()[0] == len(there)
    attempts(processes * times(runs))


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_kill_while_recording(mode:str, memory:Path, told:Callable, attempts:Callable):
    "Whoever was told an id finds the run, with all that belongs to it."
    finished(started(MANY, mode, memory, 1))
    count, killers = times(500), 4
    acknowledged = [line for killer in [started(KILLER, mode, memory, count * part // killers, count * (part + 1) // killers) for part in range(killers)] for line in finished(killer) if line != "done"]
    there = run_ids(memory / "runs.sqlite")
    lost = set(acknowledged) - set(there)
    told(f"kill -9 while recording ({mode}): {count} attempts, {len(lost)} of {len(acknowledged):,} acknowledged runs lost")
    assert not lost and len(set(acknowledged)) == len(acknowledged) > count / 10 # how far it comes until it is killed depends on what else runs
    assert_sound(memory / "runs.sqlite")
    with closing(sqlite3.connect(memory / "runs.sqlite")) as connection:
        for table, rows in {"scores": 10, "components": 40, "timings": 30, "files": 2}.items():
            assert connection.execute(f"SELECT count(*) FROM (SELECT run FROM {table} GROUP BY run HAVING count(*) = ?)", [rows]).fetchone()[0] == len(there)
    attempts(count)


# --- a database that is damaged

HARMS = {
    "header overwritten": lambda path, size, seed: overwritten(path, 0, 100, seed),
    "first page overwritten": lambda path, size, seed: overwritten(path, 0, 4096, seed),
    "middle overwritten": lambda path, size, seed: overwritten(path, size // 3, size // 3, seed),
    "one page overwritten": lambda path, size, seed: overwritten(path, random.Random(seed).randrange(1, size // 4096) * 4096, 4096, seed),
    "truncated": lambda path, size, seed: os.truncate(path, random.Random(seed).randrange(size // 2, size)),
    "all noise": lambda path, size, seed: overwritten(path, 0, size, seed),
}


def overwritten(path:Path, start:int, length:int, seed:int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(seed).randbytes(length))


WORKS_WITHOUT = """
import sys, warnings
from sklearn.base import clone
from ml_pkg import Model, runs
from ml_pkg.errors import UnrecordedWarning, WorkspaceUnusable
from flowers import flowers

assert len(flowers.dataset) == 150 and flowers.check() is not None
assert clone(flowers.estimator).fit(flowers.dataset.X, flowers.dataset.y).score(flowers.dataset.X, flowers.dataset.y) > 0.9
assert len(Model.load(sys.argv[1]).predict(flowers.dataset.X)) == 150
try: runs()
except WorkspaceUnusable as error: assert "ml_pkg doctor --rescue" in str(error), error
else: print("read")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    run = flowers.with_seed(7).run()
assert run.status == "finished" and run.summary["accuracy"][0] > 0.9 and len(run.predictions) == 150
if run.id == "not recorded":
    told = [str(warning.message) for warning in said if issubclass(warning.category, UnrecordedWarning)]
    assert len(told) == 1 and "ml_pkg doctor --rescue" in told[0], told
else: print("recorded")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory:pytest.TempPathFactory, cli:list[str]) -> Path:
    "A workspace with a model, and 40 runs more."
    folder = tmp_path_factory.mktemp("trained")
    project = make_project(folder / "project")
    subprocess.run([*cli, "train", "flowers:flowers"], cwd=project, env={**os.environ, "ML_PKG_WORKSPACE": str(folder / "workspace"), "PYTHONPATH": str(PACKAGE.parent)}, check=True, capture_output=True)
    return filled(folder / "workspace", 40).folder


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_database(harm:str, trained:Path, command:Callable, python:Callable, workspace:Path, told:Callable):
    "The rest of the package works, what fails says how to recover, and after that all is recorded again."
    shutil.copytree(trained, workspace)
    before = run_ids(workspace / "runs.sqlite")
    HARMS[harm](workspace / "runs.sqlite", (workspace / "runs.sqlite").stat().st_size, 1)
    could = python(WORKS_WITHOUT, next((workspace / "models").glob("*.mlpkg"))).split()
    if harm in ("header overwritten", "all noise"): assert could == []
    found = doctor(Workspace(workspace))
    assert found.needs_rescue and not found.is_well
    saved = rescue(Workspace(workspace))
    assert_sound(workspace / "runs.sqlite")
    assert not doctor(Workspace(workspace)).needs_rescue
    after = [each for each in run_ids(workspace / "runs.sqlite") if each in before]
    told(f"database damaged, {harm}: {len(after)} of {len(before)} runs rescued, the package works meanwhile")
    if harm in ("header overwritten", "first page overwritten"): assert after == before and saved.lost == 0
    if harm == "one page overwritten": assert len(after) > 0.7 * len(before)
    if harm == "all noise": assert json.loads(command("train", "flowers:flowers", "--json").stdout)["run"] in run_ids(workspace / "runs.sqlite")


def test_damage_anywhere(memory:Path, told:Callable):
    "Whatever page is lost: no made-up row, and no run that counts as complete and is not."
    whole = filled(memory / "whole", 30)
    with closing(sqlite3.connect(whole.database)) as connection: scores = set(connection.execute("SELECT run, metric, fold, value FROM scores"))
    content, count, rescued = whole.database.read_bytes(), times(60), 0
    for seed in range(count):
        damaged = Workspace(memory / f"damaged{seed}")
        damaged.made()
        damaged.database.write_bytes(content)
        HARMS[random.Random(seed).choice([*HARMS][:5])](damaged.database, len(content), seed)
        saved = rescue(damaged)
        rescued += saved.tables[0].rows
        assert_sound(damaged.database)
        with closing(sqlite3.connect(damaged.database)) as connection:
            complete = {row[0] for row in connection.execute("SELECT id FROM runs WHERE status = 'finished' AND reproducible AND reuses IS NULL")}
            found = {row for row in connection.execute("SELECT run, metric, fold, value FROM scores") if row[0] in complete}
        assert found == {row for row in scores if row[0] in complete}
        shutil.rmtree(damaged.folder)
    told(f"database damaged anywhere: {count} attempts, {rescued:,} of {count * 30:,} runs rescued, 0 wrong ones among them")


INTERRUPTED = WRITER + """
with store.connected(workspace) as connection:
    connection.execute("PRAGMA cache_size = 1") # so that pages are written before the transaction ends
    connection.execute("BEGIN IMMEDIATE")
    for number in range(40):
        row, details = run_of(number)
        store._insert(connection, "runs", {"id": f"{number:08x}", **row})
        for table, rows in details.items(): store._insert(connection, table, *({"run": f"{number:08x}", **each} for each in rows))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_journal_of_a_killed_process(memory:Path, told:Callable):
    "A whole journal loses nothing. One that was cut may; then it is found, and told."
    whole = filled(memory / "whole", 30)
    before = run_ids(whole.database)
    assert started(INTERRUPTED, "DELETE", whole.folder).wait() == -signal.SIGKILL
    database, journal = whole.database.read_bytes(), whole.database.with_name("runs.sqlite-journal").read_bytes()
    lengths = [len(journal), *(random.Random(1).randrange(len(journal)) for _ in range(times(25))), 0]
    sound = rescued = 0
    for place, length in enumerate(lengths):
        cut = Workspace(memory / f"cut{place}")
        cut.made()
        cut.database.write_bytes(database)
        cut.database.with_name("runs.sqlite-journal").write_bytes(journal[:length])
        found = doctor(cut)
        try:
            with connected(cut) as connection: there = [row["id"] for row in connection.execute("SELECT id FROM runs NOT INDEXED ORDER BY number")]
        except WorkspaceUnusable as error:
            assert found.needs_rescue and "ml_pkg doctor --rescue" in str(error)
        if found.needs_rescue:
            rescue(cut)
            assert_sound(cut.database)
            rescued += len(set(before) & set(run_ids(cut.database)))
        else:
            assert there == before
            assert_sound(cut.database)
            sound += 1
        assert length < len(journal) or not found.needs_rescue
        shutil.rmtree(cut.folder)
    told(f"journal of a killed process, whole or cut: {len(lengths)} attempts, {sound} times nothing lost, {len(lengths) - sound} times found, and {rescued:,} of {len(before) * (len(lengths) - sound):,} runs rescued; 0 times unnoticed")


# --- a disk that is full, and one that cannot be written

NO_ROOM = """
import json, os, subprocess, sys, warnings
os.environ["ML_PKG_WORKSPACE"], faults, mending, moment = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
from ml_pkg.errors import UnrecordedWarning
from flowers import flowers

def run_of(seed):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = flowers.with_seed(seed).run()
    assert run.status == "finished" and run.summary["accuracy"][0] > 0.9 and len(run.predictions) == 150 and len(run.scores) == 3
    loud = [str(each.message) for each in said if issubclass(each.category, UnrecordedWarning)]
    assert ["not recorded" in each for each in loud] == [True] * (run.id == "not recorded"), loud
    return run

assert run_of(0).id != "not recorded"
for number, fault in enumerate(faults):
    subprocess.run(fault, shell=True, check=True)
    run = run_of(2 * number + 1)
    if run.id == "not recorded": print("refused")
    subprocess.run(mending, shell=True, check=True)
    if moment == "next": assert run_of(2 * number + 2).id != "not recorded" != run.id
"""


def lost_seeds(workspace:Path, seeds:range) -> int:
    "How many of the runs are not there; those that are have to be in order."
    with closing(sqlite3.connect(workspace / "runs.sqlite")) as connection: there = [row[0] for row in connection.execute("SELECT seed FROM runs WHERE status = 'finished' ORDER BY number")]
    assert there == sorted(there)
    assert_sound(workspace / "runs.sqlite")
    return len(set(seeds) - set(there))


def test_full_disk(small_disk:Path, python:Callable, told:Callable, attempts:Callable):
    "The result is there, the failure is loud, and the run is recorded once there is room, in order: with the next run, or when the process ends."
    filler = small_disk / "filler"
    def filled_up(free:int) -> str: return f"head -c 2000000 /dev/zero > {filler} 2> /dev/null || truncate -s -{free} {filler}"
    faults = [filled_up(free) for free in (0, 4096, 8192, 16384, 24576, 32768, 65536)]
    refused = [python(NO_ROOM, small_disk / "next", json.dumps(faults), f"rm {filler}", "next").count("refused"), python(NO_ROOM, small_disk / "end", json.dumps(faults[:1]), f"rm {filler}", "end").count("refused")]
    lost = lost_seeds(small_disk / "next", range(2 * len(faults) + 1)) + lost_seeds(small_disk / "end", range(2))
    told(f"disk full: {len(faults) + 1} attempts, {sum(refused)} times not recorded at once, {lost} runs lost")
    assert refused[0] >= 3 and refused[1] == 1 and lost == 0
    attempts(len(faults) + 1)


def test_read_only_disk(small_disk:Path, python:Callable, told:Callable, attempts:Callable):
    "As a full disk."
    fault, mending = f"mount --bind {small_disk} {small_disk} && mount -o remount,bind,ro {small_disk}", f"umount -l {small_disk}"
    refused = sum(python(NO_ROOM, small_disk / moment, json.dumps([fault] * count), mending, moment).count("refused") for moment, count in (("next", 3), ("end", 1)))
    lost = lost_seeds(small_disk / "next", range(7)) + lost_seeds(small_disk / "end", range(2))
    told(f"disk read-only: 4 attempts, {refused} times not recorded at once, {lost} runs lost")
    assert refused == 4 and lost == 0
    attempts(4)


# --- the clock, versions, names

CLOCK = """
from datetime import UTC, datetime, timedelta
import ml_pkg.store as store
ahead = [timedelta(0)]
store.now = lambda: (datetime.now(UTC) + ahead[0]).isoformat(timespec="microseconds")
from flowers import flowers
from ml_pkg.history import run_list
from ml_pkg.run import load_run

made = []
for seed, hours in enumerate((0, -1, -1, 2, -30 * 24, 15 * 365 * 24)): # also beyond the year 2038
    ahead[0] = timedelta(hours=hours)
    made.append(flowers.with_seed(seed).run().id)
assert sorted((run["started"] for run in run_list()), reverse=True) != [run["started"] for run in run_list()]
assert [run["id"] for run in run_list()] == made[::-1]
assert load_run("latest").id == load_run("flowers").id == made[-1]
again = flowers.with_seed(1).run()
assert again.reused and again.row["reuses"] == made[1] and load_run("latest").id == again.id
assert all(run["seconds"] >= 0 for run in run_list())
print(len(made))
"""


def test_clock_set_back(python:Callable, told:Callable, attempts:Callable):
    "Order is the order of recording, whatever the clock says."
    told(f"clock set back and forth: {(runs := python(CLOCK))} runs, 0 out of order")
    attempts(int(runs))


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_migration_from_every_version(version:int, workspace:Path, told:Callable):
    "A store of an earlier version is brought forward with all that is in it, by whoever opens it first, also if several do."
    store = Workspace(workspace)
    store.made()
    with closing(sqlite3.connect(store.database)) as connection:
        for statement in (statement for migration in MIGRATIONS[:version] for statement in migration): connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        for number in range(20):
            connection.execute("INSERT INTO runs (id, experiment, key, status, started, seconds, origin, seed) VALUES (?, 'iris', ?, 'finished', '2024-01-01T00:00:00+00:00', 1.5, 'script', ?)", [f"{number:08x}", f"{number:032x}", number])
            connection.executemany("INSERT INTO scores (run, metric, fold, value) VALUES (?, ?, ?, ?)", [(f"{number:08x}", metric, fold, None if number == 3 and metric == "f1" else (number + fold) / 100) for metric in ("accuracy", "f1") for fold in range(3)])
            connection.execute("INSERT INTO parameters (run, name, value) VALUES (?, 'C', '1.0')", [f"{number:08x}"])
            connection.execute("INSERT INTO components (run, path, content) VALUES (?, 'seed', '0')", [f"{number:08x}"])
            connection.execute("INSERT INTO timings (run, fold, place, step, seconds, outcome) VALUES (?, 0, 0, 'fit', 0.1, 'computed')", [f"{number:08x}"])
            connection.execute("INSERT INTO warnings (run, fold, step, category, message) VALUES (?, 0, 'fit', 'UserWarning', 'few rows')", [f"{number:08x}"])
            if version >= 4: connection.executemany("INSERT INTO metrics (run, metric, place) VALUES (?, ?, ?)", [(f"{number:08x}", "accuracy", 0), (f"{number:08x}", "f1", 1)])
        connection.commit()
    opening = [started("from ml_pkg.history import run_list; print(len(run_list()))") for _ in range(3)]
    assert [finished(process) for process in opening] == [["20"]] * 3
    for number in range(20):
        run = load_run(f"{number:08x}")
        assert run.fold_scores["accuracy"] == [(number + fold) / 100 for fold in range(3)] and run.metrics == ["accuracy", "f1"]
        assert (run.parameters, run.components, run.status, run.row["seed"]) == ({"C": "1.0"}, {"seed": "0"}, "finished", number)
        assert [warning["message"] for warning in run.warnings] == ["few rows"] and run.timings.shape == (1, 4) and run.scores.shape == (3, 2)
    with connected(store) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
        means = {(run, metric): mean for run, metric, mean in connection.execute("SELECT run, metric, mean FROM metrics")}
        later = record(connection, {"experiment": "iris", "status": "finished", "started": "2024", "seconds": 1.0, "origin": "script"})
    if version < 5: assert means["00000003", "f1"] is None and means["00000005", "accuracy"] == pytest.approx(0.06) # version 5 brought means, and who records them
    assert len(run_list(where="C == 1")) == 20
    assert load_run("latest").id == later
    assert_sound(store.database)
    if version == len(MIGRATIONS): told(f"stores of versions 1 to {version} brought forward: {version} attempts, 0 rows lost")


def test_newer_version(command:Callable, python:Callable, workspace:Path):
    "A store that a newer version wrote is left as it is, and that is said."
    assert command("train", "flowers:flowers").returncode == 0
    with closing(sqlite3.connect(workspace / "runs.sqlite")) as connection: connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = (workspace / "runs.sqlite").read_bytes()
    done = command("runs")
    assert done.returncode == 2 and "newer ml_pkg" in done.stderr and "pip install -U ml_pkg" in done.stderr
    with pytest.raises(WorkspaceUnusable, match="newer ml_pkg"): rescue(Workspace(workspace))
    assert not doctor(Workspace(workspace)).is_well
    assert (workspace / "runs.sqlite").read_bytes() == before


NAMES = ["größe_日本語_🌷", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "'; DROP TABLE runs; --", 'a "quoted" name', "two\nlines\r\nand\ttabs", "nul\0inside", "\u202eright to left", "../../etc/passwd", "%s {0} ${x}", " " * 5, "x" * 1_000_000]


def test_hostile_names(workspace:Path, command:Callable, told:Callable):
    "Whatever a name is, it is read as it was written, and is text on every page."
    store, made = Workspace(workspace), {}
    with connected(store) as connection:
        for name in NAMES:
            made[name] = record(connection, {"experiment": name, "status": "finished", "started": "2024", "seconds": 1.0, "origin": name, "place": name, "source": name, "dataset": name, "estimator": name, "error": name},
                scores=[{"metric": name, "fold": fold, "value": 0.5} for fold in range(2)], metrics=[{"metric": name, "place": 0}], parameters=[{"name": name, "value": name}], components=[{"path": name, "content": name}],
                packages=[{"name": name, "version": name}], warnings=[{"fold": 0, "step": name, "category": name, "message": name}], findings=[{"name": name, "message": name, "accepted": name}], timings=[{"fold": fold, "place": 0, "step": name, "seconds": 0.1, "outcome": "computed"} for fold in range(2)])
            annotate(connection, made[name], "note", name)
    assert {run["experiment"] for run in run_list()} == set(NAMES)
    for name, identifier in made.items():
        run = load_run(name)
        assert run.id == identifier and run.fold_scores == {name: [0.5, 0.5]} and run.parameters == {name: name} and run.warnings[0]["message"] == name and list(run.scores.columns) == [name]
        for page in (run._repr_html_(), run.explain()._repr_html_(), doctor(store)._repr_html_()): assert "<script>alert" not in page and "<img src=x" not in page
        if "\0" not in name and len(name) < 1000:
            shown = command("show", identifier, "--json")
            assert shown.returncode == 0 and json.loads(shown.stdout)["parameters"] == {name: name}, shown.stderr
    assert [run["experiment"] for run in json.loads(command("runs", "--json", "-n", "100").stdout)] == NAMES[::-1]
    from sklearn.linear_model import LogisticRegression

    from ml_pkg import Dataset, Evaluation, Experiment
    refused = [name for name in NAMES if not name.isidentifier()]
    for name in refused:
        with pytest.raises(InvalidDeclaration, match="identifier"): Experiment(name, Dataset("iris.csv", target="species"), LogisticRegression(), Evaluation(3))
    assert_sound(store.database)
    told(f"hostile names: {len(NAMES)} attempts, 0 changed, 0 run as code; {len(refused)} refused as names of declarations")
