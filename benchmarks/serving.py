"""Requests a second of a served model, beside other ways to serve it.

    python benchmarks/serving.py
    python benchmarks/serving.py --only ours "hand-written FastAPI" --seconds 5 --repeats 3
    python benchmarks/serving.py --log      # what our prediction log costs, and memory over 1,000,000 requests
    python benchmarks/serving.py --workers 1 2 4    # our server with so many processes, and a model of some size

Iris, a SelectKBest and a LogisticRegression in a pipeline, named columns, one row a request. One server process on the first
core, `wrk` on the second, over loopback, with 1 and with 32 connections, in turns; medians of the repeats. Two ceilings are
no ways to serve a model: arithmetic that someone has written by hand, in FastAPI and in bare ASGI.

`wrk` is Debian's. Each peer gets a virtual environment, made when it is first needed.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import environments

FLOWER = {"sepal_length": 5.9, "sepal_width": 3.0, "petal_length": 4.5, "petal_width": 1.5}
CONNECTIONS = (1, 32)
FASTAPI = ["fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0"]
REQUIREMENTS = {"fastapi": FASTAPI, "mlflow": ["mlflow==3.17.2"], "vetiver": ["vetiver==0.2.6"], "bentoml": ["bentoml==1.4.39"]}

TRAINED = """
import joblib, sys
import pandas as pd
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.datasets import load_iris
frame = load_iris(as_frame=True).frame.rename(columns=lambda name: name.replace(" (cm)", "").replace(" ", "_"))
X, y = frame.drop(columns="target"), frame["target"].map(dict(enumerate(load_iris().target_names)))
model = make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)).fit(X, y)
"""

HAND_WRITTEN = """
import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

class Flower(BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float

app, model = FastAPI(), joblib.load("model.joblib")

@app.post("/predict")
def predict(flower: Flower):
    frame = pd.DataFrame([flower.model_dump()])
    return {"prediction": model.predict(frame)[0], "probabilities": dict(zip(model.classes_, model.predict_proba(frame)[0].tolist()))}
"""

ARITHMETIC = """
import joblib, json
import numpy as np
model = joblib.load("model.joblib")
places, classes = model[0].get_support(indices=True), model.classes_.tolist()
weights, constants = model[1].coef_.T.copy(), model[1].intercept_
names = model.feature_names_in_[places].tolist()

def answer(row):
    scores = np.array([row[name] for name in names]) @ weights + constants
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return {"prediction": classes[int(shares.argmax())], "probabilities": dict(zip(classes, shares.tolist()))}
"""

CEILING_FASTAPI = ARITHMETIC + """
from fastapi import FastAPI
from pydantic import BaseModel

class Flower(BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float

app = FastAPI()

@app.post("/predict")
async def predict(flower: Flower): return answer(flower.model_dump())
"""

CEILING_ASGI = ARITHMETIC + """
async def app(scope, receive, send):
    message = await receive()
    body = json.dumps(answer(json.loads(message["body"]))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
"""

VETIVER = TRAINED + """
from vetiver import VetiverModel, VetiverAPI
app = VetiverAPI(VetiverModel(model, "iris", prototype_data=X), check_prototype=True).app
"""

BENTO = """
import bentoml, joblib
import numpy as np
import pandas as pd

@bentoml.service(workers=1)
class Iris:
    def __init__(self): self.model = joblib.load("model.joblib")
    @bentoml.api
    def predict(self, rows: list[dict[str, float]]) -> list[str]: return self.model.predict(pd.DataFrame(rows)).tolist()
"""

OURS = """
from ml_pkg import Dataset, Evaluation, Experiment
frame = X.assign(species=y)
iris = Experiment("iris", Dataset(frame, target="species"), make_pipeline(SelectKBest(k=2), LogisticRegression(max_iter=1000)), Evaluation(cv=2))
assert iris.run().model
"""

MLFLOW = TRAINED + """
import mlflow
mlflow.sklearn.save_model(model, "mlflow_model", signature=mlflow.models.infer_signature(X, model.predict(X)), serialization_format="cloudpickle", pip_requirements=["scikit-learn"])
"""


class Contestant(NamedTuple):
    "How it is prepared and started, and what it is asked."
    command: Callable[[str, int], list[str]] # its Python, a port
    program: str                             # run first, in its folder
    module: str = ""                         # written there as app.py
    body: Any = FLOWER
    path: str = "/predict"
    environment: str = ""


def uvicorn(python:str, port:int) -> list[str]: return [python, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning", "--no-access-log"]
def ml_pkg(*options:str, name:str="iris") -> Callable: return lambda python, port: [python, "-c", "from ml_pkg.commands import main; main()", "serve", name, "--port", str(port), *options]


KEPT = TRAINED + "joblib.dump(model, 'model.joblib')"
ROWS = {"rows": [FLOWER]}
CONTESTANTS = {
    "ours": Contestant(ml_pkg(), TRAINED + OURS, body=ROWS),
    "ours, no log": Contestant(ml_pkg("--no-log"), TRAINED + OURS, body=ROWS),
    "ours, onnx": Contestant(ml_pkg("--engine", "onnx"), TRAINED + OURS, body=ROWS),
    "ours, onnx, no log": Contestant(ml_pkg("--engine", "onnx", "--no-log"), TRAINED + OURS, body=ROWS),
    "hand-written FastAPI": Contestant(uvicorn, KEPT, HAND_WRITTEN, environment="fastapi"),
    "FastAPI and arithmetic": Contestant(uvicorn, KEPT, CEILING_FASTAPI, environment="fastapi"),
    "ASGI and arithmetic": Contestant(uvicorn, KEPT, CEILING_ASGI, environment="fastapi"),
    "MLflow": Contestant(lambda python, port: [python, "-m", "mlflow", "models", "serve", "-m", "mlflow_model", "--env-manager", "local", "--port", str(port), "--workers", "1"], MLFLOW, body={"dataframe_records": [FLOWER]}, path="/invocations", environment="mlflow"),
    "vetiver": Contestant(uvicorn, "", VETIVER, body=[FLOWER], environment="vetiver"),
    "BentoML": Contestant(lambda python, port: [python, "-m", "bentoml", "serve", "app:Iris", "--port", str(port)], KEPT, BENTO, body={"rows": [FLOWER]}, environment="bentoml"),
}


# A server, and what wrk says of it.

def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def surroundings(contestant:Contestant, python:Path, folder:Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or not contestant.environment}
    return {**inherited, **environments.ONE_THREAD, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "ML_PKG_WORKSPACE": str(folder / "workspace"), "MLFLOW_DISABLE_TELEMETRY": "true", "BENTOML_DO_NOT_TRACK": "true", "PYTHONWARNINGS": "ignore"}


@contextmanager
def served(contestant:Contestant, python:Path, folder:Path, cores:str="0") -> Iterator[tuple[subprocess.Popen, str]]:
    "A server on some cores, and the address that it answers at. Raises RuntimeError if it does not."
    environment, port = surroundings(contestant, python, folder), free_port()
    if contestant.module: (folder / "app.py").write_text(contestant.module)
    if contestant.program: subprocess.run([str(python), "-c", contestant.program], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen(["taskset", "-c", cores, *contestant.command(str(python), port)], cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)
    address = f"http://127.0.0.1:{port}{contestant.path}"
    try:
        for _ in range(240):
            if answers(address, contestant.body): break
            time.sleep(0.25)
        else: raise RuntimeError(f"does not answer: {environments.last_line((folder / 'said.txt').read_text())}")
        yield process, address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try: process.wait(20)
        except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)


def answers(address:str, body:Any) -> bool:
    try: return urllib.request.urlopen(urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"}), timeout=5).status == 200
    except (urllib.error.URLError, OSError): return False


class Pace(NamedTuple):
    "What wrk measured."
    requests: float  # a second
    p99: float       # milliseconds
    failed: int


def wrk(address:str, body:Any, connections:int, seconds:float, folder:Path) -> Pace:
    script = folder / "post.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = [==[{json.dumps(body)}]==]\nwrk.headers['content-type'] = 'application/json'\n")
    said = subprocess.run(["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), address], check=True, capture_output=True, text=True).stdout
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
    failed = sum(map(int, re.findall(r"(?:Non-2xx or 3xx responses|connect|read|write|timeout):? (\d+)", said)))
    return Pace(float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), float(amount) * {"us": 0.001, "ms": 1, "s": 1000}[unit], failed)


def measured(name:str, python:Path, seconds:float) -> dict[int, Pace] | str:
    "By the number of connections; why there is none, if it failed."
    contestant = CONTESTANTS[name]
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as store:
        try:
            with served(contestant, python, Path(store)) as (_, address):
                for connections in CONNECTIONS: wrk(address, contestant.body, connections, 1, Path(store)) # to warm up
                return {connections: wrk(address, contestant.body, connections, seconds, Path(store)) for connections in CONNECTIONS}
        except subprocess.CalledProcessError as error: return f"failed: {environments.last_line(error.stderr or '')}"
        except RuntimeError as error: return str(error)


def middle(paces:list[dict[int, Pace]], connections:int, what:str) -> float: return statistics.median(getattr(each[connections], what) for each in paces)


def show(found:dict[str, list[dict[int, Pace]]]) -> None:
    print(f"\n{'':<26}" + "".join(f"{f'{count} conn.: req/s':>18}{'p99 ms':>9}{'failed':>8}" for count in CONNECTIONS))
    for name, paces in found.items():
        print(f"{name:<26}" + "".join(f"{middle(paces, count, 'requests'):>18,.0f}{middle(paces, count, 'p99'):>9.2f}{sum(each[count].failed for each in paces):>8}" for count in CONNECTIONS))
    print()


def bars(found:dict[str, list[dict[int, Pace]]]) -> list[bool]:
    "Print what has to hold, and whether it does."
    held = []
    def compare(one:str, other:str, connections:int, factor:float) -> None:
        if one not in found or other not in found: return
        ratio = middle(found[one], connections, "requests") / middle(found[other], connections, "requests")
        held.append(verdict(f"{one} is {ratio:.2f} times {other} at {connections}, at least {factor}", ratio >= factor))
    compare("ours", "hand-written FastAPI", 1, 1.5)
    compare("ours", "hand-written FastAPI", 32, 5.0)
    compare("ours, onnx", "FastAPI and arithmetic", 1, 1.0)
    compare("ours, onnx", "ASGI and arithmetic", 32, 0.5)
    for engine in ("ours", "ours, onnx"): compare(engine, f"{engine}, no log", 32, 0.9)
    for name, paces in found.items():
        if name.startswith("ours"): held.append(verdict(f"no request of {name} failed", not any(pace.failed for each in paces for pace in each.values())))
    return held


def verdict(what:str, holds:bool) -> bool:
    print(f"{'pass' if holds else 'FAIL'}  {what}")
    return holds


# Memory over many requests.

def resident(process:int) -> float: # MB
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024


def memory(requests:int, seconds:float) -> bool:
    "Memory of our server, log on, after each tenth of so many requests."
    contestant, sizes = CONTESTANTS["ours, onnx"], []
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as store, served(contestant, Path(sys.executable), Path(store)) as (process, address):
        done = 0
        while done < requests:
            done += int(wrk(address, contestant.body, 32, seconds, Path(store)).requests * seconds)
            sizes.append((done, resident(process.pid)))
            print(f"{done:>12,} requests {sizes[-1][1]:>8.1f} MB", flush=True)
    first, last = sizes[min(1, len(sizes) - 1)][1], sizes[-1][1]
    return verdict(f"memory after {done:,} requests is {last / first:.2f} times that after {sizes[min(1, len(sizes) - 1)][0]:,}, at most 1.1", last <= 1.1 * first)


# Several processes, and a model that takes memory.

FOREST = """
import numpy as np, pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.datasets import make_classification
from ml_pkg import Dataset, Evaluation, Experiment
values, label = make_classification(20_000, 8, n_informative=6, flip_y=0.2, random_state=0)
frame = pd.DataFrame(values, columns=[f"c{place}" for place in range(8)]).assign(label=np.where(label, "yes", "no"))
assert Experiment("forest", Dataset(frame, target="label"), RandomForestClassifier(200, n_jobs=1), Evaluation(cv=2)).run().model
"""

def family(process:int) -> list[int]:
    "A process and those that it started."
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(each for child in children for each in family(int(child)))]

def proportional(process:int) -> float: # MB
    "Memory of a process and its children, what they share counted once."
    return sum(int(re.search(r"Pss:\s+(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text())[1]) for each in family(process)) / 1024

SIZES = {
    "iris, logistic regression": ("iris", TRAINED + OURS, FLOWER),
    "8 columns, forest of 200 trees": ("forest", FOREST, {f"c{place}": 0.5 for place in range(8)}),
}

def scaling(workers:list[int], seconds:float, repeats:int) -> None:
    "Print pace and memory with several processes, which share all cores with `wrk`."
    print(f"\n{'':<44}" + "".join(f"{f'{count} conn.: req/s':>18}{'p99 ms':>9}" for count in CONNECTIONS) + f"{'MB':>9}")
    for what, (name, program, row) in SIZES.items():
        for count in workers:
            contestant = Contestant(ml_pkg("--workers", str(count), name=name), program, body={"rows": [row]})
            with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as store, served(contestant, Path(sys.executable), Path(store), cores=f"0-{os.cpu_count() - 1}") as (process, address):
                for connections in CONNECTIONS: wrk(address, contestant.body, connections, 1, Path(store))
                paces = [{connections: wrk(address, contestant.body, connections, seconds, Path(store)) for connections in CONNECTIONS} for _ in range(repeats)]
                told = "".join(f"{middle(paces, connections, 'requests'):>18,.0f}{middle(paces, connections, 'p99'):>9.2f}" for connections in CONNECTIONS)
                print(f"{f'{what}, processes: {count}':<44}{told}{proportional(process.pid):>9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="CONTESTANT", help="; ".join(CONTESTANTS))
    parser.add_argument("--log", action="store_true", help="our log alone: what it costs, and memory over --requests")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", help="our server alone, with so many processes")
    environments.add_option(parser)
    chosen = parser.parse_args()
    if not shutil.which("wrk"): raise SystemExit("wrk is not installed (on Debian: apt-get install wrk)")
    if chosen.log: chosen.only = [name for name in CONTESTANTS if name.startswith("ours")]
    print(f"{environments.versions('ml_pkg')}, {chosen.seconds} s each, medians of {chosen.repeats}", flush=True)
    if chosen.workers: return scaling(chosen.workers, chosen.seconds, chosen.repeats)
    pythons, failed = environments.environments({name: (CONTESTANTS[name].environment, REQUIREMENTS.get(CONTESTANTS[name].environment, [])) for name in chosen.only}, chosen.environments)
    found:dict[str, list] = {}
    for _ in range(chosen.repeats):
        for name, python in pythons.items():
            if name in failed: continue
            paces = measured(name, python, chosen.seconds)
            if isinstance(paces, str): failed[name] = paces
            else: found.setdefault(name, []).append(paces)
    show(found)
    for name, reason in failed.items(): print(f"{name}: {reason}")
    held = bars(found)
    if chosen.log: held.append(memory(chosen.requests, 10))
    raise SystemExit(0 if all(held) and not any(name.startswith("ours") for name in failed) else 1)


if __name__ == "__main__": main()
