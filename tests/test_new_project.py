"""`ml_pkg new` from outside: what it makes passes its own CI as it is, becomes a wheel that holds its data, and trains."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PACKAGE

def flowers() -> pd.DataFrame: return pd.read_csv(PACKAGE / "data" / "iris.csv")


def houses() -> pd.DataFrame:
    "Numbers and categories with values missing, a date, and a price to estimate."
    random, n = np.random.default_rng(0), 300
    size, city = random.normal(100, 30, n).round(1), random.choice(["Oslo", "Bergen", "Tromsø"], n)
    rows = pd.DataFrame({"sold": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"), "city": city, "size": size, "garden": random.choice([True, False], n),
                         "price": (size * 3 + (city == "Oslo") * 80 + random.normal(0, 10, n)).round(2)})
    rows.loc[random.random(n) < 0.1, "size"] = np.nan
    rows.loc[random.random(n) < 0.1, "city"] = np.nan
    return rows


def measurements() -> pd.DataFrame:
    "Columns whose names need care, an identifier, a constant, codes that look like numbers, and rows that belong together."
    random, n = np.random.default_rng(1), 200
    rows = pd.DataFrame({"Unnamed: 0": range(n), "patient": random.integers(0, 50, n), "Größe (cm)": random.normal(170, 10, n).round(1), 'say "how", | `much` <<name>>': random.normal(size=n).round(3),
                         "Земля\\ 地": random.choice(["ä", "b'c", 'd"e'], n), "Klinik-Nr.": random.choice(["007", "080", "113"], n), "clinic": "north"})
    return rows.assign(**{"Ergebnis: gut?": np.where(rows["Größe (cm)"] + random.normal(0, 3, n) > 170, "ja", "nein")})


TABLES = {"iris": ("flowers.csv", flowers), "houses": ("houses.csv", houses), "befund": ("Messung 1, größe.csv", measurements)}


ADA = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in (("NAME", "Ada"), ("EMAIL", "ada@example.com"))}


@pytest.fixture(scope="module", params=["iris", pytest.param("houses", marks=pytest.mark.thorough), "befund"])
def committed(request:pytest.FixtureRequest, tmp_path_factory:pytest.TempPathFactory, cli:list[str]) -> Path:
    "A project that the command made from one of the tables, committed by the command itself; made once."
    folder = tmp_path_factory.mktemp("new")
    file, rows = TABLES[request.param]
    rows().to_csv(folder / file, index=False)
    own = {name: value for name, value in os.environ.items() if name != "ML_PKG_WORKSPACE"} # the project's own is used
    subprocess.run([*cli, "new", request.param, "--csv", file, "--yes"], cwd=folder, check=True, capture_output=True, timeout=120, env={**own, **ADA, "PYTHONPATH": str(PACKAGE.parent)})
    assert sorted(each.name for each in folder.iterdir()) == sorted([request.param, file])
    return folder / request.param


@pytest.fixture
def made(committed:Path, tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    "The same project for one test."
    for name, value in ADA.items(): monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("ML_PKG_WORKSPACE")
    return Path(shutil.copytree(committed, tmp_path / committed.name))


def output(folder:Path, command:str) -> str:
    "What a command of the shell prints, which must end well."
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep}{folder}"})
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_project_passes_its_own_ci(made:Path):
    "Every command of its workflow but the one that installs, in its order, on what the command committed."
    assert output(made, "git log --format=%s").strip() == f"Begin {made.name}" and output(made, "git status --porcelain") == ""
    module = made / made.name / "experiments" / f"{made.name}.py"
    os.utime(module, (0, 0)) # so that it shows below that it is written
    commands = re.findall(r"^ +(?:- )?run: (.+)$", (made / ".github" / "workflows" / "ci.yml").read_text(), re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["pip", "nbdev_clean", "nbdev_test", "git", "ml_pkg", "ml_pkg"]
    printed = [output(made, command) for command in commands[1:]]
    assert module.stat().st_mtime > 0 and printed[1].endswith("Success.\n") and "model  .ml_pkg/models/" in printed[-2] and "passed: answers" in printed[-1]
    assert output(made, "git status --porcelain") == "" and (made / ".ml_pkg" / "runs.sqlite").is_file()
    notebook = made / "nbs" / "experiments" / f"{made.name}.ipynb"
    notebook.write_text(notebook.read_text(encoding="utf-8").replace("holdout=0.2", "holdout=0.1"), encoding="utf-8")
    output(made, "git commit --all --quiet --message 'A notebook without what it exports'")
    with pytest.raises(AssertionError, match="holdout=0.1"): output(made, commands[1]) # its CI can fail


def test_wheel_holds_data_and_modules(made:Path):
    "What is installed elsewhere can be trained there."
    output(made, f"{sys.executable} -m pip wheel --quiet . --no-deps --no-build-isolation --no-index -w wheels")
    (wheel,) = (made / "wheels").glob(f"{made.name}-0.0.1-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {f"{made.name}/__init__.py", f"{made.name}/_modidx.py", f"{made.name}/experiments/{made.name}.py", f"{made.name}/data/{TABLES[made.name][0]}"} <= names
        archive.extractall(made.parent / "installed")
    shutil.rmtree(made)
    assert "model  " in output(made.parent / "installed", f"ml_pkg train {made.name}.experiments.{made.name}:{made.name}")


def test_roles_of_the_measurements(tmp_path:Path, cli:list[str]):
    "Names with quotes, bars and letters of other alphabets reach the declaration as they are."
    measurements().to_csv(tmp_path / "m.csv", index=False)
    subprocess.run([*cli, "new", "befund", "--csv", "m.csv", "--yes"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    module = (tmp_path / "befund" / "befund" / "experiments" / "befund.py").read_text(encoding="utf-8")
    for text in ('target="Ergebnis: gut?"', 'drop=["Unnamed: 0", "clinic"]', 'group="patient"', 'numbers = ["Größe (cm)", "say \\"how\\", | `much` <<name>>"]', 'categories = ["Земля\\\\ 地", "Klinik-Nr."]', 'CSV("data/m.csv", text="Klinik-Nr.")'): assert text in module, text


def test_inside_a_repository_no_other_is_made(tmp_path:Path, cli:list[str]):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    flowers().to_csv(tmp_path / "flowers.csv", index=False)
    done = subprocess.run([*cli, "new", "petals", "--csv", "flowers.csv", "--yes"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    assert f"it is inside the repository {tmp_path}" in done.stdout and not (tmp_path / "petals" / ".git").exists()


@pytest.mark.parametrize("variables, said", [({"PATH": "/nowhere"}, "git is not installed"), ({"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nowhere", "GIT_AUTHOR_NAME": "", "EMAIL": ""}, "git commit failed, so nothing is committed yet")])
def test_without_git_or_a_name_the_project_is_whole(tmp_path:Path, cli:list[str], variables:dict[str, str], said:str):
    flowers().to_csv(tmp_path / "flowers.csv", index=False)
    done = subprocess.run([*cli, "new", "petals", "--csv", "flowers.csv", "--yes"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120, env={**os.environ, **variables})
    assert said in done.stdout, done.stdout
    assert (tmp_path / "petals" / "petals" / "experiments" / "petals.py").is_file()


def test_killed_while_it_tries_there_is_no_project(tmp_path:Path, interrupted:Callable):
    "What a killed process leaves has a name that begins with a dot, and does not stand in the way."
    left, again = interrupted(tmp_path)
    assert all(name.startswith(".petals.") for name in left) and again.returncode == 0, again.stderr
    assert (tmp_path / "petals" / "settings.ini").is_file()


@pytest.fixture
def interrupted(cli:list[str]) -> Callable:
    "Kills the command the moment that it runs the declaration; then starts it anew."
    def run(folder:Path) -> tuple[list[str], subprocess.CompletedProcess]:
        flowers().to_csv(folder / "flowers.csv", index=False)
        words = ["new", "petals", "--csv", "flowers.csv", "--yes"]
        killed = subprocess.run([sys.executable, "-c", f"import os, ml_pkg.project as project; project._tried = lambda *_: os.kill(os.getpid(), 9); from ml_pkg.cli import app; import ml_pkg.commands; app({words!r})"], cwd=folder, capture_output=True, timeout=120)
        assert killed.returncode == -9
        return [each.name for each in folder.iterdir() if each.name not in ("flowers.csv", "workspace")], subprocess.run([*cli, *words], cwd=folder, capture_output=True, text=True, timeout=120)
    return run
