"""Folders, servers and processes that the tests share."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ml_pkg
from ml_pkg.workspace import Workspace

PACKAGE = Path(ml_pkg.__file__).parent
CLI = [sys.executable, "-c", "from ml_pkg.commands import main; main()"] # the command line in a process of its own, installed or not
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)

LONGEST = ["test_promotion", "test_folders", "test_mlflow", "test_server", "test_round_trip", "test_clusters", "test_hostile_models", "test_sweep_faults", "test_tutorials_in_lab", "test_container"]


def pytest_configure(config:pytest.Config) -> None:
    "pytest-xdist, if it is there, hands out files in their order, and not those with most tests first."
    if hasattr(config.option, "loadscopereorder"): config.option.loadscopereorder = False


def pytest_collection_modifyitems(items:list[pytest.Item]) -> None:
    "Files that take minutes come first, so that no worker is left with one of them when the others are done."
    def place(item:pytest.Item) -> int: return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
    items.sort(key=place)


FLOWERS = '''
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ml_pkg import Dataset, Evaluation, Experiment

flowers = Experiment(
    name="flowers",
    dataset=Dataset("iris.csv", target="species"),
    estimator=make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)),
    evaluation=Evaluation(cv=3, metrics=["accuracy", "f1_macro"]),
)
'''


TRACE = '''
import os

def trace(*what):
    "One line in a file that several processes write to."
    handle = os.open(os.environ["TRACE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, (" ".join(map(str, what)) + "\\n").encode())
    os.close(handle)
''' # for the source of a declaration whose fits are counted


@pytest.fixture(autouse=True)
def workspace(tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Path:
    "A folder that is the workspace of this test and of its processes; never the one of the checkout."
    folder = tmp_path / "workspace"
    monkeypatch.setenv("ML_PKG_WORKSPACE", str(folder))
    return folder


@pytest.fixture
def here(workspace:Path) -> Workspace:
    "The same, as the package has it."
    return Workspace(workspace)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch:pytest.MonkeyPatch) -> None:
    "Child processes import the package that is under test, wherever they start, and print for pipes and not for people."
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"): monkeypatch.setenv(name, "1") # several processes share the cores
    for name in ("FORCE_COLOR", "PY_COLORS", "PYTHONHASHSEED"): monkeypatch.delenv(name, raising=False)


COUNTED:Counter = Counter() # what the test that runs has tried so far, by what it was


@pytest.fixture(autouse=True)
def told_attempts(record_property:Callable) -> Iterator[None]:
    "The report says how often a test tried something, where it counts that."
    COUNTED.clear()
    yield
    for what, count in COUNTED.items(): record_property(f"attempts {what}".strip(), count)


@pytest.fixture
def attempts() -> Callable:
    "Counts attempts that went as they should: attempts(20), or attempts(20, 'of one kind'), which counts as well. `python tools/scoreboard.py` adds them up."
    def count(number:int, kind:str="") -> None: COUNTED.update({"": number} | ({kind: number} if kind else {}))
    return count


def make_project(folder:Path) -> Path:
    "A folder with the iris data and a module that declares an experiment on them."
    folder.mkdir(parents=True)
    shutil.copy(PACKAGE / "data" / "iris.csv", folder / "iris.csv")
    (folder / "pyproject.toml").write_text("")
    (folder / "flowers.py").write_text(FLOWERS)
    return folder


@pytest.fixture
def project(tmp_path:Path) -> Path:
    "A project folder of this test's own."
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def cli() -> list[str]:
    "The words that start the command line."
    return CLI


@pytest.fixture
def command(cli:list[str], project:Path) -> Callable:
    "Runs `ml_pkg` with some arguments in a process of its own, in the project folder: command('train', 'flowers:flowers')."
    def run(*arguments, **options) -> subprocess.CompletedProcess:
        return subprocess.run([*cli, *map(str, arguments)], **{"cwd": project, "capture_output": True, "text": True, "timeout": 120, **options})
    return run


@pytest.fixture
def tool(command:Callable) -> Callable:
    "The same, with further variables of the environment: tool('doctor', ML_PKG_WORKSPACE=folder)."
    return lambda *arguments, **environment: command(*arguments, env={**os.environ, **{name: str(value) for name, value in environment.items()}})


@pytest.fixture
def python(project:Path) -> Callable:
    "Runs a program in a fresh interpreter, in the project folder, and gives what it printed; a program that fails fails the test."
    def run(source:str, *arguments, **options) -> str:
        done = subprocess.run([sys.executable, "-c", source, *map(str, arguments)], **{"cwd": project, "capture_output": True, "text": True, "timeout": 120, **options})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
    return run


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def answers(address:str) -> bool:
    "Whether a server is up."
    try: return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError: return False


def waited(condition:Callable[[], Any], what:str, seconds:float=60, seen:Callable[[], str]=lambda: "") -> Any:
    "What the condition gives, as soon as that is true; without it, an error with what is seen instead."
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"no {what} after {seconds} s{seen()}"
        time.sleep(0.05)
    return found


FLOWER = {"sepal_length": 5.9, "sepal_width": 3.0, "petal_length": 4.5, "petal_width": 1.5}


class Server(NamedTuple):
    "A server that runs."
    process: subprocess.Popen
    port: int

    def ends(self, number:int=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(project:Path, *arguments:Any) -> Iterator[Server]:
    "The command line in a process of its own, once it answers."
    process = subprocess.Popen([*CLI, "serve", *map(str, arguments), "--port", "0"], cwd=project, stdout=subprocess.PIPE, stderr=(project / "stderr.txt").open("w"), text=True)
    try:
        said = process.stdout.readline()
        assert said, (process.wait(60), (project / "stderr.txt").read_text())
        server = Server(process, int(re.search(r":(\d+)/predict", said)[1]))
        waited(lambda: ready(server), "answer", 60, lambda: (project / "stderr.txt").read_text())
        yield server
    finally:
        process.kill()
        process.wait()


def ready(server:Server) -> bool: return answers(f"http://127.0.0.1:{server.port}/ready")


async def exchanged(streams:tuple, method:str, path:str, document:Any=None, headers:str="") -> tuple[int, bytes]:
    "One request over a connection that stays."
    reader, writer = streams
    body = b"" if document is None else json.dumps(document).encode()
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{writer.get_extra_info('peername')[1]}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(size)


async def asked(server:Server, method:str, path:str, document:Any=None, headers:str="") -> tuple[int, bytes]:
    "One request over a connection of its own."
    streams = await asyncio.open_connection("127.0.0.1", server.port)
    try: return await asyncio.wait_for(exchanged(streams, method, path, document, headers), 60)
    finally: streams[1].close()


def predicted(server:Server, rows:list[dict], headers:str="") -> dict:
    status, body = asyncio.run(asked(server, "POST", "/predict", {"rows": rows}, headers))
    assert status == 200, body
    return json.loads(body)


needs_browser = pytest.mark.skipif(not (CHROMIUM and find_spec("playwright") and find_spec("axe_playwright_python")), reason="Chromium, playwright or axe-playwright-python is not installed (on Debian: apt-get install chromium; pip install 'ml_pkg[dev]')")


class Site(NamedTuple):
    "A server that runs."
    address: str        # http://127.0.0.1:port
    workspace: Path
    ids: dict[str, str] # what a run stands for -> its id

    @property
    def port(self) -> int: return int(self.address.rpartition(":")[2])


@contextmanager
def web_pages(workspace:Path, ids:dict[str, str]) -> Iterator[Site]:
    "The pages of a workspace, by the command line in a process of its own."
    environment = {**os.environ, "ML_PKG_WORKSPACE": str(workspace), "PYTHONPATH": str(PACKAGE.parent)}
    process = subprocess.Popen([*CLI, "ui", "--port", "0", "--no-open"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = process.stdout.readline()
        assert said, process.communicate()[1]
        yield Site(re.search(r"http://[\d.]+:\d+", said)[0], workspace, ids)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors, errors


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium:Any, address:str, **options) -> Iterator[Any]:
    "A tab. Afterwards: nothing was asked of anybody else, no dialog was shown, and the console has no error."
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, "base_url": address, **options})
    context.set_default_timeout(15_000)
    tab, requests, wrong = context.new_page(), [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") and "status of 400" not in message.text else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    yield tab
    context.close()
    assert not wrong
    assert requests and not [url for url in requests if not url.startswith((f"{address}/", "data:"))]


def followed(tab:Any, link:Any) -> None:
    "Click something that leads to another page, and be there, with its styles."
    with tab.expect_navigation(wait_until="load"): link.click()


def traces(path:Path) -> list[str]:
    "The lines that were traced, if any were yet."
    return path.read_text().splitlines() if path.exists() else []


def run_ids(database:Path) -> list[str]:
    "The ids of all runs, the oldest first."
    with closing(sqlite3.connect(database)) as connection: return [row[0] for row in connection.execute("SELECT id FROM runs ORDER BY number")]


def assert_sound(database:Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    COUNTED["database"] += 1


NOBODY = 65534


def unprivileged(folder:Path) -> dict:
    "Options for a child process that may not write what root has made read-only; for root, another user."
    if os.geteuid() != 0: return {}
    for path in (folder, *folder.parents):
        if path != Path("/") and path.stat().st_uid == 0 and not path.stat().st_mode & stat.S_IXOTH: path.chmod(path.stat().st_mode | 0o055)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def can_run_python(options:dict) -> bool:
    "Whether another user may use this interpreter at all; some are installed below a private home."
    try: return subprocess.run([sys.executable, "-c", "import sklearn, ml_pkg"], capture_output=True, cwd="/", **options).returncode == 0
    except PermissionError: return False


@pytest.fixture
def memory(tmp_path:Path) -> Iterator[Path]:
    "A folder in memory, where there is one: what is tested there are locks, transactions and killed processes, and no power is cut, so nothing need wait for a disk."
    if not os.access("/dev/shm", os.W_OK): yield tmp_path
    else:
        with tempfile.TemporaryDirectory(prefix="ml_pkg-faults-", dir="/dev/shm") as folder: yield Path(folder)


@pytest.fixture
def small_disk(tmp_path:Path) -> Iterator[Path]:
    "A file system of 1 MB."
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode: pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'there is no mount'}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
