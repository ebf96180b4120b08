"""Promotion in a project of its own, with git, fresh processes, and processes that are killed in the middle of it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PACKAGE

KILLS = int(os.environ.get("ML_PKG_KILLS", "4")) # promotions that are killed

PROMOTE = "from flowers.experiments.flowers import flowers; print(flowers.replace(logisticregression__C={}).promote(why='tried', force='a test'))"


@pytest.fixture(scope="module")
def made(tmp_path_factory:pytest.TempPathFactory) -> Path:
    "A project as `ml_pkg new` makes it, committed."
    folder = tmp_path_factory.mktemp("projects")
    shutil.copy(PACKAGE / "data" / "iris.csv", folder / "iris.csv")
    run(folder, "ml_pkg", "new", "flowers", "--csv", "iris.csv", "--yes")
    return folder / "flowers"


@pytest.fixture
def garden(made:Path, tmp_path:Path, workspace:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    "The same project for one test, with its own workspace."
    monkeypatch.delenv("ML_PKG_WORKSPACE")
    shutil.copytree(made, tmp_path / "flowers")
    return tmp_path / "flowers"


@pytest.fixture(scope="module")
def promoted_once(made:Path, tmp_path_factory:pytest.TempPathFactory) -> tuple[Path, Path]:
    "The same after a first promotion, of what is declared; and where that was, which its workspace knows."
    kept, place = (tmp_path_factory.mktemp(name) / "flowers" for name in ("kept", "promoted"))
    shutil.copytree(made, place)
    promote(place, 1.0)
    return shutil.move(place, kept), place


@pytest.fixture
def promoted(promoted_once:tuple[Path, Path], monkeypatch:pytest.MonkeyPatch) -> Iterator[Path]:
    "The same project for one test, with its own workspace, where the promotion was."
    monkeypatch.delenv("ML_PKG_WORKSPACE")
    kept, place = promoted_once
    yield Path(shutil.copytree(kept, place))
    shutil.rmtree(place)


def run(folder:Path, *words:str, code:int=0) -> str:
    "What a command prints, in a project; `ml_pkg` and `python` are those of this environment."
    known = {"ml_pkg": [sys.executable, "-c", "from ml_pkg.commands import main; main()"], "python": [sys.executable]}
    done = subprocess.run([*known.get(words[0], [words[0]]), *words[1:]], cwd=folder, capture_output=True, text=True, timeout=300, env=environment(folder))
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if code else "")


def environment(folder:Path) -> dict[str, str]:
    "Of a process in a project, whose own workspace is used."
    names = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))}
    own = {name: value for name, value in os.environ.items() if name != "ML_PKG_WORKSPACE"}
    return {**own, **names, "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{folder}", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def promote(folder:Path, strength:float, code:int=0) -> str: return run(folder, "python", "-c", PROMOTE.format(strength), code=code)
def looks(folder:Path) -> int: return int(run(folder, "python", "-c", "from flowers.experiments.flowers import flowers; from ml_pkg import Workspace; from ml_pkg.held_out import holdout_key, looks; print(len(looks(Workspace.current(), holdout_key(flowers))))"))
def changed(folder:Path) -> list[str]: return run(folder, "git", "diff", "--name-only").split()
def sources(folder:Path) -> tuple[bytes, bytes]: return tuple((folder / name).read_bytes() for name in ("nbs/experiments/flowers.ipynb", "flowers/experiments/flowers.py"))


def test_a_promotion_is_the_cell_its_export_and_the_registry(garden:Path):
    before = sources(garden)
    promote(garden, 1.0)
    assert changed(garden) == [] # it was declared so already
    shown = run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; print(flowers.replace(logisticregression__C=10.0).promote(dry_run=True))")
    assert "+        LogisticRegression(max_iter=1000, C=10.0)," in shown and sources(garden) == before
    told = promote(garden, 10.0)
    assert "flowers@2 is in production" in told and "in a fresh process" in told
    for version in (1, 2): assert "reference.json" in zipfile.ZipFile(garden / f".ml_pkg/registry/flowers/{version}.mlpkg").namelist() # so that it is watched over without its rows
    assert changed(garden) == ["flowers/experiments/flowers.py", "nbs/experiments/flowers.ipynb"]
    assert [line for line in run(garden, "git", "diff", "-U0", "--", "nbs").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        '-    "        LogisticRegression(max_iter=1000),\\n",', '+    "        LogisticRegression(max_iter=1000, C=10.0),\\n",']
    shown = run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; run = flowers.run(); print(run.reused, flowers.estimator[-1].C)")
    assert shown.split() == ["True", "10.0"] # what was promoted is found warm
    promoted = sources(garden)
    run(garden, "nbdev_clean")
    run(garden, "nbdev_export")
    assert sources(garden) == promoted and sorted(changed(garden)) == ["flowers/experiments/flowers.py", "nbs/experiments/flowers.ipynb"]
    promote(garden, 10.0)
    assert sources(garden) == promoted # again changes no byte
    run(garden, "ml_pkg", "verify", "flowers")
    run(garden, "nbdev_test", "--path", "nbs/experiments/flowers.ipynb")
    run(garden, "python", "-c", "from ml_pkg.way_back import rollback; print(rollback('flowers', 'it was better'))")
    assert changed(garden) == [] and "production" in run(garden, "ml_pkg", "verify", "flowers", "--json")


@pytest.mark.thorough
def test_what_was_declared_first_is_in_production_until_something_is_promoted(garden:Path):
    "The gates hold the first candidate against it, and one can go back to it."
    before = sources(garden)
    weak = "from flowers.experiments.flowers import flowers; print(flowers.replace(logisticregression__C=1e-6).promote())"
    said = run(garden, "python", "-c", weak, code=1)
    assert "not worse refused" in said and "0.9667 → " in said and sources(garden) == before
    assert run(garden, "ml_pkg", "models") == "no models are registered: a model is when it is promoted\n" # nothing was promoted
    said = run(garden, "python", "-c", weak.replace("1e-6", "5.0"))
    assert "flowers@2 is in production, in place of flowers@1" in said and "0.9667 → 0.9750" in said
    moves = json.loads(run(garden, "ml_pkg", "history", "flowers", "--json"))
    assert [(move["alias"], move["version"]) for move in moves] == [("production", 1), ("previous", 1), ("production", 2)] and "it was declared when something else was first promoted" in moves[0]["why"]
    run(garden, "ml_pkg", "rollback", "flowers")
    assert sources(garden) == before and changed(garden) == []
    run(garden, "ml_pkg", "verify", "flowers")


@pytest.mark.thorough
def test_a_file_that_was_written_over_is_missed_at_a_rollback(promoted:Path):
    rows = promoted / "flowers/data/iris.csv"
    kept = rows.read_bytes()
    rows.write_bytes(b"".join(kept.splitlines(keepends=True)[:-5]))
    assert "note: data/iris.csv had other rows when flowers@1 was made" in run(promoted, "python", "-c", "from flowers.experiments.flowers import flowers; print(flowers.promote(force='a test'))")
    said = run(promoted, "ml_pkg", "rollback", "flowers", code=2)
    assert "flowers@1 is declared as it was, and its rows are not there any more (data/iris.csv: 150 rows, 5 columns → 145 rows, 5 columns). Put the file back" in said and "ml_pkg rollback flowers --registry-only" in said
    shutil.move(rows, promoted / "elsewhere.csv")
    said = run(promoted, "python", "-c", "from flowers.experiments.flowers import flowers; from ml_pkg import Dataset; print(flowers.with_dataset(Dataset('elsewhere.csv', target='species')).promote(force='a test'))")
    assert f"note: {promoted.resolve() / 'elsewhere.csv'} is no part of the package flowers" in said and "had other rows" not in said
    assert "flowers@1 is in production again" in run(promoted, "ml_pkg", "rollback", "flowers", "--registry-only")


@pytest.mark.thorough
def test_a_run_of_other_rows_is_not_promoted_and_the_file_put_back_leads_back(promoted:Path):
    rows = promoted / "flowers/data/iris.csv"
    kept = rows.read_bytes()
    rows.write_bytes(b"".join(kept.splitlines(keepends=True)[:-5]))
    run(promoted, "python", "-c", "from flowers.experiments.flowers import flowers; flowers.promote(force='a test')")
    first, second = (version["run"] for version in json.loads(run(promoted, "python", "-c", "from ml_pkg import versions; import json; print(json.dumps([{'run': each.run} for each in versions('flowers')]))")))
    for what in (first, "flowers@1"):
        for words in ((), ("--dry-run",)):
            said = run(promoted, "ml_pkg", "promote", what, *words, code=2)
            assert f"run {first} of flowers cannot be promoted, since its rows are not there any more" in said and "Put the file back" in said, said
    rows.write_bytes(kept)
    assert f"run {second} of flowers cannot be promoted" in run(promoted, "ml_pkg", "promote", "flowers@2", code=2)
    assert "flowers@1 is in production, in place of flowers@2" in run(promoted, "ml_pkg", "rollback", "flowers")
    run(promoted, "ml_pkg", "verify", "flowers")


WITH_A_FUNCTION = "from flowers.experiments.flowers import flowers\nfrom sklearn.preprocessing import FunctionTransformer\n{}\nprint(flowers.insert('tidy', FunctionTransformer(tidy), before=next(iter(flowers.estimator.named_steps))).run().id)"


def export(folder:Path, source:str) -> None:
    "Put a cell with a function before the declaration, in place of the one that was put there before, and export the notebook."
    notebook = folder / "nbs/experiments/flowers.ipynb"
    cells = json.loads(notebook.read_text())
    cells["cells"] = [cell for cell in cells["cells"] if cell["id"] != "0a1b2c3d"]
    place = next(number for number, cell in enumerate(cells["cells"]) if "flowers = Experiment(" in "".join(cell["source"]))
    cells["cells"].insert(place, {"cell_type": "code", "execution_count": None, "id": "0a1b2c3d", "metadata": {}, "outputs": [], "source": ["#| export\n", source]})
    notebook.write_text(json.dumps(cells))
    run(folder, "nbdev_export")


@pytest.mark.thorough
def test_a_function_that_moved_from_a_script_into_the_module_is_promoted_and_gone_back_to(garden:Path):
    tidy = "def tidy(rows): return rows.fillna(0)"
    (garden / "explore.py").write_text(WITH_A_FUNCTION.format(tidy))
    first = run(garden, "python", "explore.py").split()[-1]
    assert "defined in a notebook or a script" in run(garden, "ml_pkg", "promote", first, "--force", "a test", code=2)
    export(garden, tidy)
    (garden / "again.py").write_text(WITH_A_FUNCTION.format("from flowers.experiments.flowers import tidy"))
    assert "reused" in run(garden, "ml_pkg", "show", run(garden, "python", "again.py").split()[-1])
    assert "FunctionTransformer(tidy)" in run(garden, "ml_pkg", "promote", first, "--force", "a test") # also by the run of the script
    promote(garden, 5.0)
    assert "is in production, in place of" in run(garden, "ml_pkg", "rollback", "flowers") and "FunctionTransformer(tidy)" in sources(garden)[1].decode()


def test_what_was_promoted_does_not_answer_with_code_that_was_edited_since(garden:Path):
    def promoted_anew() -> str:
        (garden / "explore.py").write_text(WITH_A_FUNCTION.format("from flowers.experiments.flowers import tidy") if "FunctionTransformer(tidy)" not in sources(garden)[1].decode() else "from flowers.experiments.flowers import flowers\nprint(flowers.run().id)")
        return run(garden, "ml_pkg", "promote", run(garden, "python", "explore.py").split()[-1], "--force", "a test")
    def predicted(*words:str, code:int=0) -> str: return run(garden, "ml_pkg", "predict", "flowers", "flowers/data/iris.csv", "-o", "found.csv", *words, code=code)

    export(garden, "def tidy(rows): return rows.fillna(0)")
    promoted_anew()
    predicted()
    server = subprocess.Popen([sys.executable, "-c", "from ml_pkg.commands import main; main()", "serve", "flowers", "--port", "0"], cwd=garden, stdout=subprocess.PIPE, stderr=(garden / "said.txt").open("w"), text=True, env=environment(garden))
    try:
        version = next(line for line in server.stdout if "flowers@" in line)
        export(garden, "def tidy(rows): return 2 * rows.fillna(0)")
        for words in (("predict", "flowers", "flowers/data/iris.csv", "-o", "found.csv"), ("serve", "flowers", "--port", "0"), ("serve", "flowers", "--dockerfile", "image")):
            refused = run(garden, "ml_pkg", *words, code=2)
            assert "was fitted with other code: flowers.experiments.flowers.tidy has changed since" in refused and "--edited" in refused
        (garden / "rows").mkdir()
        shutil.copy(garden / "flowers/data/iris.csv", garden / "rows")
        assert "was fitted with other code" in run(garden, "ml_pkg", "predict", "flowers", "rows", "-o", "answers", code=2)
        run(garden, "ml_pkg", "predict", "flowers", "rows", "-o", "answers", "--jobs", "2", "--edited")
        predicted("--edited")
        run(garden, "ml_pkg", "serve", "flowers", "--dockerfile", "image", "--edited")
        assert (garden / "image/Dockerfile").read_text().count("--edited") == 1
        looked = run(garden, "ml_pkg", "verify", "flowers", code=1)
        assert "refused: code" in looked and "tidy" in looked and "refused: answers" in looked
        said = promoted_anew()
        assert "production's own code was edited since it was fitted" in said
        predicted()
        deadline = time.monotonic() + 60
        while "Start this process again" not in (garden / "said.txt").read_text() and time.monotonic() < deadline: time.sleep(0.1)
        assert "Start this process again" in (garden / "said.txt").read_text(), version
    finally:
        server.terminate()
        server.communicate(timeout=60)
    back = run(garden, "ml_pkg", "rollback", "flowers", "--registry-only")
    assert "note: it will not answer: " in back and "was fitted with other code: flowers.experiments.flowers.tidy has changed since" in back


@pytest.mark.thorough
def test_of_two_experiments_of_the_same_content_each_is_promoted_in_its_own_notebook(promoted:Path):
    notebook = promoted / "nbs/experiments/flowers.ipynb"
    (promoted / "nbs/experiments/herbs.ipynb").write_text(notebook.read_text().replace("flowers = Experiment(", "herbs = Experiment(").replace("name=\\\"flowers\\\"", "name=\\\"herbs\\\"").replace("default_exp experiments.flowers", "default_exp experiments.herbs"))
    run(promoted, "nbdev_export")
    assert "reused" in run(promoted, "ml_pkg", "train", "flowers.experiments.herbs:herbs")
    before = sources(promoted)
    assert "flowers.experiments.herbs:herbs" in run(promoted, "ml_pkg", "promote", "latest", "--force", "a test")
    assert "flowers.experiments.herbs:herbs" in run(promoted, "ml_pkg", "promote", "herbs@1", "--dry-run")
    run(promoted, "python", "-c", PROMOTE.format(7.0).replace("flowers.experiments.flowers import flowers; print(flowers", "flowers.experiments.herbs import herbs; print(herbs"))
    assert "herbs@1 is in production" in run(promoted, "ml_pkg", "rollback", "herbs") and sources(promoted) == before


@pytest.mark.thorough
def test_a_variant_that_another_module_declares_is_promoted_there(promoted:Path):
    original, varied = promoted / "nbs/experiments/flowers.ipynb", promoted / "nbs/experiments/herbs.ipynb"
    cells = ["#| default_exp experiments.herbs", "#| export\nfrom flowers.experiments.flowers import flowers", "#| export\nherbs = flowers.replace(logisticregression__C=0.5).named('herbs')"]
    written = [{"cell_type": "code", "execution_count": None, "id": f"0a1b2c3{place}", "metadata": {}, "outputs": [], "source": cell.splitlines(keepends=True)} for place, cell in enumerate(cells)]
    varied.write_text(json.dumps({**json.loads(original.read_text()), "cells": written}))
    run(promoted, "nbdev_export")
    before = sources(promoted)
    wild = run(promoted, "python", "-c", "from flowers.experiments.herbs import herbs; print(herbs.replace(logisticregression__C=7.0).named('wild').run().id)").split()[-1]
    assert "'herbs' is a call of flowers.replace" in run(promoted, "ml_pkg", "promote", wild, "--force", "a test", code=2) # and flowers, which it varies, stays
    varied.write_text(original.read_text().replace("flowers = Experiment(", "herbs = Experiment(").replace("name=\\\"flowers\\\"", "name=\\\"herbs\\\"").replace("default_exp experiments.flowers", "default_exp experiments.herbs"))
    run(promoted, "nbdev_export") # as it says: declared in full
    assert "herbs@2 is in production" in run(promoted, "ml_pkg", "promote", wild, "--force", "a test") and "C=7.0" in (promoted / "flowers/experiments/herbs.py").read_text()
    assert "herbs@1 is in production" in run(promoted, "ml_pkg", "rollback", "herbs") and "C=7.0" not in (promoted / "flowers/experiments/herbs.py").read_text()
    assert sources(promoted) == before


@pytest.mark.thorough
def test_what_is_accepted_stays_when_a_model_is_brought_back(promoted:Path):
    promote(promoted, 10.0)
    notebook = promoted / "nbs/experiments/flowers.ipynb"
    notebook.write_text(notebook.read_text().replace('    evaluation=Evaluation(', '    accepts={\\"duplicates\\": \\"flowers are alike\\"},\\n",\n    "    evaluation=Evaluation(') if '"    evaluation=Evaluation(' in notebook.read_text() else notebook.read_text())
    run(promoted, "nbdev_export")
    assert "flowers are alike" in sources(promoted)[1].decode()
    run(promoted, "ml_pkg", "rollback", "flowers")
    assert "flowers are alike" in sources(promoted)[1].decode() and "C=10.0" not in sources(promoted)[1].decode()


@pytest.mark.thorough
def test_each_rollback_goes_back_further(promoted:Path):
    before = [sources(promoted)]
    for strength in (5.0, 50.0):
        promote(promoted, strength)
        before.append(sources(promoted))
    shown = json.loads(run(promoted, "ml_pkg", "rollback", "flowers", "--dry-run", "--json"))
    assert (shown["version"], shown["replaces"], shown["is_done"]) == (2, 3, False) and "-        LogisticRegression(max_iter=1000, C=50.0)," in shown["difference"]
    assert sources(promoted) == before[2] and json.loads(run(promoted, "ml_pkg", "models", "--json"))[0]["aliases"] == {"production": 3, "previous": 2}
    assert "flowers@2 is in production, in place of flowers@3" in run(promoted, "ml_pkg", "rollback", "flowers") and sources(promoted) == before[1]
    assert "flowers@1 is in production, in place of flowers@2" in run(promoted, "ml_pkg", "rollback", "flowers") and sources(promoted) == before[0]
    for words in (("--dry-run",), ()):
        said = run(promoted, "ml_pkg", "rollback", "flowers", *words, code=2)
        assert "version 1 is the first that went into production" in said and "git revert" in said and "ml_pkg retire flowers" in said
        assert sources(promoted) == before[0]
    promote(promoted, 50.0) # forward again is a promotion
    assert sources(promoted) == before[2] and "flowers@1 would be in production, in place of flowers@3" in run(promoted, "ml_pkg", "rollback", "flowers", "--dry-run")


@pytest.mark.parametrize("harm", ["cell", "checkpoint", "module"])
def test_edits_that_nobody_saved_or_exported_are_not_overwritten(garden:Path, harm:str):
    notebook, module = garden / "nbs/experiments/flowers.ipynb", garden / "flowers/experiments/flowers.py"
    if harm == "cell": notebook.write_text(notebook.read_text().replace("max_iter=1000", "max_iter=500"))
    if harm == "module": module.write_text(module.read_text().replace("StandardScaler(),", "StandardScaler(with_mean=False),"))
    if harm == "checkpoint":
        (copy := notebook.parent / ".ipynb_checkpoints/flowers-checkpoint.ipynb").parent.mkdir()
        copy.write_text(notebook.read_text().replace("max_iter=1000", "max_iter=500"))
        os.utime(copy, ns=(time.time_ns() + 10**9,) * 2)
    before = sources(garden)
    said = promote(garden, 10.0, code=1)
    assert {"cell": "otherwise than the module that was imported", "checkpoint": "is newer than", "module": "otherwise than"}[harm] in said
    assert sources(garden) == before and "LogisticRegression(" in said


def test_a_fresh_process_that_differs_undoes_it(garden:Path):
    "The package does something else for whoever comes anew: here it looks for a file that was not there before."
    module = garden / "flowers/__init__.py"
    module.write_text(module.read_text() + "\nimport pathlib, sklearn\nif (pathlib.Path(__file__).parent / 'later').exists(): sklearn.set_config(assume_finite=True)\n")
    before = sources(garden)
    said = run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; import pathlib; pathlib.Path('flowers/later').touch(); flowers.replace(logisticregression__C=10.0).promote()", code=1)
    assert "answers differ" in said and sources(garden) == before
    assert "nothing called flowers was promoted" in run(garden, "ml_pkg", "verify", "flowers.experiments.flowers:flowers")


@pytest.mark.thorough
def test_a_fresh_process_that_takes_too_long_is_ended(garden:Path):
    module = garden / "flowers/__init__.py"
    module.write_text(module.read_text() + "\nimport pathlib, subprocess, time\nif (pathlib.Path(__file__).parent / 'later').exists():\n    pathlib.Path('child').write_text(str(subprocess.Popen(['sleep', '600']).pid))\n    time.sleep(600)\n")
    before = sources(garden)
    said = run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; from ml_pkg import Gates; import pathlib; pathlib.Path('flowers/later').touch(); flowers.replace(logisticregression__C=10.0).with_promotion(Gates(witness_minutes=0.5)).promote()", code=1)
    assert "took more than 0.5 minutes, and was ended: it was importing flowers.experiments.flowers" in said and "witness_minutes=2" in said
    child = Path("/proc", (garden / "child").read_text(), "stat")
    assert sources(garden) == before and (not child.exists() or child.read_text().split()[2] == "Z")


def test_a_gate_refuses_and_is_overruled(promoted:Path):
    worse = "from flowers.experiments.flowers import flowers; from sklearn.dummy import DummyClassifier; flowers.replace(logisticregression=DummyClassifier()).promote({})"
    before = sources(promoted)
    said = run(promoted, "python", "-c", worse.format(""), code=1)
    assert "not worse" in said and "refused" in said and sources(promoted) == before
    assert "Traceback" in said
    shown = run(promoted, "ipython", "--colors=NoColor", "-c", worse.format(""), code=1)
    assert shown.startswith("PromotionRefused: flowers stays as it is: not worse refused.") and "  found     " in shown and "Traceback" not in shown and ".py" not in shown, shown
    assert "not looked at, because not worse refused" in said and looks(promoted) == 1 # that of the first promotion
    done = subprocess.run([sys.executable, "-c", "from ml_pkg.commands import main; main()", "promote", "latest", "--json"], cwd=promoted, capture_output=True, text=True, timeout=300, env=environment(promoted))
    told = json.loads(done.stdout)
    assert done.returncode == 2 and told["error"] == "flowers stays as it is: not worse refused." and done.stderr.splitlines()[-1] == f"error: {told['error']}"
    assert [(each["gate"], each["passed"], each["asked"]) for each in told["verdicts"]] == [("not worse", False, True), ("traffic", True, True), ("holdout", False, False), ("same inputs", True, True), ("no findings", True, True)]
    assert all(each["required"] and each["found"] for each in told["verdicts"])
    run(promoted, "python", "-c", worse.format("force='to see it fail'"))
    kept = run(promoted, "python", "-c", "from ml_pkg.registry import registry_history as history; print(history('flowers').to_json(orient='records'))")
    assert looks(promoted) == 2 and "to see it fail" in kept and "DummyClassifier" in (promoted / "flowers/experiments/flowers.py").read_text()


def test_what_would_not_be_installed_is_not_promoted(garden:Path):
    (garden / "beside.py").write_text("from sklearn.preprocessing import StandardScaler\nclass Beside(StandardScaler): pass\n")
    before = sources(garden)
    said = run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; from beside import Beside; flowers.replace(standardscaler=Beside()).promote()", code=1)
    assert "no part of the package flowers" in said and sources(garden) == before


def test_rows_that_are_not_in_git_are_named(promoted:Path):
    shutil.copy(promoted / "flowers/data/iris.csv", promoted / "flowers/data/recent.csv")
    (promoted / "explore.py").write_text("from flowers.experiments.flowers import flowers\nfrom ml_pkg import Dataset\nfrom ml_pkg.promotion import preview\nprint(preview(flowers.with_dataset(Dataset('flowers/data/recent.csv', target='species'))))")
    assert "recent.csv is not in git" in run(promoted, "python", "explore.py")
    (promoted / ".git/info/exclude").write_text("recent.csv")
    assert "recent.csv is not in git" in run(promoted, "python", "explore.py")
    (promoted / ".git/info/exclude").write_text("")
    run(promoted, "git", "add", "flowers/data/recent.csv")
    assert "is not in git" not in run(promoted, "python", "explore.py")


@pytest.mark.thorough
def test_what_nobody_promoted_is_not_lost_in_going_back(promoted:Path):
    promote(promoted, 10.0)
    table = promoted / "flowers/data/iris.csv"
    rows = table.read_text()
    table.write_text(rows + rows.splitlines()[-1] + "\n")
    said = run(promoted, "ml_pkg", "rollback", "flowers", code=2)
    assert "its rows are not there any more (data/iris.csv: 150 rows, 5 columns → 151 rows, 5 columns). Put the file back" in said, said
    table.write_text(rows)
    notebook = promoted / "nbs/experiments/flowers.ipynb"
    notebook.write_text(notebook.read_text().replace("max_iter=1000", "max_iter=77"))
    run(promoted, "nbdev_export")
    before = sources(promoted)
    assert "flowers@2 is another experiment. From that to what is declared: logisticregression.max_iter: 1000 → 77" in run(promoted, "ml_pkg", "verify", "flowers", code=1)
    assert "going back would lose that" in run(promoted, "ml_pkg", "rollback", "flowers", code=2) and sources(promoted) == before
    run(promoted, "ml_pkg", "rollback", "flowers", "--registry-only")
    assert sources(promoted) == before


def test_back_and_forth_in_one_process(garden:Path):
    before = sources(garden)
    run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; from ml_pkg.way_back import rollback; flowers.promote(); flowers.replace(logisticregression__C=10.0).promote(force='a test'); rollback('flowers')")
    assert sources(garden) == before


@pytest.mark.thorough
def test_a_cell_with_constants_is_promoted_twice_in_one_process(garden:Path):
    notebook = garden / "nbs/experiments/flowers.ipynb"
    text = notebook.read_text().replace('"flowers = Experiment(', '"LIMIT = 1000\\n",\n    "SCALED = StandardScaler()\\n",\n    "flowers = Experiment(').replace("max_iter=1000", "max_iter=LIMIT").replace("        StandardScaler(),", "        SCALED,")
    notebook.write_text(text)
    run(garden, "nbdev_export")
    before = sources(garden)
    assert b"max_iter=LIMIT)" in before[0] and b"        SCALED," in before[1]
    run(garden, "python", "-c", "from flowers.experiments.flowers import flowers; from ml_pkg.way_back import rollback\nfor C in (1.0, 5.0, 50.0): flowers.replace(logisticregression__C=C).promote(force='a test')\nrollback('flowers')")
    assert sources(garden) == tuple(source.replace(b"max_iter=LIMIT)", b"max_iter=LIMIT, C=5.0)") for source in before)
    run(garden, "nbdev_export")
    assert sources(garden) == tuple(source.replace(b"max_iter=LIMIT)", b"max_iter=LIMIT, C=5.0)") for source in before)
    run(garden, "ml_pkg", "verify", "flowers")


@pytest.mark.thorough
def test_a_damaged_model_in_production_is_told_and_mended(promoted:Path):
    file = promoted / ".ml_pkg/registry/flowers/1.mlpkg"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    assert "not what was registered" in run(promoted, "ml_pkg", "verify", "flowers", code=1)
    promote(promoted, 1.0) # with a reason, as it stands in PROMOTE
    run(promoted, "ml_pkg", "verify", "flowers")


def test_of_two_at_once_one_is_told(promoted:Path):
    started = [subprocess.Popen([sys.executable, "-c", PROMOTE.format(strength)], cwd=promoted, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(promoted)) for strength in (5.0, 50.0)]
    said = [process.communicate(timeout=300) for process in started]
    won = [process.returncode == 0 for process in started]
    assert any(won), said
    for done, (_, errors) in zip(won, said, strict=True): assert done or "at this moment" in errors or "otherwise than" in errors, errors
    run(promoted, "ml_pkg", "verify", "flowers")


@pytest.mark.thorough
def test_whoever_shares_a_checkout_shares_its_lock(garden:Path, tmp_path:Path):
    "Other workspaces, and other folders for temporary files, do not make another checkout."
    elsewhere = environment(garden) | {"ML_PKG_WORKSPACE": str(tmp_path / "other"), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    holding = "import pathlib, sys; from ml_pkg.promotion import only_one\nwith only_one(pathlib.Path('nbs/experiments/flowers.ipynb'), 'flowers'): print(flush=True), input()"
    holder = subprocess.Popen([sys.executable, "-c", holding], cwd=garden, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=elsewhere)
    holder.stdout.readline()
    before = sources(garden)
    assert "somebody else is promoting flowers at this moment" in promote(garden, 10.0, code=1) and sources(garden) == before
    assert run(garden, "git", "status", "--porcelain") == ""
    holder.kill()
    holder.wait()
    promote(garden, 10.0) # who is dead holds nobody up
    assert not list(garden.glob("nbs/experiments/.*.lease"))


def test_of_two_workspaces_at_once_one_is_told(promoted:Path, tmp_path:Path):
    (tmp_path / "temporary").mkdir()
    places = [environment(promoted), environment(promoted) | {"ML_PKG_WORKSPACE": str(tmp_path / "other"), "TMPDIR": str(tmp_path / "temporary")}]
    started = [subprocess.Popen([sys.executable, "-c", PROMOTE.format(strength)], cwd=promoted, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place) for strength, place in zip((5.0, 50.0), places, strict=True)]
    said = [process.communicate(timeout=300) for process in started]
    won = [process.returncode == 0 for process in started]
    assert any(won), said
    for done, (_, errors) in zip(won, said, strict=True): assert done or "at this moment" in errors or "otherwise than" in errors, errors
    strength = max((strength for strength, done in zip((5.0, 50.0), won, strict=True) if done), key=lambda each: f"C={each}" in sources(promoted)[0].decode())
    assert all(f"C={strength}" in source.decode() for source in sources(promoted))


@pytest.mark.thorough
def test_the_exploration_of_a_new_project_survives_promotions(garden:Path):
    "One of what it tries itself, one that shares no step with what was declared first, and one without steps."
    for variant in ("flowers.replace(logisticregression=DecisionTreeClassifier(max_depth=4))", "flowers.with_estimator(make_pipeline(MinMaxScaler(), LinearDiscriminantAnalysis()))", "flowers.with_estimator(GaussianNB())"):
        imports = "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis; from sklearn.naive_bayes import GaussianNB; from sklearn.pipeline import make_pipeline; from sklearn.preprocessing import MinMaxScaler; from sklearn.tree import DecisionTreeClassifier"
        run(garden, "python", "-c", f"from flowers.experiments.flowers import flowers; {imports}; {variant}.promote(force='a test')")
        run(garden, "nbdev_test", "--path", "nbs/exploration.ipynb")


def test_without_its_notebooks_only_the_registry_moves(garden:Path):
    shutil.rmtree(garden / "nbs")
    before = (garden / "flowers/experiments/flowers.py").read_bytes()
    said = promote(garden, 10.0)
    assert "installed without its notebook" in said and "C=10.0" in said and "flowers@2 is in production, in place of flowers@1" in said
    assert (garden / "flowers/experiments/flowers.py").read_bytes() == before


def test_a_killed_promotion_is_all_old_or_all_new(promoted:Path):
    run(promoted, "python", "-c", "from flowers.experiments.flowers import flowers\nfor strength in (2.0, 3.0): flowers.replace(logisticregression__C=strength).run().model")
    random.seed(0)
    known = {sources(promoted): 1}
    for number in range(KILLS):
        journal = promoted / ".ml_pkg/promotions/flowers.json"
        process = subprocess.Popen([sys.executable, "-c", PROMOTE.format((2.0, 3.0)[number % 2])], cwd=promoted, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(promoted), start_new_session=True)
        if number % 4: # most of them while files are being changed
            while not journal.exists() and process.poll() is None: time.sleep(0.001)
        time.sleep(random.uniform(0, 7))
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        verdicts = json.loads(run(promoted, "ml_pkg", "verify", "flowers", "--json")) # the next command
        assert all(verdict["passed"] for verdict in verdicts) and not journal.exists()
        known.setdefault(sources(promoted), number)
    print(f"\n{KILLS} promotions killed, {len(known)} states seen, none of them mixed")
    assert len(known) <= 3
