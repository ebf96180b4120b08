"""`ml_pkg serve` as processes: answers under load while versions change, workers that are killed, a server that is told to end, one that is killed, and candidates beside it.

ML_PKG_PROMOTIONS, ML_PKG_REQUESTS, ML_PKG_KILLS, ML_PKG_LOCKED and ML_PKG_SOAK ask for more than the few that are tried each time.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import FLOWER, PACKAGE, Server, asked, exchanged, make_project, predicted, serving, waited

from ml_pkg.logged_predictions import read_log
from ml_pkg.model import Model
from ml_pkg.registry import point, register
from ml_pkg.run import load_run
from ml_pkg.store import connected, transaction
from ml_pkg.workspace import Workspace

pytestmark = pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "orjson", "httptools", "prometheus_client"])), reason="what a server needs is not installed: pip install 'ml_pkg[serve]'")

PROMOTIONS = int(os.environ.get("ML_PKG_PROMOTIONS", 4))
REQUESTS = int(os.environ.get("ML_PKG_REQUESTS", 1_200))
KILLS = int(os.environ.get("ML_PKG_KILLS", 4))
LOCKED = float(os.environ.get("ML_PKG_LOCKED", 5)) # seconds for which somebody else has the database
SOAK = float(os.environ.get("ML_PKG_SOAK", 12)) # seconds under load in which nothing may grow
BOUND = float(os.environ.get("ML_PKG_BOUND", 1.0)) # seconds within which an answer is on the disk: what is promised
THREE = "import json, flowers; runs = [flowers.flowers.replace(logisticregression__C=C).run() for C in (1.0, 0.1, 10.0)]; assert all(run.model for run in runs); print(json.dumps([run.id for run in runs]))"


def counted(server:Server, name:str) -> float:
    "The sum of a counter over its labels."
    text = asyncio.run(asked(server, "GET", "/metrics"))[1].decode()
    return sum(float(value) for value in re.findall(rf"^ml_pkg_{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def three(tmp_path_factory:pytest.TempPathFactory) -> tuple[Path, list[str]]:
    "A workspace with three runs, and their ids; made once."
    folder = tmp_path_factory.mktemp("three")
    environment = {**os.environ, "ML_PKG_WORKSPACE": str(folder / "workspace"), "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", THREE], cwd=make_project(folder / "project"), env=environment, check=True, capture_output=True, text=True, timeout=120)
    return folder / "workspace", json.loads(done.stdout)


@pytest.fixture
def versions(here:Workspace, workspace:Path, three:tuple[Path, list[str]]) -> dict[str, Model]:
    "Three versions of a model, of which the first is in production, in the workspace of this test."
    shutil.copytree(three[0], workspace)
    runs = [load_run(run) for run in three[1]]
    with connected(here) as connection: made = [register(connection, here, "flowers", run, run.model_path) for run in runs]
    promote(here, 1)
    return {str(each.version): each.model for each in made}


def promote(here:Workspace, version:int, alias:str="production") -> None:
    with connected(here) as connection, transaction(connection): point(connection, "flowers", alias, version, "promote" if alias == "production" else "alias", "Ada")


def test_answers_and_ends_when_told(here:Workspace, project:Path, versions:dict[str, Model]):
    "What was answered before it ended is in the log, and it ends by itself with exit code 0."
    with serving(project, "flowers") as server:
        answer = predicted(server, [FLOWER, {**FLOWER, "petal_length": 1.2}])
        assert (answer["model"], answer["version"]) == ("flowers", "1")
        assert [each["probabilities"] for each in answer["predictions"]] == [versions["1"].predict_proba([row]).iloc[0].to_dict() for row in (FLOWER, {**FLOWER, "petal_length": 1.2})]
        assert asyncio.run(asked(server, "POST", "/feedback", {"feedback": [{"id": answer["predictions"][0]["id"], "label": "virginica"}]}))[1] == b'{"accepted":1}'
        status, refused = asyncio.run(asked(server, "POST", "/predict", {"rows": [{**FLOWER, "petal_width": "wide"}]}))
        assert (status, json.loads(refused)["error"]["field"]) == (422, "rows[0].petal_width")
        assert (counted(server, "rows_total"), server.ends()) == (2.0, 0)
    rows = read_log("flowers", logs=here)
    assert rows["id"].tolist() == [each["id"] for each in answer["predictions"]] and rows["label"].dropna().tolist() == ["virginica"]


def test_what_is_in_flight_is_finished(here:Workspace, project:Path, versions:dict[str, Model], attempts:Callable):
    "Told to end while hundreds of requests are underway: each connection has a whole answer or none, and every answer is in the log."
    told:list[str] = []
    async def asking(server:Server) -> None:
        streams = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            while True:
                status, body = await exchanged(streams, "POST", "/predict", {"rows": [FLOWER]})
                if status == 503: return # it says that it ends
                assert status == 200, body
                told.append(json.loads(body)["predictions"][0]["id"])
        except (asyncio.IncompleteReadError, ConnectionError) as error: assert not getattr(error, "partial", b""), "half an answer"
    async def all_of_them(server:Server) -> None:
        tasks = [asyncio.create_task(asking(server)) for _ in range(16)]
        await asyncio.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
    with serving(project, "flowers") as server:
        asyncio.run(all_of_them(server))
        assert server.process.wait(60) == 0
    assert len(told) > 50 and sorted(read_log("flowers", logs=here)["id"]) == sorted(told)
    attempts(len(told))


@pytest.mark.parametrize("workers", [1, 2])
def test_versions_change_under_load(here:Workspace, project:Path, versions:dict[str, Model], workers:int, attempts:Callable):
    "No request fails, each answer is what the version that it names predicts, and within a second of a promotion that version answers."
    expected = {version: model.predict_proba([FLOWER]).iloc[0].to_dict() for version, model in versions.items()}
    seen:dict[str, int] = dict.fromkeys(expected, 0)
    share, delays = REQUESTS // (2 * PROMOTIONS), []
    async def asking(server:Server, done:asyncio.Event) -> None:
        streams = await asyncio.open_connection("127.0.0.1", server.port)
        while not done.is_set():
            status, body = await exchanged(streams, "POST", "/predict", {"rows": [FLOWER]})
            assert status == 200, body
            answer = json.loads(body)
            assert answer["predictions"][0]["probabilities"] == expected[answer["version"]]
            seen[answer["version"]] += 1
        streams[1].close()
    async def promoting(server:Server, done:asyncio.Event) -> None:
        for turn in range(PROMOTIONS):
            version = turn % 3 + 1 if turn % 3 + 1 != current() else turn % 3 % 2 + 1
            await asyncio.to_thread(promote, here, version)
            began, before = time.monotonic(), seen[str(version)]
            while seen[str(version)] == before: await asyncio.sleep(0.002)
            delays.append(time.monotonic() - began)
            reached = sum(seen.values())
            while sum(seen.values()) < reached + share: await asyncio.sleep(0.005)
        while sum(seen.values()) < REQUESTS: await asyncio.sleep(0.005)
        done.set()
    def current() -> int:
        with connected(here) as connection: return connection.execute("SELECT version FROM promotions WHERE alias = 'production' ORDER BY number DESC").fetchone()[0]
    async def all_of_them(server:Server) -> None:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(8): group.create_task(asking(server, done))
            group.create_task(promoting(server, done))
    with serving(project, "flowers", "--workers", workers) as server:
        asyncio.run(all_of_them(server))
        assert counted(server, "rows_total") == sum(seen.values())
        assert server.ends() == 0
        said = server.process.stdout.read()
        assert all(f"flowers@{version} answers now, after flowers@" in said for version in seen), said
    print(f"{sum(seen.values()):,} requests, {PROMOTIONS} promotions, answered by each version: {seen}; the slowest was picked up after {max(delays):.2f} s")
    assert len(read_log("flowers", logs=here)) == sum(seen.values()) and min(seen.values()) > 0
    attempts(sum(seen.values()))


def test_a_worker_is_killed(here:Workspace, project:Path, versions:dict[str, Model]):
    "Its connections break; the others go on, another takes its place, and what was counted stays counted."
    with serving(project, "flowers", "--workers", 2) as server:
        for _ in range(20): predicted(server, [FLOWER])
        before = counted(server, "rows_total")
        children = children_of(server.process.pid)
        os.kill(children[0], signal.SIGKILL)
        for _ in range(20): predicted(server, [FLOWER])
        waited(lambda: len(set(children_of(server.process.pid)) - {children[0]}) == 2, "worker in its place")
        assert (before, counted(server, "rows_total")) == (20.0, 40.0)
        assert server.ends() == 0
    assert f"worker {children[0]} ended (signal 9)" in (project / "stderr.txt").read_text()


async def asking_on(server:Server, done:asyncio.Event, told:list[str], failed:list[str]) -> None:
    "One client after another on a connection that stays; where that breaks one request has failed, and the client connects again."
    while not done.is_set():
        try:
            streams = await asyncio.open_connection("127.0.0.1", server.port)
            while not done.is_set():
                status, body = await exchanged(streams, "POST", "/predict", {"rows": [FLOWER]})
                assert status == 200, body
                told.append(json.loads(body)["predictions"][0]["id"])
            streams[1].close()
        except (asyncio.IncompleteReadError, ConnectionError) as error: failed.append(repr(error))


async def under_load(server:Server, clients:int, meanwhile:Callable) -> tuple[list[str], list[str]]:
    "Ids that were answered, and requests that failed, while something else happens."
    told, failed, done = [], [], asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients): group.create_task(asking_on(server, done, told, failed))
        await asyncio.to_thread(meanwhile)
        done.set()
    return told, failed


def test_a_worker_is_killed_under_load(here:Workspace, project:Path, versions:dict[str, Model], attempts:Callable):
    "At most the request that each of its connections waited for fails, and the counters never fall, nor count an answer twice."
    counts:list[float] = []
    with serving(project, "flowers", "--workers", 2) as server:
        def meanwhile() -> None:
            for _ in range(2):
                time.sleep(1)
                children = children_of(server.process.pid)
                os.kill(children[0], signal.SIGKILL)
                for _ in range(10): counts.append(counted(server, "rows_total"))
                waited(lambda children=children: len(set(children_of(server.process.pid)) - {children[0]}) == 2, "worker in its place")
                time.sleep(0.5)
        told, failed = asyncio.run(under_load(server, 8, meanwhile))
        counts.append(counted(server, "rows_total"))
        assert server.ends() == 0
    print(f"{len(told):,} answers, {len(failed)} requests failed of 8 connections in 2 kills; counted {counts[-1]:,.0f}")
    assert len(failed) <= 2 * 8 and counts == sorted(counts) and len(told) <= counts[-1] <= len(told) + len(failed)
    ids = read_log("flowers", logs=here)["id"]
    assert ids.is_unique and len(ids) > 50
    attempts(len(told))


def test_the_database_is_locked(here:Workspace, project:Path, versions:dict[str, Model], attempts:Callable):
    "By somebody who does not let go: answers go on, and all of them are in the log."
    with serving(project, "flowers") as server:
        with closing(sqlite3.connect(here.database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            told, failed = asyncio.run(under_load(server, 4, lambda: time.sleep(LOCKED)))
            other.execute("ROLLBACK")
        assert predicted(server, [FLOWER])["version"] == "1" and server.ends() == 0
    assert not failed and len(told) > 50 * LOCKED
    assert set(told) <= set(ids := read_log("flowers", logs=here)["id"]) and len(ids) == len(told) + 1
    attempts(len(told))


def test_the_same_again(here:Workspace, project:Path, versions:dict[str, Model], attempts:Callable):
    "A label that is sent again is one label, also by several at once; a request that is sent again has the same answer, and with a key of its client the same ids: the log has it once."
    with serving(project, "flowers") as server:
        found = predicted(server, [FLOWER] * 20)["predictions"]
        document = {"feedback": [{"id": each["id"], "label": "virginica"} for each in found]}
        async def again() -> list: return await asyncio.gather(*(asked(server, "POST", "/feedback", document) for _ in range(10)))
        for _ in range(2): assert {status for status, _ in asyncio.run(again())} == {200}
        tensors = {"id": "one", "inputs": [{"name": name, "datatype": "FP64", "shape": [1], "data": [value]} for name, value in FLOWER.items()]}
        answers = [json.loads(asyncio.run(asked(server, "POST", "/v2/models/flowers/infer", tensors))[1]) for _ in range(10)]
        assert all([each for each in answer["outputs"] if each["name"] != "id"] == [each for each in answers[0]["outputs"] if each["name"] != "id"] and answer["id"] == "one" for answer in answers)
        order = {"rows": [FLOWER, FLOWER | {"petal_length": 5.9}]}
        async def ordered(key:str) -> list: return await asyncio.gather(*(asked(server, "POST", "/predict", order, f"Idempotency-Key: {key}\r\n") for _ in range(10)))
        told = {key: {body for _ in range(2) for status, body in asyncio.run(ordered(key)) if status == 200} for key in ("one", "two")}
        assert [len(bodies) for bodies in told.values()] == [1, 1]
        orders = [each["id"] for bodies in told.values() for each in json.loads(next(iter(bodies)))["predictions"]]
        assert server.ends() == 0
    log = read_log("flowers", logs=here)
    assert len(set(orders)) == 4 and sorted(log["id"][log["id"].isin(orders)]) == sorted(orders)
    rows = log.set_index("id").loc[[each["id"] for each in found]]
    assert len(rows) == 20 and (rows["label"] == "virginica").all() and (rows["corrections"] == 0).all()
    attempts(2 * 10 * 20 + 10 + 2 * 2 * 10)


def test_nothing_grows(here:Workspace, project:Path, versions:dict[str, Model], attempts:Callable):
    "Under load for a while: memory, open files and threads are as after the beginning, and the log has its few bytes a row."
    def seen(process:int) -> tuple[int, int, int]:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{process}/fd")), int(status["Threads"])
    samples = []
    with serving(project, "flowers") as server:
        def meanwhile() -> None:
            for _ in range(12):
                time.sleep(SOAK / 12)
                samples.append(seen(server.process.pid))
        told, failed = asyncio.run(under_load(server, 8, meanwhile))
        assert server.ends() == 0
    memory, files, threads = zip(*samples[3:], strict=True)
    kept = sum(path.stat().st_size for path in (here.folder / "predictions").rglob("*") if path.is_file())
    print(f"{len(told):,} requests in {SOAK:g} s; memory {memory[0] / 1e6:.0f} to {max(memory) / 1e6:.0f} MB, at most {max(files)} files and {max(threads)} threads; {kept / len(told):.0f} bytes a row")
    assert not failed and max(memory) - memory[0] < 40e6 and max(files) <= files[0] + 8 and max(threads) <= threads[0] + 2
    assert kept < 100_000 + 300 * len(told)
    attempts(len(told))


@pytest.mark.thorough
def test_a_model_with_threads_of_its_own_answers_from_every_worker(project:Path, python:Callable, monkeypatch:pytest.MonkeyPatch):
    "OpenMP does not survive a fork once it has been used."
    monkeypatch.delenv("OMP_NUM_THREADS")
    python("import flowers; from sklearn.ensemble import HistGradientBoostingClassifier; assert flowers.flowers.with_estimator(HistGradientBoostingClassifier(max_iter=5)).named('trees').run().model")
    with serving(project, "run:trees", "--workers", 2) as server:
        for _ in range(10): assert len(predicted(server, [FLOWER] * 50)["predictions"]) == 50
        assert server.ends() == 0


def test_workers_end_with_their_master(project:Path, versions:dict[str, Model]):
    with serving(project, "flowers", "--workers", 2) as server:
        children = children_of(server.process.pid)
        assert server.ends(signal.SIGKILL) == -9
        waited(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "end of the workers")


def children_of(process:int) -> list[int]: return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize("durable", [False, True])
def test_killed_under_load(here:Workspace, project:Path, versions:dict[str, Model], durable:bool, attempts:Callable):
    "No answer that is older than the bound is lost, none at all when the log is durable; nothing is there twice, and the log can be read."
    told:list[tuple[str, float]] = []
    kills = []
    async def asking(server:Server) -> None:
        try:
            streams = await asyncio.open_connection("127.0.0.1", server.port)
            while True:
                status, body = await exchanged(streams, "POST", "/predict", {"rows": [FLOWER]})
                assert status == 200, body
                told.append((json.loads(body)["predictions"][0]["id"], time.monotonic()))
        except (asyncio.IncompleteReadError, ConnectionError): pass
    async def all_of_them(server:Server, seconds:float) -> None:
        tasks = [asyncio.create_task(asking(server)) for _ in range(8)]
        await asyncio.sleep(seconds)
        server.process.kill()
        kills.append(time.monotonic())
        await asyncio.gather(*tasks)
    lost = 0
    for turn in range(KILLS):
        told.clear()
        with serving(project, "flowers", *(["--durable"] if durable else [])) as server: asyncio.run(all_of_them(server, random.Random(turn).uniform(0.2, 2.0)))
        ids = read_log("flowers", logs=here)["id"]
        assert ids.is_unique and told
        written = set(ids)
        missing = [moment for id, moment in told if id not in written]
        assert all(kills[-1] - moment < (0.0 if durable else BOUND) for moment in missing), (len(missing), kills[-1] - min(missing))
        lost += len(missing)
        attempts(1)
    print(f"{KILLS} kills, {len(ids):,} rows in the log, {lost} answers lost{'' if durable else f' that were younger than {BOUND:g} s'}")


@pytest.mark.thorough
def test_a_shadow_sees_everything_and_a_split_is_sticky(here:Workspace, project:Path, versions:dict[str, Model]):
    promote(here, 2, "candidate")
    rows = [{**FLOWER, "petal_length": length / 10} for length in range(10, 70)]
    with serving(project, "flowers", "--shadow", "flowers@candidate") as server:
        ids = [predicted(server, [row])["predictions"][0]["id"] for row in rows]
        assert server.ends() == 0
    shadow = read_log("flowers.shadow", logs=here).set_index("id")
    assert set(shadow["version"]) == {"2"} and [shadow["probability setosa"][id] for id in ids] == [versions["2"].predict_proba([row])["setosa"].iloc[0] for row in rows]
    with serving(project, "flowers", "--split", "flowers@candidate", "0.5") as server:
        by = {customer: {predicted(server, [FLOWER], f"ml-pkg-key: {customer}\r\n")["version"] for _ in range(4)} for customer in range(12)}
    assert all(len(versions) == 1 for versions in by.values()) and set().union(*by.values()) == {"1", "2"}


def test_nobody_serves_the_world_without_a_token(project:Path, versions:dict[str, Model], tool:Callable):
    done = tool("serve", "flowers", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2 and "there is no token" in done.stderr
    secret = tool("token", "add", "shop").stdout.strip().split()[-1]
    with serving(project, "flowers", "--host", "0.0.0.0") as server:
        assert asyncio.run(asked(server, "POST", "/predict", {"rows": [FLOWER]}))[0] == 401
        assert predicted(server, [FLOWER], f"authorization: Bearer {secret}\r\n")["version"] == "1"
