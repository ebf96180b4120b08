"""Doctor, gc, export and import from outside: processes that are killed, disks that are full, and other people's archives."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import assert_sound, run_ids

from ml_pkg.archive import export, import_
from ml_pkg.checkpoints import Checkpoints, pack
from ml_pkg.cleaning import plan
from ml_pkg.doctor import doctor, leftovers
from ml_pkg.errors import DamagedFile, Unwritable
from ml_pkg.persistence import sha256
from ml_pkg.rescue import rescue
from ml_pkg.store import connected, now, record, register_file
from ml_pkg.workspace import Workspace

def recorded(workspace:Workspace, number:int) -> str:
    "A run with two files."
    with connected(workspace) as connection:
        run = record(connection, {"experiment": "iris", "status": "finished", "started": now(), "seconds": 1.0, "origin": "script"}, scores=[{"metric": "accuracy", "fold": fold, "value": 0.5} for fold in range(5)], components=[{"path": f"{part}", "content": "x" * 50} for part in range(40)])
        for kind, content in (("predictions", b"rows" * number), ("models", b"model" * number)):
            path = workspace.made(kind) / f"{run}.{kind}"
            path.write_bytes(content)
            register_file(connection, path, sha256(content), kind.removesuffix("s") if kind == "models" else kind, run)
    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory:pytest.TempPathFactory) -> Workspace:
    "A workspace with fifty runs; not to be changed."
    workspace = Workspace(tmp_path_factory.mktemp("filled"))
    for number in range(50): recorded(workspace, number)
    return workspace


def ids(workspace:Workspace) -> list[str]:
    "Of a database that is sound."
    assert_sound(workspace.database)
    return run_ids(workspace.database)


def files(folder:Path) -> set[str]: return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- what a real run leaves

@pytest.mark.thorough
def test_from_one_machine_to_another(tool:Callable, command:Callable, project:Path, workspace:Path, tmp_path:Path):
    "With the same key, runs are reused there, and declarations and models are read; with another, they can only be looked at."
    first = json.loads(command("train", "flowers:flowers", "--json").stdout)
    for arguments in (("doctor",), ("gc", "--now", "--delete")): assert tool(*arguments).returncode == 0
    assert (workspace / "models").exists() and json.loads(tool("gc", "--now", "--json").stdout)["entries"] == []
    archive = tmp_path / "copy.zip"
    assert tool("export", archive).returncode == 0
    predicted = command("predict", "flowers", "iris.csv").stdout

    there = tmp_path / "there"
    done = tool("import", archive, "--json", ML_PKG_WORKSPACE=there)
    assert json.loads(done.stdout)["added"] == 1 and json.loads(done.stdout)["vouched"], done.stderr
    shutil.rmtree(workspace)
    again = json.loads(tool("train", "flowers:flowers", "--json", ML_PKG_WORKSPACE=there).stdout)
    assert again["reused"] and again["reuses"] == first["run"] and again["scores"] == first["scores"]
    assert tool("predict", "flowers", "iris.csv", ML_PKG_WORKSPACE=there).stdout == predicted
    assert tool("doctor", ML_PKG_WORKSPACE=there).stdout.splitlines()[-1] == "all is well"

    foreign = tmp_path / "foreign"
    stranger = {**os.environ, "ML_PKG_WORKSPACE": str(foreign), "ML_PKG_KEY": "somebody else's"}
    done = tool("import", archive, **stranger)
    assert done.returncode == 0 and "somebody else made the archive" in done.stdout
    assert command("show", first["run"], env=stranger).returncode == 0
    reading = subprocess.run([sys.executable, "-c", f"from ml_pkg import load_run; load_run('{first['run']}').experiment"], env=stranger, capture_output=True, text=True, cwd=project)
    assert reading.returncode and "does not carry your signature" in reading.stderr
    fitted = json.loads(command("train", "flowers:flowers", "--json", env=stranger).stdout)
    assert not fitted["reused"] and fitted["run"] != first["run"]
    again = subprocess.run([sys.executable, "-c", f"from ml_pkg import load_run; load_run('{first['run']}').experiment"], env=stranger, capture_output=True, text=True, cwd=project)
    assert again.returncode == 0, again.stderr # of the same name and key there is one of its own by now
    assert tool("import", archive, "--trusted", **{**stranger, "ML_PKG_WORKSPACE": tmp_path / "trusted"}).returncode == 0
    assert json.loads(command("train", "flowers:flowers", "--json", env={**stranger, "ML_PKG_WORKSPACE": str(tmp_path / "trusted")}).stdout)["reused"]


JOBLIB = """
import sys
from sklearn.linear_model import LogisticRegression
from ml_pkg import Dataset, Evaluation, Experiment, Joblib
from ml_pkg.workspace import Workspace
run = Experiment("flowers", Dataset("iris.csv", target="species"), LogisticRegression(max_iter=1000), Evaluation(3), persister=Joblib()).run()
run.model
print(run.id)
"""


def test_a_model_that_could_run_code(tool:Callable, command:Callable, python:Callable, tmp_path:Path):
    "It is refused where its signature says nothing, however it came there."
    python(JOBLIB)
    assert tool("export", tmp_path / "copy.zip").returncode == 0
    stranger = {**os.environ, "ML_PKG_WORKSPACE": str(tmp_path / "foreign"), "ML_PKG_KEY": "somebody else's"}
    assert tool("import", tmp_path / "copy.zip", "--trusted", **stranger).returncode == 0
    refused = command("predict", "flowers", "iris.csv", env=stranger)
    assert refused.returncode == 2 and "does not carry your signature" in refused.stderr
    assert command("predict", "flowers", "iris.csv", "--trusted", env=stranger).returncode == 0


# --- doctor where nothing else works

@pytest.mark.parametrize("content", [b"", b"noise" * 1000, None], ids=["empty", "noise", "a folder"])
def test_doctor_without_a_database(content:bytes|None, tool:Callable, workspace:Path, filled:Workspace):
    shutil.copytree(filled.folder, workspace)
    (workspace / "predictions" / "of-a-run.feather").touch()
    (workspace / "runs.sqlite").unlink()
    if content is None: (workspace / "runs.sqlite").mkdir()
    else: (workspace / "runs.sqlite").write_bytes(content)
    done = tool("doctor")
    assert done.returncode == 1 and "WRONG" in done.stdout and done.stderr == "", done
    found = json.loads(tool("doctor", "--json").stdout)
    assert not found["is_well"] and found["facts"]["sqlite"].startswith(sqlite3.sqlite_version)


def unread(command:Callable, *arguments) -> int:
    "The exit code of a command whose reader has gone, as `head` goes."
    reading, writing = os.pipe()
    os.close(reading)
    try: return command(*arguments, capture_output=False, stdout=writing, stderr=subprocess.DEVNULL).returncode
    finally: os.close(writing)


def test_a_verdict_is_the_exit_code_although_nobody_reads_it(command:Callable, here:Workspace, workspace:Path, filled:Workspace, tmp_path:Path):
    shutil.copytree(filled.folder, workspace)
    assert [unread(command, "doctor"), unread(command, "checkpoints", "--verify", "--folder", tmp_path)] == [0, 0]
    here.database.write_bytes(b"noise" * 1000)
    store = Checkpoints(tmp_path / "kept")
    store.save("k" * 32, pack([1, 2, 3], "three numbers"), 10.0)
    for file in files(tmp_path / "kept"): (tmp_path / "kept" / file).write_bytes(b"noise")
    assert [unread(command, "doctor"), unread(command, "checkpoints", "--verify", "--folder", tmp_path / "kept")] == [1, 1]


def test_rescue_on_the_command_line(tool:Callable, here:Workspace, workspace:Path, filled:Workspace):
    shutil.copytree(filled.folder, workspace)
    with (workspace / "runs.sqlite").open("r+b") as file: file.write(bytes(100))
    content = (workspace / "runs.sqlite").read_bytes()
    refused = tool("doctor")
    assert refused.returncode == 1 and "ml_pkg doctor --rescue" in refused.stdout
    done = json.loads(tool("doctor", "--rescue", "--json").stdout)
    assert done["rescue"]["tables"]["runs"] == {"rows": 50, "lost": 0, "is_counted": True} and Path(done["rescue"]["kept"]).read_bytes() == content
    assert ids(here) == ids(filled)
    text = tool("gc", "--now").stdout # files of runs stay as long as the damaged database is kept
    assert "files of runs are left where they are" in text


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_read_only_folder(mode:str, tool:Callable, small_disk:Path, tmp_path:Path):
    "The doctor looks, gc plans, export exports; what would write says that it cannot."
    workspace = Workspace(small_disk / "workspace")
    runs = [recorded(workspace, number) for number in range(5)]
    (workspace.folder / "predictions" / "orphan").write_bytes(b"rows")
    os.utime(workspace.folder / "predictions" / "orphan", (1, 1))
    writing = sqlite3.connect(workspace.database)
    writing.execute(f"PRAGMA journal_mode = {mode}")
    writing.execute("UPDATE runs SET seconds = 2") # in the log, in the one mode
    writing.commit()
    shutil.copytree(workspace.folder, small_disk / "as-it-was")
    writing.close()
    workspace = Workspace(small_disk / "as-it-was")
    before = files(workspace.folder)
    subprocess.run(f"mount --bind {small_disk} {small_disk} && mount -o remount,bind,ro {small_disk}", shell=True, check=True)
    try:
        found = tool("doctor", ML_PKG_WORKSPACE=workspace.folder)
        assert found.returncode == 1 and "the workspace cannot be written" in found.stdout and "5 finished" in found.stdout and "cannot be read" not in found.stdout, found.stdout
        planned = tool("gc", "--delete", "--json", ML_PKG_WORKSPACE=workspace.folder)
        assert planned.returncode in (0, 2) and (workspace.folder / "predictions" / "orphan").exists()
        assert tool("export", tmp_path / "copy.zip", ML_PKG_WORKSPACE=workspace.folder).returncode == 0
        refused = tool("import", tmp_path / "copy.zip", ML_PKG_WORKSPACE=workspace.folder)
        assert refused.returncode == 2 and "cannot be written" in refused.stderr
        with pytest.raises(Unwritable): rescue(workspace)
    finally: subprocess.run(["umount", "-l", str(small_disk)], check=True)
    assert files(workspace.folder) == before
    import_(tmp_path / "copy.zip", Workspace(tmp_path / "other"))
    assert ids(Workspace(tmp_path / "other")) == runs
    with connected(Workspace(tmp_path / "other")) as connection: assert {row["seconds"] for row in connection.execute("SELECT seconds FROM runs")} == {2.0}


# --- full disks

def test_export_to_a_full_disk(filled:Workspace, small_disk:Path):
    "The archive from before is as it was, and nothing is left of the new one."
    before = Workspace(small_disk.parent / "one")
    recorded(before, 1)
    export(before, archive := small_disk / "copy.zip")
    content = archive.read_bytes()
    (small_disk / "filler").write_bytes(bytes(300_000))
    with pytest.raises(Unwritable, match="cannot be written"): export(filled, archive)
    assert archive.read_bytes() == content and files(small_disk) == {"copy.zip", "filler"}
    (small_disk / "filler").unlink()
    export(before, archive)


def test_import_to_a_full_disk(filled:Workspace, small_disk:Path, tmp_path:Path):
    "All or nothing; and all, once there is room."
    export(filled, tmp_path / "copy.zip")
    workspace, filler = Workspace(small_disk / "workspace"), small_disk / "filler"
    mine = recorded(workspace, 1)
    before, refused = files(workspace.folder), 0
    for kept in (850_000, 700_000, 500_000, 300_000, 200_000, 100_000, 0):
        with filler.open("wb") as file:
            try: file.write(bytes(kept))
            except OSError: file.truncate()
        try: import_(tmp_path / "copy.zip", workspace)
        except Unwritable as error:
            assert "free" in str(error)
            refused += 1
        else: break
        filler.unlink()
        assert ids(workspace) == [mine] and files(workspace.folder) == before
    assert refused >= 4
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    import_(tmp_path / "copy.zip", workspace)
    assert ids(workspace) == [mine, *ids(filled)]
    assert [symptom.what.split(":")[0] for symptom in doctor(workspace).symptoms] == ["the disk is nearly full"]


# --- killed processes

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from ml_pkg.archive import export, import_
from ml_pkg.checkpoints import Checkpoints, pack
from ml_pkg.cleaning import plan
from ml_pkg.rescue import rescue
from ml_pkg.workspace import Workspace
what, workspace, archive, longest = sys.argv[1], Workspace(Path(sys.argv[2])), Path(sys.argv[3]), float(sys.argv[4])
work = {"import": lambda: import_(archive, workspace), "export": lambda: export(workspace, archive), "rescue": lambda: rescue(workspace), "gc": lambda: plan(workspace, settled=0).delete()}[what]
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.write(writing, b"b")
    work()
    os._exit(0)
os.read(reading, 1)
deadline, ended = time.perf_counter() + longest, (0, 0)
while not ended[0] and time.perf_counter() < deadline:
    time.sleep(0.001)
    ended = os.waitpid(child, os.WNOHANG)
if not ended[0]:
    os.kill(child, signal.SIGKILL)
    ended = os.waitpid(child, 0)
assert ended[1] in (0, signal.SIGKILL), ended
print("killed" if ended[1] else "done")
"""


def killed(what:str, workspace:Workspace, archive:Path, after:float) -> bool:
    "Whether the work was done before the process was killed."
    done = subprocess.run([sys.executable, "-c", KILLED, what, str(workspace.folder), str(archive), str(after)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "done"


def moments(what:Callable, number:int=12) -> Iterator[float]:
    "Moments from the beginning of some work to well after its end."
    began = time.perf_counter()
    what()
    longest = time.perf_counter() - began
    yield from (longest * part / number for part in range(number))
    yield 60.0


def test_kill_while_importing(filled:Workspace, tmp_path:Path):
    "All or nothing, and what is left can be told as that."
    export(filled, archive := tmp_path / "copy.zip")
    outcomes = []
    for place, moment in enumerate(moments(lambda: import_(archive, Workspace(tmp_path / "first")))):
        workspace = Workspace(tmp_path / f"workspace{place}")
        mine = recorded(workspace, 1)
        outcomes.append(killed("import", workspace, archive, moment))
        assert ids(workspace) in ([mine], [mine, *ids(filled)]) and (not outcomes[-1] or len(ids(workspace)) == 51)
        assert {path.name for path in workspace.folder.glob(".import.*")} == {path.name for path in leftovers(workspace)}
        found = doctor(workspace)
        assert found.is_well, found
        plan(workspace, settled=0).delete()
        assert not list(workspace.folder.glob(".import.*"))
        import_(archive, workspace)
        assert ids(workspace) == [mine, *ids(filled)] and doctor(workspace).symptoms == ()
    assert {True, False} == set(outcomes), outcomes


def test_kill_while_exporting(filled:Workspace, tmp_path:Path):
    "The old archive or the new one; the next export clears away what was left."
    old = Workspace(tmp_path / "old")
    recorded(old, 1)
    outcomes, archive = [], tmp_path / "archives" / "copy.zip"
    archive.parent.mkdir()
    for moment in moments(lambda: export(filled, tmp_path / "first.zip")):
        export(old, archive)
        outcomes.append(killed("export", filled, archive, moment))
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        assert import_(archive, Workspace(tmp_path / "new")).added in ((50,) if outcomes[-1] else (1, 50))
    export(old, archive)
    assert files(tmp_path / "archives") == {"copy.zip"}
    assert {True, False} == set(outcomes), outcomes


def test_kill_while_rescuing(filled:Workspace, tmp_path:Path):
    "The damaged database is there, or the new one; and the damaged one is never lost."
    def damaged(name:str) -> Workspace:
        workspace = Workspace(tmp_path / name)
        shutil.copytree(filled.folder, workspace.folder)
        with workspace.database.open("r+b") as file: file.write(bytes(100))
        return workspace
    outcomes, content = [], damaged("content").database.read_bytes()
    for place, moment in enumerate(moments(lambda: rescue(damaged("first")))):
        workspace = damaged(f"workspace{place}")
        outcomes.append(killed("rescue", workspace, workspace.folder, moment))
        kept = list(workspace.folder.glob("runs.damaged-*"))
        if workspace.database.read_bytes() != content: assert ids(workspace) == ids(filled) and [path.read_bytes() for path in kept] == [content]
        else:
            assert not outcomes[-1]
            rescue(workspace)
            assert ids(workspace) == ids(filled)
    assert {True, False} == set(outcomes), outcomes


def test_kill_while_deleting(filled:Workspace, tmp_path:Path):
    "Nothing that is needed goes, and what was left goes the next time."
    def littered(name:str) -> Workspace:
        workspace = Workspace(tmp_path / name)
        export(filled, tmp_path / "copy.zip")
        import_(tmp_path / "copy.zip", workspace)
        for number in range(200): (workspace.folder / "predictions" / f"orphan{number}").write_bytes(b"rows")
        return workspace
    first = littered("first")
    for place, moment in enumerate(moments(lambda: plan(first, settled=0).delete(), 6)):
        workspace = littered(f"workspace{place}")
        killed("gc", workspace, workspace.folder, moment)
        assert ids(workspace) == ids(filled) and doctor(workspace).is_well
        plan(workspace, settled=0).delete()
        assert doctor(workspace).symptoms == () and len(files(workspace.folder / "predictions")) == 50


# --- while others work

RECORDING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_workspace_tools import recorded
from ml_pkg.workspace import Workspace
for number in range(10**6):
    print(recorded(Workspace(Path(sys.argv[1])), number), flush=True)
    time.sleep(0.02)
"""


def test_tools_while_others_record(here:Workspace, workspace:Path):
    "Nothing is wrong, nothing goes, and each archive is consistent."
    recorded(here, 0)
    writers = [subprocess.Popen([sys.executable, "-c", RECORDING, str(workspace), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers: writer.stdout.readline()
        for number in range(3):
            found = doctor(here)
            assert found.is_well, found
            assert plan(here).entries == ()
            with connected(here) as connection: before = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
            export(here, workspace.parent / "copy.zip")
            other = Workspace(workspace.parent / f"other{number}")
            assert import_(workspace.parent / "copy.zip", other).added >= before
            assert doctor(other).is_well
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()


# --- hostile archives

BOUNDED = """
import resource, sys
from pathlib import Path
from ml_pkg.archive import export, import_
from ml_pkg.checkpoints import Checkpoints, pack
from ml_pkg.errors import DamagedFile
from ml_pkg.workspace import Workspace
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
what, workspace, archive = sys.argv[1], Workspace(Path(sys.argv[2])), Path(sys.argv[3])
try: print(export(workspace, archive) if what == "export" else import_(archive, workspace))
except DamagedFile as error: print("refused:", error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def in_memory(what:str, workspace:Path, archive:Path) -> tuple[str, int]:
    "What it printed, and the MB of memory that it took."
    done = subprocess.run([sys.executable, "-c", BOUNDED, what, str(workspace), str(archive)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *text, memory = done.stdout.splitlines()
    return "\n".join(text), int(memory)


def test_memory_is_bounded(tmp_path:Path):
    "A file of 300 MB goes through, a block at a time."
    workspace = Workspace(tmp_path / "workspace")
    run = recorded(workspace, 1)
    large = workspace.folder / "predictions" / "large.feather"
    with large.open("wb") as file: file.truncate(300 * 2**20)
    with connected(workspace) as connection: register_file(connection, large, sha256(large.read_bytes()), "predictions", run)
    text, memory = in_memory("export", workspace.folder, tmp_path / "copy.zip")
    assert "1 run and 3 files" in text and memory < 60, (text, memory)
    text, memory = in_memory("import", tmp_path / "other", tmp_path / "copy.zip")
    assert "1 run and 3 files imported" in text and memory < 60, (text, memory)


def test_bombs(tmp_path:Path):
    "What is larger inside than outside, or says so, is refused before anything is unpacked; so is a list of members that fills the memory."
    def written(name:str, compression:int, size:int, stated:int) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            with archive.open("runs.sqlite", "w", force_zip64=True) as member:
                for _ in range(size // 2**20): member.write(bytes(2**20))
            archive.writestr("manifest.json", json.dumps({"format": 1, "members": {"runs.sqlite": ["0" * 64, stated]}}))
        return tmp_path / name
    compressed = written("compressed.zip", zipfile.ZIP_DEFLATED, 1000 * 2**20, 1000 * 2**20)
    stated = written("stated.zip", zipfile.ZIP_STORED, 2**20, 10**15)
    overlapping = tmp_path / "overlapping.zip" # one content, named a thousand times
    with zipfile.ZipFile(overlapping, "w") as archive:
        archive.writestr("runs.sqlite", bytes(2**20)), archive.writestr("manifest.json", "{}")
        entry = archive.getinfo("runs.sqlite")
        for number in range(1000):
            another = zipfile.ZipInfo(f"models/{number}")
            for name in ("header_offset", "file_size", "compress_size", "CRC"): setattr(another, name, getattr(entry, name))
            archive.filelist.append(another), archive.NameToInfo.update({another.filename: another})
    listing = tmp_path / "listing.zip" # nothing but a list
    with listing.open("wb") as file:
        file.truncate(200 * 2**20)
        file.seek(0, os.SEEK_END)
        file.write(b"PK\5\6" + bytes(4) + b"\xff\xff\xff\xff" + (200 * 2**20).to_bytes(4, "little") + bytes(4) + bytes(2))
    manifest = tmp_path / "manifest.zip"
    with zipfile.ZipFile(manifest, "w") as archive:
        archive.writestr("runs.sqlite", b"x")
        with archive.open("manifest.json", "w") as member:
            for _ in range(150): member.write(b"[" * 2**20)
    for bomb in (compressed, stated, overlapping, listing, manifest):
        began = time.perf_counter()
        text, memory = in_memory("import", tmp_path / "workspace", bomb)
        assert text.startswith("refused:") and memory < 60 and time.perf_counter() - began < 20, (bomb.name, text[:200], memory)
    assert not (tmp_path / "workspace").exists()


def test_archives_full_of_noise(filled:Workspace, tmp_path:Path):
    "Whatever is in the file, the error is a typed one, and nothing has changed."
    export(filled, archive := tmp_path / "copy.zip")
    content, workspace = archive.read_bytes(), Workspace(tmp_path / "workspace")
    recorded(workspace, 1)
    before, refused = (ids(workspace), files(workspace.folder)), 0
    for seed in range(60):
        noise, chosen = random.Random(seed), bytearray(content)
        for _ in range(noise.randrange(1, 6)):
            start = noise.choice([noise.randrange(len(content)), len(content) - noise.randrange(1, 3000)])
            chosen[start:start + noise.randrange(1, 40)] = noise.randbytes(noise.randrange(1, 40))
        archive.write_bytes(chosen)
        with pytest.raises(DamagedFile): import_(archive, workspace)
        refused += 1
        assert (ids(workspace), files(workspace.folder)) == before
    assert refused == 60


def test_commands_are_described(tool:Callable):
    text = tool("--help").stdout
    assert all(command in text for command in ("doctor", "gc", "export", "import"))
