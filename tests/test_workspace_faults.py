"""A workspace that cannot be written is told in one line; a model that is there goes on predicting."""

import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import can_run_python, unprivileged

def assert_refused(done) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")] # joblib may have one about its own temporary files
    assert len(errors) == 1 and errors[0].startswith("error: the workspace ") and "ML_PKG_WORKSPACE" in errors[0], done.stderr


@pytest.mark.parametrize("place", ["/proc/ml_pkg", "/dev/null/ml_pkg"])
def test_workspace_where_nothing_can_be_made(place:str, command:Callable, monkeypatch:pytest.MonkeyPatch):
    monkeypatch.setenv("ML_PKG_WORKSPACE", place)
    assert_refused(command("train", "flowers:flowers"))


def test_read_only_folder(command:Callable, project:Path, workspace:Path):
    "What has run is told again, with a warning that this is not recorded; predicting from a model file works all the same."
    assert command("train", "flowers:flowers").returncode == 0
    model = shutil.copy(next((workspace / "models").glob("*.mlpkg")), project / "flowers.mlpkg")
    before = (workspace / "runs.sqlite").read_bytes()
    for path in (*workspace.rglob("*"), workspace, project): path.chmod(0o555 if path.is_dir() else 0o444)
    options = unprivileged(project)
    # Where root's interpreter is out of other users' reach, root itself is stopped by a file size of zero.
    if not can_run_python(options): options = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))}
    try:
        again = command("train", "flowers:flowers", **options)
        assert again.returncode == 0 and "accuracy" in again.stdout and "cannot be written" in again.stderr, (again.stdout, again.stderr)
        assert (workspace / "runs.sqlite").read_bytes() == before
        predicted = command("predict", model, "iris.csv", **options)
        assert (predicted.returncode, predicted.stdout.count("\n")) == (0, 151), predicted.stderr
    finally:
        for path in (project, workspace, *workspace.rglob("*")): path.chmod(0o755)


def test_no_room_for_a_model(command:Callable, project:Path, workspace:Path):
    "A limit on the size of files, as a full disk: a typed error; the model from before still loads, and there is room again afterwards."
    assert command("train", "flowers:flowers").returncode == 0
    (project / "more.py").write_text((project / "flowers.py").read_text().replace("LogisticRegression(max_iter=1000)", "RandomForestClassifier(50)").replace(
        "from sklearn.linear_model import LogisticRegression", "from sklearn.ensemble import RandomForestClassifier"))
    limit = (workspace / "runs.sqlite").stat().st_size + 64 * 1024
    refused = command("train", "more:flowers", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    told = refused.stderr.splitlines()
    assert refused.returncode == 2 and all(line.startswith(("warning: ", "error: ")) for line in told) and "cannot be written" in refused.stderr, refused.stderr
    assert not list((workspace / "models").glob(".*.part"))
    assert command("predict", "flowers", "iris.csv").stdout.count("\n") == 151
    assert command("train", "more:flowers").returncode == 0


def test_the_shell_of_sqlite_finds_the_record_sound(command:Callable, workspace:Path):
    "The program that comes with SQLite, which knows nothing of this package."
    if not shutil.which("sqlite3"): pytest.skip("sqlite3 is not installed: apt-get install sqlite3")
    for _ in range(2): assert command("train", "flowers:flowers").returncode == 0
    done = subprocess.run(["sqlite3", "-readonly", workspace / "runs.sqlite", "PRAGMA integrity_check; PRAGMA foreign_key_check; SELECT count(*), sum(status = 'finished') FROM runs;"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n2|2\n", "")
