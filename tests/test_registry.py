"""The registry among processes: two that promote at once, and some that are killed while they register."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import assert_sound

from ml_pkg.cleaning import plan
from ml_pkg.doctor import doctor
from ml_pkg.errors import Overtaken
from ml_pkg.persistence import digest_of
from ml_pkg.registry import aliases, check_expected, models, point, register, versions
from ml_pkg.run import load_run
from ml_pkg.store import connected, transaction
from ml_pkg.workspace import Workspace

PROMOTE = """
import sys, time
from ml_pkg.errors import Overtaken
from ml_pkg.registry import add_version, aliases, kept_copy, point
from ml_pkg.run import load_run
from ml_pkg.store import connected, transaction
from ml_pkg.workspace import Workspace

who, run, start = sys.argv[1], load_run(sys.argv[2]), float(sys.argv[3])
workspace = Workspace.current()
with connected(workspace) as connection: seen = aliases(connection, "flowers").get("production")
print(seen, flush=True)
sys.stdin.readline() # both have looked
while time.time() < start: pass
try:
    with kept_copy(workspace, "flowers", run, run.model_path) as copy, connected(workspace) as connection, transaction(connection):
        version = add_version(connection, copy)
        point(connection, "flowers", "production", version.version, "promote", who, expected=seen)
    print("won", version.version)
except Overtaken as error: print("told", error)
"""

REGISTER = """
import sys
from ml_pkg.registry import point, register
from ml_pkg.run import load_run
from ml_pkg.store import connected, transaction
from ml_pkg.workspace import Workspace

runs, workspace = [load_run(each) for each in sys.argv[1:]], Workspace.current()
print("ready", flush=True)
for number in range(100_000):
    run = runs[number % len(runs)]
    with connected(workspace) as connection:
        version = register(connection, workspace, f"flowers{number // len(runs)}", run, run.model_path)
        with transaction(connection): point(connection, version.name, "production", version.version, "promote", "Ada")
"""


REGISTRATIONS = int(os.environ.get("ML_PKG_REGISTRATIONS", "25")) # of each of eight processes

REGISTER_MANY = """
import sys
from pathlib import Path
from ml_pkg.model import Model, write_model
from ml_pkg.persistence import Skops
from ml_pkg.registry import register
from ml_pkg.run import load_run
from ml_pkg.store import connected
from ml_pkg.workspace import Workspace

who, count, run, workspace = sys.argv[1], int(sys.argv[2]), load_run(sys.argv[3]), Workspace.current()
model, file = Model.load(run.model_path), Path(f"{who}.mlpkg")
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    write_model(Model(model.estimator, model.schema, model.card, {"note": f"{who} {number}".encode()}), file, Skops()) # another file of the same run
    with connected(workspace) as connection: version = register(connection, workspace, "flowers", run, file)
    print(version.version, version.sha256, flush=True)
"""


@pytest.fixture
def runs(project:Path, python:Callable) -> list[str]:
    "The ids of three runs with their models."
    return json.loads(python("import json, flowers; found = [flowers.flowers.replace(logisticregression__C=C).run() for C in (0.1, 1.0, 10.0)]; assert all(run.model for run in found); print(json.dumps([run.id for run in found]))"))


def started(source:str, project:Path, *arguments) -> subprocess.Popen:
    "A process that has said its first line."
    process = subprocess.Popen([sys.executable, "-c", source, *map(str, arguments)], cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline(), process.wait()
    return process


def assert_consistent(workspace:Workspace) -> None:
    "Each row has its file, whole, and what an alias stands for is there."
    assert_sound(workspace.database)
    with closing(sqlite3.connect(workspace.database)) as connection:
        for path, digest in connection.execute("SELECT path, sha256 FROM versions"): assert digest_of(workspace.folder / path) == digest
        assert connection.execute("SELECT count(*) FROM promotions WHERE NOT EXISTS (SELECT 1 FROM versions WHERE versions.name = promotions.name AND versions.version = promotions.version)").fetchone() == (0,)
    assert [symptom for symptom in doctor(workspace).symptoms if "left by processes" not in symptom.what] == []


def test_of_two_who_promote_at_once_one_wins(here:Workspace, project:Path, runs:list[str], attempts:Callable):
    "The other is told who that was, and nothing of what it did remains but a file that no row knows."
    with connected(here) as connection:
        first = register(connection, here, "flowers", load_run(runs[0]), load_run(runs[0]).model_path)
        with transaction(connection): point(connection, "flowers", "production", first.version, "promote", "Zoe")
    standing = runs[0]
    for _ in range(5):
        with connected(here) as connection: before = aliases(connection, "flowers")["production"]
        start = time.time() + 1.5
        rivals = [run for run in runs if run != standing] # who promotes what stands already moves nothing, and overtakes nobody
        both = [started(PROMOTE, project, who, run, start) for who, run in zip(("Ada", "Ben"), rivals, strict=True)]
        for process in both: process.stdin.write("go\n"), process.stdin.flush()
        said = [process.communicate(timeout=60)[0].strip() for process in both]
        assert sorted(each.split()[0] for each in said) == ["told", "won"], said
        winner = "Ada" if said[0].startswith("won") else "Ben"
        standing = rivals[["Ada", "Ben"].index(winner)]
        told = next(each for each in said if each.startswith("told"))
        assert f"promoted by {winner} at 20" in told and f"it stood for version {before}" in told
        with connected(here) as connection: known = aliases(connection, "flowers")
        assert known == {"production": int(next(each for each in said if each.startswith("won")).split()[1]), "previous": before}
        assert_consistent(here)
        attempts(1)


def test_what_is_expected_is_compared_while_nobody_else_can_write(here:Workspace, runs:list[str]):
    "A move that is not committed yet keeps the other waiting, and then it is told."
    with connected(here) as connection:
        for run in runs[:2]: register(connection, here, "flowers", load_run(run), load_run(run).model_path)
    with closing(sqlite3.connect(here.database, isolation_level=None, timeout=0)) as other, connected(here) as connection:
        other.row_factory = sqlite3.Row
        with transaction(connection):
            point(connection, "flowers", "production", 1, "promote", "Ada", expected=None)
            with pytest.raises(sqlite3.OperationalError, match="locked"), transaction(other): pass
        with pytest.raises(Overtaken, match="promoted by Ada"), transaction(other): check_expected(other, "flowers", "production", None)


def test_killed_while_it_registers(here:Workspace, workspace:Path, project:Path, runs:list[str], attempts:Callable):
    "Twenty times, at any moment: whatever is registered is whole, the next registration works, and what is left can be cleaned away."
    for turn in range(20):
        process = started(REGISTER, project, *runs)
        time.sleep(random.Random(turn).uniform(0.0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert_consistent(here)
        with connected(here) as connection: last = connection.execute("SELECT coalesce(max(number), 0) FROM versions").fetchone()[0]
        run = load_run(runs[turn % 3])
        with connected(here) as connection: version = register(connection, here, f"after{turn}", run, run.model_path)
        assert version.model.card["run"] == run.id
        with connected(here) as connection: assert connection.execute("SELECT max(number) FROM versions").fetchone()[0] > last
        attempts(1)
    assert len(models()) > 20
    known = {version.path for name in models().index for version in versions(name)}
    plan(here, settled=0).delete()
    assert {path for path in (workspace / "registry").rglob("*") if path.is_file()} == {workspace / path.relative_to(workspace.resolve()) for path in known}
    assert_consistent(here)


def test_many_processes_register_at_once(here:Workspace, project:Path, runs:list[str], attempts:Callable):
    "Each registration is a version of its own, with the file that was given, and the numbers have no gap."
    both = [started(REGISTER_MANY, project, f"p{number}", REGISTRATIONS, runs[0]) for number in range(8)]
    for process in both: process.stdin.write("go\n"), process.stdin.flush()
    said = [line.split() for process in both for line in process.communicate(timeout=3000)[0].splitlines()]
    assert [process.returncode for process in both] == [0] * 8
    assert sorted(int(version) for version, _ in said) == list(range(1, 8 * REGISTRATIONS + 1))
    assert {(each.version, each.sha256) for each in versions("flowers")} == {(int(version), digest) for version, digest in said} and len({digest for _, digest in said}) == len(said)
    assert_consistent(here)
    attempts(len(said))
