"""A model that is saved while the system fails under it: killed at each call, refused by the disk, without room, read-only. And its file, damaged in every place."""

import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import PACKAGE, assert_sound, run_ids
from sklearn.dummy import DummyRegressor

from ml_pkg.errors import DamagedFile, MlPkgError, Unwritable
from ml_pkg.model import Model
from ml_pkg.persistence import read_archive, write_archive
from ml_pkg.schema import learn_schema

EVERY_BIT = bool(os.environ.get("ML_PKG_EVERY_BIT")) # of a file, and not only each byte

# Loads everything once. For each name of a file, a child says its number and waits; when it was told to go on it does something, tells, and ends.
SERVER = """
import os, sys, time
from pathlib import Path
from sklearn.dummy import DummyRegressor
from ml_pkg.model import Model
from ml_pkg.persistence import read_archive, write_archive
from ml_pkg.schema import learn_schema
import pandas as pd
from ml_pkg.logged import Logged
from ml_pkg.prediction_log import Outcome, PredictionLog
from ml_pkg.store import connected, record
from ml_pkg.workspace import Workspace

rows = pd.DataFrame({"a": [1.0, 2.0]})
model = Model(DummyRegressor().fit(rows, [2.0, 2.0]), learn_schema(rows), {"name": "new"}, {"ballast": bytes(30_000)})
def save(path): return model.save(path)
def log(path):
    "An acknowledged row; what could not be written is an error, as it is for a server."
    log = PredictionLog(Path(path), durable=True)
    receipt = log.add(Logged(["only"], {"age": [31]}, {"prediction": ["no"]}, "churn", "1", 1e9, 0.001))
    log.close()
    if receipt.outcome is not Outcome.WRITTEN: raise OSError("not acknowledged")
def keep(path):
    with connected(Workspace(Path(path))) as connection: record(connection, {"experiment": "new", "status": "finished", "started": "2026", "seconds": 1.0, "origin": "script"}, scores=[{"metric": "r2", "fold": fold, "value": 0.5} for fold in range(5)])
work = {"save": save, "log": log, "keep": keep}
save(sys.argv[1]) # what loads late is loaded
print("ready", flush=True)
for line in sys.stdin:
    what, path = line.split()
    child = os.fork()
    if child: print(child, os.waitpid(child, 0)[1], flush=True)
    else:
        print(os.getpid(), flush=True)
        while not os.path.exists(path + ".go"): time.sleep(0.002)
        os.environ["ML_PKG_WORKSPACE"] = str(Path(path).parent/"workspace")
        try: work[what](path)
        except Exception as error: said = f"refused {type(error).__name__} {error}".replace("\\n", " ")
        else: said = "done"
        os.write(1, f"{said}\\n".encode()) # in one call, since it may be killed at any
        os._exit(0)
"""

CALLS = "openat,write,pwrite64,writev,ftruncate,fchmod,chmod,fsync,fdatasync,rename,renameat,renameat2,unlink,mkdir"


class Traced:
    "Processes that do one thing each, while strace looks on or interferes."
    def __init__(self, folder:Path):
        self.folder = folder
        self.server = subprocess.Popen([sys.executable, "-c", SERVER, folder / "first.mlpkg"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self.server.stdout.readline() == "ready\n"

    def does(self, what:str, path:Path, *options:str) -> tuple[list[str], int, str]:
        "What the process said, how it ended, and what strace wrote."
        log, go = self.folder / "strace.txt", Path(f"{path}.go")
        go.unlink(missing_ok=True)
        self.server.stdin.write(f"{what} {path}\n")
        self.server.stdin.flush()
        process = int(self.server.stdout.readline())
        with subprocess.Popen(["strace", "-f", "-e", f"trace={CALLS}", *options, "-o", log, "-p", str(process)], stderr=subprocess.PIPE, text=True) as strace:
            assert "attached" in (told := strace.stderr.readline()), told
            go.touch()
            said = []
            while not (line := self.server.stdout.readline()).startswith(f"{process} "): said.append(line.strip())
            strace.wait(60)
        return said, int(line.split()[1]), log.read_text()

    def places(self, what:str, path:Path, calls:str=CALLS, of:str="") -> list[tuple[str, int]]:
        "Each call that this takes, by its name and its number among those of that name; of such that have to do with some file, if one is named."
        said, code, log = self.does(what, path, "-y")
        assert (said, code) == (["done"], 0), said
        count, found = Counter(), []
        for name, rest in re.findall(r"^\d+ +(\w+)\((.*)", log, re.MULTILINE):
            count[name] += 1
            if name in calls.split(",") and of in rest: found.append((name, count[name]))
        return found

    def close(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()


@pytest.fixture
def workspace(memory:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ML_PKG_WORKSPACE", str(memory / "workspace"))
    return memory / "workspace"


@pytest.fixture(scope="module")
def traced(tmp_path_factory:pytest.TempPathFactory) -> Iterator[Traced]:
    if not shutil.which("strace"): pytest.skip("strace is not installed: apt-get install strace")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode: pytest.skip("strace may not look at processes here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PACKAGE.parent))
        patch.setenv("ML_PKG_WORKSPACE", str((folder := tmp_path_factory.mktemp("traced")) / "workspace"))
        found = Traced(folder)
    yield found
    found.close()


ROWS = pd.DataFrame({"a": [1.0, 2.0]})


def model_of(answer:float) -> Model: return Model(DummyRegressor().fit(ROWS, [answer, answer]), learn_schema(ROWS), {"name": "old"}, {"ballast": bytes(30_000)})
def answer(path:Path) -> float: return Model.load(path).predict(ROWS).iloc[0]
def parts(folder:Path) -> list[Path]: return list(folder.glob(".*.part"))


def test_killed_at_every_call_of_a_save(traced:Traced, memory:Path, workspace:Path, attempts:Callable):
    "The old model or the new one; what is left behind is cleared away by the next save, and the record is sound."
    path, seen, left = memory / "model.mlpkg", Counter(), 0
    model_of(1.0).save(path)
    places = traced.places("save", path)
    assert {"write", "fsync", "rename"} <= {name for name, _ in places} and len(places) > 15
    for name, number in places:
        model_of(1.0).save(path)
        assert not parts(memory)
        said, code, _ = traced.does("save", path, "-e", f"inject={name}:signal=KILL:when={number}")
        assert (said, code) == ([], signal.SIGKILL) or said == ["done"], (name, number, said, code)
        seen[answer(path)] += 1
        left += len(parts(memory))
        if said: assert answer(path) == 2.0
        assert_sound(workspace / "runs.sqlite")
        attempts(1)
    model_of(1.0).save(path)
    print(f"{len(places)} kills; old {seen[1.0]}, new {seen[2.0]}; {left} parts left and cleared")
    assert set(seen) == {1.0, 2.0} and left > 5 and not parts(memory) and answer(path) == 1.0


FLUSHES = "fsync,fdatasync"


def test_fsync_fails_in_a_save(traced:Traced, memory:Path, workspace:Path, attempts:Callable):
    "The model that could not be flushed is refused, and the old one stays. Where only the note of it could not, it is saved."
    path, refused = memory / "model.mlpkg", 0
    model_of(1.0).save(path)
    for name, number in traced.places("save", path, FLUSHES):
        model_of(1.0).save(path)
        said, _, _ = traced.does("save", path, "-e", f"inject={name}:error=EIO:when={number}")
        refused += said[0].startswith("refused Unwritable") and "Input/output error" in said[0]
        assert (answer(path), said == ["done"]) in ((1.0, False), (2.0, True)), said
        assert_sound(workspace / "runs.sqlite")
        attempts(1)
    assert refused == 1 and not parts(memory)


def test_fsync_fails_in_a_record(traced:Traced, memory:Path, attempts:Callable):
    "A run that could not be flushed is no run, and whoever recorded it is told."
    folder = memory / "kept"
    places = [traced.places("keep", folder, FLUSHES, "/runs.sqlite") for _ in range(2)][-1] # the first time the tables are made as well; SQLite passes over folders that cannot be flushed
    recorded = len(run_ids(folder / "runs.sqlite"))
    assert len(places) >= 2 and recorded == 2
    for name, number in places:
        said, _, _ = traced.does("keep", folder, "-e", f"inject={name}:error=EIO:when={number}")
        assert said[0].startswith("refused") and "WorkspaceUnusable" in said[0], said
        assert len(run_ids(folder / "runs.sqlite")) == recorded
        assert_sound(folder / "runs.sqlite")
        attempts(1)
    assert traced.does("keep", folder)[0] == ["done"] and len(run_ids(folder / "runs.sqlite")) == recorded + 1


def test_fsync_fails_in_a_durable_log(traced:Traced, memory:Path, attempts:Callable):
    "A row that could not be flushed was not written, says the log, however often it is tried."
    places = traced.places("log", memory / "churn", FLUSHES, ".ahead")
    assert places
    for name, number in places:
        said, _, _ = traced.does("log", memory / f"churn{number}", "-e", f"inject={name}:error=EIO:when={number}+")
        assert said == ["refused OSError not acknowledged"]
        attempts(1)


def test_no_room_at_any_write(traced:Traced, memory:Path, workspace:Path, attempts:Callable):
    path, refused = memory / "model.mlpkg", 0
    model_of(1.0).save(path)
    for name, number in traced.places("save", path, "write,pwrite64"):
        model_of(1.0).save(path)
        said, _, _ = traced.does("save", path, "-e", f"inject={name}:error=ENOSPC:when={number}")
        if said: assert (answer(path), said == ["done"]) in ((1.0, False), (2.0, True)) and said[0].startswith(("done", "refused Unwritable")), said
        refused += bool(said) and said[0].startswith("refused")
        assert_sound(workspace / "runs.sqlite")
        attempts(1)
    assert refused and not parts(memory)


def test_full_disk(small_disk:Path, attempts:Callable):
    "With so many free pages: the new model, or an error that says why and the old one; and the new one once there is room."
    path, filler, refused = small_disk / "model.mlpkg", small_disk / "filler", 0
    for pages in range(0, 12):
        model_of(1.0).save(path)
        filler.write_bytes(bytes(max(0, (free := shutil.disk_usage(small_disk).free) - 4096 * pages)))
        assert shutil.disk_usage(small_disk).free == min(free, 4096 * pages)
        try: model_of(2.0).save(path)
        except Unwritable as error:
            refused += 1
            assert "No space left" in str(error) and answer(path) == 1.0
        else: assert answer(path) == 2.0
        assert not parts(small_disk)
        filler.unlink()
        model_of(2.0).save(path)
        assert answer(path) == 2.0
        attempts(1)
    assert 6 < refused < 12


def test_read_only_disk(small_disk:Path, attempts:Callable):
    "The model that is there predicts; a save says why it cannot."
    path = small_disk / "model.mlpkg"
    model_of(1.0).save(path)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for place in (path, small_disk / "another.mlpkg"):
        with pytest.raises(Unwritable, match="Read-only file system"): model_of(2.0).save(place)
        assert answer(path) == 1.0
        attempts(1)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert answer(model_of(2.0).save(path)) == 2.0


# a file that is damaged

@pytest.fixture
def small(tmp_path:Path) -> Path:
    "A model in a file of a few thousand bytes."
    return Model(DummyRegressor().fit(ROWS, [1.5, 1.5]), learn_schema(ROWS)).save(tmp_path / "small.mlpkg")


def test_every_byte_changed(small:Path, attempts:Callable):
    "Refused, or the same predictions."
    content, bad, outcomes = small.read_bytes(), small.with_name("bad.mlpkg"), Counter()
    for place in range(len(content)):
        for change in ([1 << bit for bit in range(8)] if EVERY_BIT else [0xFF]):
            bad.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1:])
            try: same = answer(bad) == 1.5
            except MlPkgError: outcomes["refused"] += 1
            else:
                assert same, place
                outcomes["the same"] += 1
            attempts(1)
    print(f"{len(content):,} bytes: {dict(outcomes)}")
    assert outcomes["refused"] > 0.9 * outcomes.total()


def test_cut_at_every_offset(small:Path, attempts:Callable):
    content, bad = small.read_bytes(), small.with_name("bad.mlpkg")
    for place in range(len(content)):
        bad.write_bytes(content[:place])
        with pytest.raises(DamagedFile): Model.load(bad)
        attempts(1)


def test_members_that_are_gone_or_more(small:Path, attempts:Callable):
    with zipfile.ZipFile(small) as archive: members = {name: archive.read(name) for name in archive.namelist()}
    def load(content:dict[str, bytes]) -> Model:
        with zipfile.ZipFile(bad := small.with_name("bad.mlpkg"), "w") as archive:
            for name, each in content.items(): archive.writestr(zipfile.ZipInfo(name), each)
        return Model.load(bad)
    assert load(members).predict(ROWS).tolist() == [1.5, 1.5] # written again as it is, it is the same
    for name in members:
        if name == "signature": continue # which says who wrote it; without, it is a stranger's
        with pytest.raises(DamagedFile): load({other: content for other, content in members.items() if other != name})
        attempts(1)
    for name in ("more", "estimator.bak", "card.json.1", "schema", "MANIFEST.JSON", "a" * 200):
        with pytest.raises(DamagedFile): load({**members, name: b"1"})
        attempts(1)


def test_another_scikit_learn(small:Path, attempts:Callable):
    "A model that another version has fitted loads, with a warning that names both; what is no version is refused."
    manifest, members, *_ = read_archive(small)
    here = manifest["versions"]["scikit-learn"]
    def load(version:object) -> Model:
        write_archive(small.with_name("other.mlpkg"), members, {**{name: value for name, value in manifest.items() if name not in ("format", "members")}, "versions": {**manifest["versions"], "scikit-learn": version}})
        return Model.load(small.with_name("other.mlpkg"))
    for version in ("0.24.2", "1.0", "1.7.2", f"{here}.dev0", "99.0"):
        with pytest.warns(UserWarning, match=re.escape(f"was fitted with scikit-learn {version}, and this is {here}")): assert load(version).predict(ROWS).tolist() == [1.5, 1.5]
        attempts(1)
    with warnings.catch_warnings(action="error"): load(here)
    attempts(1)
