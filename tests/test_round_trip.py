"""The whole circle, with a real server: traffic drifts, an alarm is told, its rows are explored, what comes of that is promoted, the server takes it up, and the alarm is cleared."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import CLI, PACKAGE, Server, asked, predicted, serving, waited

from ml_pkg.verdicts import MOVED, SHIFT, Verdict

pytestmark = pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "orjson", "httptools", "prometheus_client", "jinja2", "libcst"])), reason="what a server and a promotion need is not installed: pip install 'ml_pkg[serve,promote]'")

ROWS = 400 # of a request: enough for a verdict within some seconds, few enough that looks keep up beside other tests
random = np.random.default_rng(0)

EXPLORE = """
from datetime import timedelta
from buyers.experiments.buyers import buyers
from ml_pkg import Dataset
from ml_pkg.late_labels import MatureAfter
from ml_pkg.monitor import Monitor

monitor = Monitor.of_log("buyers", maturity=MatureAfter(timedelta(seconds=1)))
report = monitor.check_log(SINCE)
behind = monitor.rows("age")
recent = monitor.recent()
recent.X.assign(buys=recent.y.to_numpy()).to_csv("buyers/data/newer.csv", index=False)
newer = buyers.with_dataset(Dataset("data/newer.csv", target="buys"))
result = newer.promote(why="customers are older")
print(result)
import json
print(json.dumps({"verdict": report.verdict, "behind": len(behind), "older": float(behind["age"].mean()), "rows": len(newer.dataset), "version": result.version}))
"""


def people(count:int, older:float=0.0) -> pd.DataFrame:
    "Customers, who buy the more the older they are, in comparison with those of their time."
    X = pd.DataFrame({"age": random.normal(40 + older, 10, count).round(2), "income": random.normal(3, 1, count).round(3)})
    return X.assign(buys=np.where(random.random(count) < 1 / (1 + np.exp((40 + older - X["age"]) / 4)), "yes", "no"))


class Pager(NamedTuple):
    "A web server that takes what it is told."
    address: str
    told: list[dict]

    def moments(self, thing:str) -> list[tuple[str, str]]: return [(event["change"], event["time"]) for message in self.told for event in message["document"]["events"] if event["name"] == thing]
    def changes(self, change:str) -> list[str]: return [event["name"] for message in self.told for event in message["document"]["events"] if event["change"] == change]


@pytest.fixture
def pager() -> Iterator[Pager]:
    told:list[dict] = []

    class Taken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words:Any) -> None: pass
    with ThreadingHTTPServer(("127.0.0.1", 0), Taken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Pager(f"http://127.0.0.1:{server.server_port}/alarms", told)
        server.shutdown()


@pytest.fixture
def project(tmp_path:Path, pager:Pager, monkeypatch:pytest.MonkeyPatch) -> Path:
    "A project as `ml_pkg new` makes it, with a model in production."
    monkeypatch.delenv("ML_PKG_WORKSPACE")
    monkeypatch.setenv("ML_PKG_ALARMS", pager.address)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    people(6_000).to_csv(tmp_path / "buyers.csv", index=False)
    subprocess.run([*CLI, "new", "buyers", "--csv", "buyers.csv", "--target", "buys", "--yes"], cwd=tmp_path, check=True, capture_output=True)
    folder = tmp_path / "buyers"
    monkeypatch.setenv("PYTHONPATH", f"{PACKAGE.parent}{os.pathsep}{folder}")
    python(folder, "from buyers.experiments.buyers import buyers; buyers.promote()")
    return folder


def python(folder:Path, source:str) -> str:
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(server:Server, rows:pd.DataFrame) -> str:
    "Have rows answered, and say a moment later what really was; the version that answered."
    found = predicted(server, rows.drop(columns="buys").to_dict("records"))
    labels = [{"id": each["id"], "label": label} for each, label in zip(found["predictions"], rows["buys"], strict=True)]
    status, body = run(asked(server, "POST", "/feedback", {"feedback": labels}))
    assert status == 200, body
    return found["version"]


def run(coroutine:Any) -> Any:
    import asyncio
    return asyncio.run(coroutine)


def alarm(server:Server, thing:str) -> float|None:
    "What the gauge of an alarm says, if there is one."
    found = re.search(rf'^ml_pkg_watch_alarm{{model="buyers",thing="{thing}"}} (\S+)', run(asked(server, "GET", "/metrics"))[1].decode(), re.MULTILINE)
    return float(found[1]) if found else None


def looks_at(project:Path, column:str) -> list[tuple[str, int, Verdict]]:
    "When looks judged the values of a column, of which version, and what they said."
    documents = [json.loads(path.read_text()) for path in sorted((project / ".ml_pkg/watched/buyers/looks").glob("[!.]*.json"))]
    return [(document["time"], int(document["version"]), Verdict(**each)) for document in documents for each in document["verdicts"] if (each["name"], each["kind"]) == (column, SHIFT)]


def kept_asking(server:Server, older:float, done:Any, what:str, seconds:float=300) -> list[str]:
    "Traffic until something holds; the versions that answered, for each request. Beside other tests a look takes its time: how soon alarms come is counted in looks."
    versions, until = [], time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"no {what} after {seconds} s: {run(asked(server, 'GET', '/dashboard'))[1].decode()[:3000]}"
        versions.append(ask(server, people(ROWS, older)))
        time.sleep(0.5)
    return versions


def test_the_circle_closes(project:Path, pager:Pager):
    with serving(project, "buyers", "--watch", "2s", "--over", "10s") as server:
        calm = time.monotonic() + 12
        assert set(kept_asking(server, 0.0, lambda: time.monotonic() > calm, "end")) == {"1"}
        assert pager.told == [] and run(asked(server, "GET", "/dashboard"))[0] == 200
        time.sleep(12) # the window is of what comes from now on
        drifted = pd.Timestamp.now("UTC")
        asked_for = kept_asking(server, 10.0, lambda: alarm(server, "age") == 1.0 and "age" in pager.changes("raised"), "alarm")
        told = next(message for message in pager.told if "age" in message["subject"])
        assert "moved by" in told["text"] and "monitor.rows('age')" in told["text"] and "since" in told["text"]
        asked_for += kept_asking(server, 10.0, lambda: pd.Timestamp.now("UTC") > drifted + pd.Timedelta(seconds=12), "end")
        assert set(asked_for) == {"1"}

        time.sleep(1.5) # by then each row's label counts
        explored = json.loads(python(project, EXPLORE.replace("SINCE", repr(drifted.isoformat()))).splitlines()[-1])
        assert explored["verdict"] != "ok" and explored["behind"] > 500 and explored["older"] > 48 and explored["rows"] == ROWS * len(asked_for) and explored["version"] == 2
        assert "newer.csv" in (project / "buyers/experiments/buyers.py").read_text()

        waited(lambda: ask(server, people(100, 10.0)) == "2", "swap", 10)
        assert set(kept_asking(server, 10.0, lambda: alarm(server, "age") == 0.0 and "age" in pager.changes("cleared"), "end of the alarm")) == {"2"}
        status, page = run(asked(server, "GET", "/dashboard"))
        assert status == 200 and "buyers@2" in page.decode() and page.decode().count("cleared") >= 1
        (raised, when_raised), (cleared, when_cleared) = pager.moments("age")
        assert (raised, when_raised) == ("raised", next(time for time, _, found in looks_at(project, "age") if found.verdict == MOVED)) # by the first look that found it
        fine = [time for time, version, found in looks_at(project, "age") if version == 2 and found.is_over]
        assert (cleared, [when_cleared]) == ("cleared", fine[2:3]) # by the third that found it over
        assert pager.changes("raised").count("age") == 1 and pager.changes("cleared").count("age") == 1
        assert server.ends() == 0
