"""Runs and models on a real MLflow server, also one that is down, slow, refuses, or whose answers are lost."""

import asyncio
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from conftest import FLOWER, answers, asked, exchanged, free_port, serving, waited
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

import ml_pkg
from ml_pkg import Dataset, Evaluation, Experiment, Joblib, MlPkgError, Model, Workspace, load_run
from ml_pkg.deliveries import waiting
from ml_pkg.logged_predictions import read_log
from ml_pkg.persistence import digest_of
from ml_pkg.store import connected
from ml_pkg.sync import sync

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true" # before it is imported, here and in the processes of the tests
mlflow = pytest.importorskip("mlflow")

from ml_pkg.mlflow_sink import MlflowSink, fetch_model, from_registry, register  # noqa: E402 - needs MLflow

IRIS = Path(ml_pkg.__file__).parent / "data" / "iris.csv"


@contextmanager
def process(*words, **options) -> Iterator[subprocess.Popen]:
    "A process with all its children, ended after the block."
    started = subprocess.Popen(words, start_new_session=True, **options)
    try: yield started
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    "The address of a real MLflow server with an SQLite database."
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    with mlflow_server(folder, port) as url: yield url


@contextmanager
def mlflow_server(folder:Path, port:int) -> Iterator[str]:
    "The address of one that keeps in a folder what it is told, and is killed after the block."
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("w") as log, process(*words, cwd=folder, stdout=log, stderr=log):
        waited(lambda: answers(f"http://127.0.0.1:{port}/health"), "server")
        yield f"http://127.0.0.1:{port}"


class Proxy(ThreadingHTTPServer):
    "Stands in front of a server. `trouble(path)` may sleep, and gives a status to answer with, 'lost' for an answer that never arrives, or None."
    daemon_threads = True

    def __init__(self, behind:str):
        self.behind, self.trouble, self.asked = behind.removeprefix("http://"), lambda path: None, []
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0" # one request a connection

    def forward(self) -> None:
        body, trouble = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.server.trouble(self.path)
        self.server.asked.append(self.path)
        if isinstance(trouble, int): return self.answer(trouble, b'{"error_code": "", "message": "trouble"}' if trouble == 500 else b"no")
        behind = http.client.HTTPConnection(self.server.behind, timeout=60)
        behind.request(self.command, self.path, body, {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "host")})
        response = behind.getresponse()
        content = response.read()
        behind.close()
        if trouble == "lost": return self.connection.shutdown(socket.SHUT_RDWR)
        self.answer(response.status, content, response.headers.get("Content-Type", "application/json"))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def answer(self, status:int, content:bytes, kind:str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None: pass


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with Proxy(server) as standing:
        threading.Thread(target=standing.serve_forever, daemon=True).start()
        yield standing
        standing.shutdown()


@pytest.fixture(autouse=True)
def outside_of_projects(tmp_path, monkeypatch) -> None:
    "No settings but those of the test, and nobody left who tells runs."
    monkeypatch.chdir(tmp_path)
    for name in ("ML_PKG_SINKS", "ML_PKG_MLFLOW_URI", "MLFLOW_TRACKING_URI"): monkeypatch.delenv(name, raising=False)


def declared(name:str, estimator=None, **options) -> Experiment:
    return Experiment(name, Dataset(IRIS, target="species"), estimator or make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)), Evaluation(cv=3, metrics=["accuracy", "f1_macro"]), **options)


PLAIN = Experiment("digits", Dataset(IRIS, target="species"), make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)), Evaluation(cv=3, metrics=["accuracy", "f1_macro"])) # at the top of a module, so that its source is known


def told(server:str, here:Workspace):
    "Tell a server of all runs."
    return sync(here, {"mlflow": lambda: MlflowSink(server)}, everything=True)


def there(server:str, *names:str) -> list:
    "MLflow's runs in the experiments of some names, oldest first."
    client = mlflow.MlflowClient(server)
    found = [client.get_experiment_by_name(name) for name in names]
    return list(client.search_runs([each.experiment_id for each in found if each], order_by=["attributes.start_time ASC"]))


def left(here:Workspace) -> list:
    with connected(here) as connection: return waiting(connection, "mlflow", ("waiting", "refused"))


def same(a:float, b:float) -> bool: return a == b or math.isnan(a) and math.isnan(b)


def check_equal(server:str, run, remote) -> None:
    "Every parameter and metric of MLflow's is ours, to the last digit."
    client = mlflow.MlflowClient(server)
    assert remote.data.params == run.parameters and len(run.parameters) > 5 or run.status == "failed"
    assert set(remote.data.metrics) == {f"{metric}{part}" for metric in run.metrics for part in ("", "/fold", "/std")} | {f"run/{name}" for name in ("seconds", "cpu_seconds", "peak_memory") if run.row.get(name) is not None}
    for metric, (mean, deviation) in run.summary.items():
        assert same(remote.data.metrics[metric], mean) and same(remote.data.metrics[f"{metric}/std"], deviation)
        history = client.get_metric_history(remote.info.run_id, f"{metric}/fold")
        assert [each.step for each in history] == list(range(len(run.fold_scores[metric])))
        assert all(same(each.value, value) for each, value in zip(history, run.fold_scores[metric], strict=True))
    assert remote.data.tags["ml_pkg.run"] == run.id and remote.data.tags.get("ml_pkg.key") == run.key
    assert remote.info.status == {"finished": "FINISHED", "failed": "FAILED"}[run.status]


def test_the_server_agrees_to_the_last_digit(server, here):
    "Runs that finished, were reused, failed; a metric without a value; the data, the declaration, warnings, predictions."
    def odd(estimator, X, y) -> float: return float("nan") if len(X) % 2 else 1 / 3
    plain = PLAIN
    first, again = plain.run(), plain.run()
    plain.replace(selectkbest__k=3).run()
    with pytest.warns(ConvergenceWarning): warns = declared("digits", make_pipeline(LogisticRegression(max_iter=2))).run()
    Experiment("digits", Dataset(IRIS, target="species"), plain.estimator, Evaluation(cv=4, metrics=["accuracy", ("odd", odd)])).run()
    with pytest.raises(ValueError): declared("digits", make_pipeline(SelectKBest(k=2), LogisticRegression(C=-1.0))).run()
    report = told(server, here)
    assert (report.is_complete, report.sinks[0].sent) == (True, 6), report
    runs = [load_run(row["id"]) for row in reversed(ml_pkg.runs().reset_index().to_dict("records"))]
    remotes = {each.data.tags["ml_pkg.run"]: each for each in there(server, "digits")}
    assert set(remotes) == {run.id for run in runs} and len(runs) == 6
    for run in runs: check_equal(server, run, remotes[run.id])

    client, remote = mlflow.MlflowClient(server), remotes[first.id]
    assert remotes[again.id].data.tags["ml_pkg.reused"] == "yes" and remotes[again.id].data.tags["ml_pkg.reuses"] == first.id
    [data] = remote.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("iris.csv", first.row["dataset_key"])
    assert {column["name"]: column["type"] for column in json.loads(data.dataset.schema)["mlflow_colspec"]}["petal_length"] == "double"
    assert {each.path for each in client.list_artifacts(remote.info.run_id)} >= {"record.json", "declaration.py", "predictions.feather"}
    pd.testing.assert_frame_equal(pd.read_feather(client.download_artifacts(remote.info.run_id, "predictions.feather")), first.predictions)
    assert Path(client.download_artifacts(remote.info.run_id, "declaration.py")).read_text() == first.row["source"] and first.row["source"].startswith("PLAIN = Experiment(")
    assert "ConvergenceWarning" in Path(client.download_artifacts(remotes[warns.id].info.run_id, "warnings.txt")).read_text()
    failed = remotes[runs[-1].id]
    assert runs[-1].status == "failed" and failed.data.tags["ml_pkg.error"] == runs[-1].row["error"]
    assert "Traceback" in Path(client.download_artifacts(failed.info.run_id, "traceback.txt")).read_text()


def test_hostile_names_and_long_values_arrive(server, here):
    "A name longer than MLflow takes, markup, parameters it has no characters for, values longer than it takes, more of them than fit one request."
    name = "é" * 600
    wide = make_pipeline(make_column_transformer(*[(FunctionTransformer(), [column]) for column in ("sepal_length", "sepal_width")] * 12, remainder="passthrough"), LogisticRegression(max_iter=1000))
    runs = [declared(name).run().note("a note\nof two lines").tag("candidate", "<b>"), declared("long", make_pipeline(wide.steps[0][1], FunctionTransformer(kw_args={"spare": "<é>" * 3000}, func=kept), wide.steps[1][1])).run()]
    report = told(server, here)
    assert report.is_complete, report
    [hostile], [long] = there(server, name[:500]), there(server, "long")
    check_equal(server, runs[0], hostile)
    assert (hostile.data.tags["ml_pkg.tags"], hostile.data.tags["mlflow.note.content"]) == ("candidate, <b>", "a note\nof two lines")
    assert len(runs[1].parameters) > 100 and len(long.data.params) == len(runs[1].parameters)
    cut = [name for name, value in runs[1].parameters.items() if len(value) > 6000]
    assert cut and all("the whole is in record.json" in long.data.params[name] for name in cut)
    record = json.loads(Path(mlflow.MlflowClient(server).download_artifacts(long.info.run_id, "record.json")).read_text())
    assert record["parameters"] == runs[1].parameters


def kept(X, spare=None): return X


def flowers(folder:Path) -> Path:
    "Iris with a column of text and one of whole numbers."
    frame = pd.read_csv(IRIS)
    frame = frame.assign(colour=["red" if length > 4 else "blue" for length in frame["petal_length"]], petals=range(len(frame)))
    frame.to_csv(path := folder / "flowers.csv", index=False)
    return path


def served(server:str, uri:str, rows:pd.DataFrame) -> list:
    "Predictions of MLflow's own scorer for some rows."
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with process(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "MLFLOW_TRACKING_URI": server}):
        waited(lambda: answers(f"http://127.0.0.1:{port}/ping"), "server")
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps({"dataframe_split": rows.to_dict("split")}).encode(), {"Content-Type": "application/json"})
        return json.loads(urllib.request.urlopen(asked, timeout=30).read())["predictions"]


def test_model_is_loaded_served_and_found_in_the_registry(server, here, tmp_path, monkeypatch):
    "By MLflow's tools as scikit-learn's flavour, and by ours with schema and card; all predict the same."
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", server)
    chosen = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    experiment = Experiment("model", Dataset(flowers(tmp_path), target="species"), make_pipeline(chosen, SelectKBest(k=3), RandomForestClassifier(n_estimators=10)), Evaluation(cv=3), accepts={"leakage": "made from the target", "identifier": "counted"})
    run = experiment.run()
    ours, rows = run.model, experiment.dataset.X
    expected = ours.predict(rows).tolist()
    assert len(set(expected)) == 3
    with pytest.raises(MlPkgError, match="Registered models: "): from_registry("models:/flowers@production")
    assert [register(run, "flowers", "production") for _ in range(2)] == ["models:/flowers/1"] * 2
    assert told(server, here).is_complete # a run that was registered is not told again
    [remote] = there(server, "model")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mlflow.set_tracking_uri(server)
    for uri in ("models:/flowers@production", "models:/flowers/1", f"runs:/{remote.info.run_id}/model"):
        assert mlflow.sklearn.load_model(uri).predict(rows).tolist() == expected
        found = from_registry(uri)
        assert found.predict(rows).tolist() == expected and found.schema == ours.schema and found.card == ours.card
    assert mlflow.pyfunc.load_model("models:/flowers@production").predict(rows).tolist() == expected
    about = mlflow.models.get_model_info("models:/flowers@production")
    assert about.signature.inputs.input_names() == list(rows.columns) and about.saved_input_example_info
    assert about.flavors["sklearn"]["serialization_format"] == "skops"
    assert served(server, "models:/flowers@production", rows) == expected

    other = experiment.replace(selectkbest__k=2).named("model").run()
    _ = other.model
    assert register(other, "flowers", "production") == "models:/flowers/2"
    assert from_registry("models:/flowers@production").card["run"] == other.id
    assert from_registry("models:/flowers/1").card["run"] == run.id
    assert register(run, "flowers", "production") == "models:/flowers/1" # and back
    assert fetch_model("models:/flowers@production") == fetch_model("models:/flowers/1")


@pytest.mark.thorough
def test_a_folder_is_served_by_the_scorer_of_mlflow(here, tmp_path, command):
    "With code of a module and with skops; the answers are the model's, and our command line takes the folder as well."
    rows = pd.read_csv(IRIS).drop(columns="species")
    for experiment in (PLAIN, declared("joblib", make_pipeline(FunctionTransformer(kept, kw_args={"spare": 1j}), LogisticRegression(max_iter=1000)), persister=Joblib())):
        model = experiment.run().model
        folder = model.to_mlflow(tmp_path / experiment.name)
        assert mlflow.pyfunc.load_model(str(folder)).predict(rows).tolist() == model.predict(rows).tolist()
        assert mlflow.sklearn.load_model(str(folder)).predict(rows).tolist() == model.predict(rows).tolist()
    folder, expected = tmp_path / PLAIN.name, PLAIN.run().model.predict(rows).tolist()
    assert served("", str(folder), rows) == expected and len(set(expected)) == 3
    done = command("predict", folder, IRIS, "-o", tmp_path / "predictions.csv")
    assert done.returncode == 0 and pd.read_csv(tmp_path / "predictions.csv")["species"].tolist() == expected, done.stderr


@pytest.mark.thorough
def test_an_alias_in_the_registry_is_followed_under_load(here, project, tmp_path, monkeypatch):
    "No request fails, each answer is what the version that it names predicts, and the versions come within the bound. The server of the registry goes and comes back: what answers goes on, and that is told."
    (folder := tmp_path / "registry").mkdir()
    port, name = free_port(), "followed"
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", f"http://127.0.0.1:{port}")
    runs = [declared(name).replace(logisticregression__C=C).named(name).run() for C in (1.0, 0.1)]
    expected = {f"sha256:{digest_of(run.model_path)[:12]}": run.model.predict_proba([FLOWER]).iloc[0].to_dict() for run in runs if run.model}
    first, second = expected
    seen, delays = [], []
    async def asking(server, done) -> None:
        streams = await asyncio.open_connection("127.0.0.1", server.port)
        while not done.is_set():
            status, body = await exchanged(streams, "POST", "/predict", {"rows": [FLOWER]})
            answer = json.loads(body)
            assert status == 200 and answer["predictions"][0]["probabilities"] == expected[answer["version"]]
            seen.append(answer["version"])
            await asyncio.sleep(0.002)
        streams[1].close()
    async def until(condition, what) -> None: await asyncio.to_thread(waited, condition, what, 30, lambda: (project / "stderr.txt").read_text())
    async def moving(server, done) -> None:
        for run, version in ((runs[1], second), (runs[0], first), (runs[1], second)):
            await asyncio.to_thread(register, run, name, "production")
            began = time.monotonic()
            await until(lambda version=version: seen[-1] == version, f"answer of {version}")
            delays.append(time.monotonic() - began)
        await asyncio.to_thread(registry.close)
        await until(lambda: trouble(server) == 1.0, "word of the trouble")
        gone = len(seen)
        await asyncio.sleep(3.0)
        assert len(seen) > gone + 100 and set(seen[gone:]) == {second}
        await asyncio.to_thread(registry.enter_context, mlflow_server(folder, port))
        await until(lambda: trouble(server) == 0.0, "end of the trouble")
        await asyncio.to_thread(register, runs[0], name, "production")
        await until(lambda: seen[-1] == first, "answer of the first")
        done.set()
    async def all_of_them(server) -> None:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(4): group.create_task(asking(server, done))
            group.create_task(moving(server, done))
    with ExitStack() as registry:
        registry.enter_context(mlflow_server(folder, port))
        register(runs[0], name, "production")
        with serving(project, f"models:/{name}@production") as server:
            asyncio.run(all_of_them(server))
            assert server.ends() == 0
    said = (project / "stderr.txt").read_text()
    assert "cannot be asked for a model" in said and said.count("cannot be asked for a model") <= 4 and "is found again" in said, said # told, and not at every look
    print(f"{len(seen):,} requests; the versions came after {', '.join(f'{each:.2f}' for each in delays)} s")
    assert max(delays) < 10.0, delays # a second, two requests, and the version made ready, where other tests run as well
    assert len(read_log(name, logs=here)) == len(seen)


def trouble(server) -> float:
    "What /metrics says of the address."
    text = asyncio.run(asked(server, "GET", "/metrics"))[1].decode()
    return float(re.search(r"^ml_pkg_address_trouble\{.*\} (\S+)$", text, re.MULTILINE)[1])


def test_what_skops_cannot_write_arrives(server, here, monkeypatch):
    "With cloudpickle, as MLflow offers it; ours loads because it carries our signature."
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", server)
    experiment = declared("joblib", make_pipeline(FunctionTransformer(kept, kw_args={"spare": 1j}), LogisticRegression(max_iter=1000)), persister=Joblib())
    run = experiment.run()
    expected = run.model.predict(experiment.dataset.X).tolist()
    uri = register(run, "joblib", "production")
    mlflow.set_tracking_uri(server)
    assert mlflow.sklearn.load_model(uri).predict(experiment.dataset.X).tolist() == expected
    assert from_registry(uri).predict(experiment.dataset.X).tolist() == expected


def test_run_tells_and_so_do_its_model_and_tags(server, here, monkeypatch):
    "With nothing but a setting: another process tells, and what comes later follows."
    monkeypatch.setenv("ML_PKG_SINKS", "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run = declared("beside").run()
    waited(lambda: not left(here), "end of what waits")
    [remote] = there(server, "beside")
    check_equal(server, run, remote)
    run.tag("candidate")
    waited(lambda: not left(here), "end of what waits")
    [remote] = there(server, "beside")
    assert remote.data.tags["ml_pkg.tags"] == "candidate"
    model = run.model
    waited(lambda: not left(here), "end of what waits")
    assert from_registry(f"runs:/{remote.info.run_id}/model").card == model.card


DOWN = """
import sys, time, warnings
sys.path.insert(0, ".")
from flowers import flowers
began = time.monotonic()
run = flowers.run()
took = time.monotonic() - began
print(run.id, took, flush=True)
"""


def test_server_that_is_down_gets_its_backlog_later(server, here, project, python, monkeypatch):
    "The runs know nothing of it. Their records are complete, and the server is told once it is there."
    monkeypatch.setenv("ML_PKG_SINKS", "mlflow")
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    first, second = (python(DOWN).split() for _ in range(2))
    assert time.monotonic() - began < 60 # MLflow's own client would try for minutes
    waited(lambda: len(left(here)) == 2 and left(here)[0].error, "error of the first")
    assert "Connection refused" in left(here)[0].error
    run = load_run(first[0])
    assert (run.status, len(run.fold_scores["accuracy"]), len(run.predictions), run.experiment.name) == ("finished", 3, 150, "flowers")
    report = told(server, here)
    assert (report.is_complete, report.sinks[0].sent) == (True, 2), report
    assert [each.data.tags["ml_pkg.run"] for each in there(server, "flowers")] == [first[0], second[0]]
    assert told(server, here).sinks[0].sent == 0


def test_slow_server_slows_no_run(proxy, here, monkeypatch):
    "A run has returned long before the server has answered for the first time."
    answered = threading.Event()
    def slowly(path) -> None: answered.wait(30)
    proxy.trouble = slowly
    monkeypatch.setenv("ML_PKG_SINKS", "mlflow")
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", proxy.url)
    runs = [declared("slow").replace(selectkbest__k=k).named("slow").run() for k in (1, 2, 3)]
    assert len(left(here)) == 3 and not there(f"http://{proxy.behind}", "slow")
    answered.set()
    waited(lambda: not left(here), "end of what waits")
    assert [each.data.tags["ml_pkg.run"] for each in there(f"http://{proxy.behind}", "slow")] == [run.id for run in runs]


@pytest.mark.parametrize(("call", "name"), [("runs/create", "create"), ("runs/log-batch", "batch"), ("mlflow-artifacts/artifacts", "artifacts"), ("logged-models", "logged"), ("runs/update", "end"), ("experiments/create", "experiment")])
def test_lost_answer_makes_no_second_run(proxy, here, call, name):
    "Whichever call it is whose answer is lost: the next try goes on from there."
    run = declared(f"lost_{name}").run()
    _ = run.model
    once = iter(["lost"])
    proxy.trouble = lambda path: next(once, None) if call in path else None
    report = told(proxy.url, here)
    assert next(once, None) is None and report.sinks[0].waiting == (name != "experiment") # which is simply looked for again
    report = told(proxy.url, here)
    assert report.is_complete, report
    [remote] = there(f"http://{proxy.behind}", run.name)
    check_equal(f"http://{proxy.behind}", run, remote)
    client = mlflow.MlflowClient(f"http://{proxy.behind}")
    assert len(client.search_logged_models([remote.info.experiment_id])) == len(remote.outputs.model_outputs) == 1
    assert told(proxy.url, here).sinks[0].sent == 0


def test_refusing_server(proxy, here):
    "500: it may do better later. 403: somebody has to mend something; then it is asked again, when somebody says so."
    run = declared("refused").run()
    for status, state in ((500, "waiting"), (503, "waiting"), (403, "refused"), (401, "refused")):
        proxy.trouble = lambda path, status=status: status
        report = told(proxy.url, here)
        assert not report.is_complete and [each.state for each in left(here)] == [state], report
        assert str(status) in report.sinks[0].error
        assert run.predictions is not None
    proxy.trouble = lambda path: None
    assert told(proxy.url, here).is_complete
    assert len(there(f"http://{proxy.behind}", "refused")) == 1


SYNC = "import sys; from ml_pkg import Workspace; from ml_pkg.mlflow_sink import MlflowSink; from ml_pkg.sync import sync; report = sync(Workspace.current(), {'mlflow': lambda: MlflowSink(sys.argv[1])}, everything=True); print(report); sys.exit(not report.is_complete)"


@pytest.mark.thorough
def test_two_at_once_tell_each_run_once(server, here):
    runs = [declared("at_once").replace(selectkbest__k=k, logisticregression__C=C).named("at_once").run() for k in (1, 2, 3) for C in (1.0, 2.0)]
    both = [subprocess.Popen([sys.executable, "-c", SYNC, server], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert all("0 waiting, 0 refused" in each.stdout.read() for each in both)
    assert sorted(each.data.tags["ml_pkg.run"] for each in there(server, "at_once")) == sorted(run.id for run in runs)


def test_killed_in_the_middle(proxy, here):
    "What a process was telling when it was killed is completed by the next, once."
    run = declared("killed").run()
    reached = threading.Event()
    def stuck(path) -> None:
        if "log-batch" in path:
            reached.set()
            time.sleep(20)
    proxy.trouble = stuck
    with process(sys.executable, "-c", SYNC, proxy.url): assert reached.wait(60)
    proxy.trouble = lambda path: None
    report = told(proxy.url, here)
    assert report.is_complete, report
    [remote] = there(f"http://{proxy.behind}", "killed")
    check_equal(f"http://{proxy.behind}", run, remote)


def test_deleted_experiment_is_a_refusal_that_says_what_to_do(server, here):
    client = mlflow.MlflowClient(server)
    client.delete_experiment(client.create_experiment("deleted"))
    declared("deleted").run()
    assert "was deleted on the server: restore it there" in told(server, here).sinks[0].error
    client.restore_experiment(client.get_experiment_by_name("deleted").experiment_id)
    assert told(server, here).is_complete


def test_model_that_is_not_ours_or_was_changed_is_refused(server, here, tmp_path, monkeypatch):
    "Whoever can write to the server's files cannot make us load them."
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", server)
    run = declared("changed").run()
    _ = run.model
    uri = register(run, "changed", "production")
    client = mlflow.MlflowClient(server)
    model = client.get_model_version("changed", "1").source.removeprefix("models:/")
    (other := tmp_path / "model.mlpkg").write_bytes(run.model_path.read_bytes()[:-1])
    client.log_model_artifact(model, str(other))
    with pytest.raises(MlPkgError, match="is not what was logged"): from_registry(uri)
    (tmp_path / "model.mlpkg").write_bytes(run.model_path.read_bytes())
    client.log_model_artifact(model, str(other))
    assert isinstance(from_registry(uri), Model)
    monkeypatch.setenv("ML_PKG_MLFLOW_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(MlPkgError, match="cannot be asked for a model"): from_registry(uri)
