"""What it costs to find, show and add a run among many.

    python benchmarks/run_store.py
    python benchmarks/run_store.py --runs 10000

A store is filled with runs as a fit records them: 2 metrics of 5 folds, 20 parameters, 40 components of the key, 25 timings, 8
packages. Then: pages of 100 runs by conditions that hold for many, for few and for none, the same pages of the web interface, as
its server answers them, and one more run, beside one in an empty store: the record alone, and a run of iris as it is, whose folders
hold a file of predictions and one of the declaration for each run. The median of several requests counts; what is added to both
stores takes turns.
"""

import argparse
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote
from urllib.request import urlopen

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from ml_pkg import Dataset, Evaluation, Experiment
from ml_pkg.history import run_count, run_list, runs
from ml_pkg.store import connected, new_id, now, record, transaction
from ml_pkg.workspace import Workspace, temporary_workspace

PAGE = 100
MOST_FOR_A_PAGE, MOST_IN_BROWSER, MOST_GROWTH = 0.100, 0.200, 1.20 # seconds; seconds; times as long to add a run
METRICS, FOLDS = ("accuracy", "f1_macro"), range(5)

CONDITIONS = {
    "no condition": "",
    "of one experiment": "experiment == 'experiment3'",
    "holds for many": "accuracy > 0.6",
    "holds for few": "accuracy > 0.9",
    "holds for none": "accuracy > 2",
    "a parameter and a metric": "step__parameter3 == 9 and accuracy > 0.7",
    "a value that no run has": "step__parameter3 == 99",
    "a value that one run has": "step__parameter6 == 1000",
    "a text that no run has": "step__parameter4 == 'no'",
    "either of two": "accuracy > 0.95 or step__parameter5 == 99",
    "a tag that no run has": "'candidate' in tags",
    "a part of the estimator": "'nowhere' in estimator",
    "a part of a parameter that no run has": "'no' in step__parameter4",
    "a part of a parameter that one run has": "'1000' in step__parameter4",
    "failed, in another experiment": "status == 'failed' and experiment == 'experiment5'",
}


def a_run(number:int) -> tuple[dict, dict[str, list[dict]]]:
    "Columns of a run, and what belongs to it."
    run = {"experiment": f"experiment{number % 20}", "key": f"{number:032x}", "status": "finished" if number % 10 else "failed", "started": now(), "seconds": random.random(), "origin": "notebook",
           "estimator": "Pipeline(steps=[...])" * 5, "schema": "{}" * 300, "source": "x" * 300}
    details = {
        "scores": [{"metric": metric, "fold": fold, "value": random.random()} for metric in METRICS for fold in FOLDS],
        "metrics": [{"metric": metric, "place": place} for place, metric in enumerate(METRICS)],
        "parameters": [{"name": f"step__parameter{place}", "value": str(number % 7 + place if number else 1000)} for place in range(20)],
        "components": [{"path": f"estimator.steps.parameter{place}", "content": "x" * 60} for place in range(40)],
        "packages": [{"name": f"package{place}", "version": "1"} for place in range(8)],
        "timings": [{"fold": fold, "place": place, "step": "step", "seconds": .1, "outcome": "computed"} for fold in FOLDS for place in range(5)],
    }
    return run, details


def insert(connection:sqlite3.Connection, table:str, rows:list[dict]) -> None:
    connection.executemany(f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({', '.join(f':{name}' for name in rows[0])})", rows)


def fill(connection:sqlite3.Connection, count:int) -> None:
    "Many runs in few transactions, which `record` does not offer: nobody else needs it. One a minute, by their ids."
    taken = {row[0] for row in connection.execute("SELECT id FROM runs")}
    for first in range(0, count, 2000):
        with transaction(connection):
            for number in range(first, min(first + 2000, count)):
                run, details = a_run(number)
                while (identifier := new_id(60 * number)) in taken: pass
                taken.add(identifier)
                insert(connection, "runs", [{"id": identifier, **run}])
                for metric in details["metrics"]: metric["mean"] = statistics.fmean(score["value"] for score in details["scores"] if score["metric"] == metric["metric"])
                for table, rows in details.items(): insert(connection, table, [{"run": identifier, **row} for row in rows])


def seconds(work:Callable, times:int=7) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def added(workspace:Workspace, times:int=30) -> float:
    "Seconds to record one more run, of several one after the other."
    upcoming = iter([a_run(random.randrange(10**6, 10**9)) for _ in range(times + 1)])
    with connected(workspace) as connection:
        def one() -> None:
            run, details = next(upcoming)
            record(connection, run, **details)
        one() # opens the file
        return seconds(one, times)


def added_in_turns(full:Workspace, times:int=15) -> tuple[float, float, float]:
    "Seconds to record one more run in an empty store and in a full one, and how many times as long the second takes."
    with temporary_workspace() as empty: taken = [(added(empty), added(full)) for _ in range(times)]
    return *(statistics.median(each) for each in zip(*taken, strict=True)), statistics.median(there / here for here, there in taken)


def fill_folders(workspace:Workspace, count:int) -> None:
    "Files as many runs leave them, by name."
    for kind, suffix in (("predictions", ".arrow"), ("declarations", ".entry")):
        folder = workspace.made(kind)
        for number in range(count): (folder/f"{number:032x}{suffix}").touch()


def run_and_fitted(full:Workspace, times:int=15) -> float:
    "How many times as long a run of iris takes, with its model, among many as in an empty store."
    iris, ratios = Experiment("iris", Dataset(load_iris(as_frame=True).frame, target="target"), LogisticRegression(max_iter=2000), Evaluation(5)), []
    def one(strength:float) -> float: return seconds(iris.replace(C=strength).fit, 1)
    with temporary_workspace() as empty:
        for number in range(times + 2):
            os.environ["ML_PKG_WORKSPACE"] = str(empty.folder)
            alone = one(1 + number / 100)
            os.environ["ML_PKG_WORKSPACE"] = str(full.folder)
            ratios.append(one(1 + number / 100) / alone)
    return statistics.median(ratios[2:]) # the first ones import


@contextmanager
def browser(workspace:Workspace) -> Iterator[Callable[[str], None]]:
    "The web interface in a process of its own; asks it for a page, as a browser does."
    words = [sys.executable, "-c", "from ml_pkg.commands import main; main()", "ui", "--port", "0", "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "ML_PKG_WORKSPACE": str(workspace.folder)}) as server:
        address = server.stdout.readline().split()[2]
        def get(where:str) -> None:
            with urlopen(f"{address}?where={quote(where)}") as answer: assert answer.status == 200 and answer.read()
        get("")
        try: yield get
        finally: server.terminate()


def verdict(what:str, found:float, most:float) -> bool:
    print(f"{what:62} {found:8.2f}   most {most:g}   {'holds' if found <= most else 'FAILS'}")
    return found <= most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    count = parser.parse_args().runs
    random.seed(0)
    with temporary_workspace():
        workspace = Workspace.current()
        with connected(workspace) as connection: fill(connection, count)
        empty, full, times_as_long = added_in_turns(workspace)
        fill_folders(workspace, count)
        print(f"{run_count():,} runs, {workspace.database.stat().st_size / 2**20:,.0f} MiB\n")
        held = [verdict(f"page of {PAGE}: {what} (ms)", 1000 * seconds(lambda where=where: runs(where=where, limit=PAGE)), 1000 * MOST_FOR_A_PAGE) for what, where in CONDITIONS.items()]
        held += [verdict(f"page of {PAGE}: the best by accuracy (ms)", 1000 * seconds(lambda: runs(metric="accuracy", limit=PAGE)), 1000 * MOST_FOR_A_PAGE),
                 verdict(f"page of {PAGE}: the best of one experiment (ms)", 1000 * seconds(lambda: runs("experiment3", metric="accuracy", limit=PAGE)), 1000 * MOST_FOR_A_PAGE),
                 verdict(f"page of {PAGE}: the slowest (ms)", 1000 * seconds(lambda: run_list(order="-seconds", limit=PAGE)), 1000 * MOST_FOR_A_PAGE),
                 verdict(f"page of {PAGE}: the last but one (ms)", 1000 * seconds(lambda: run_list(limit=PAGE, offset=count - 2 * PAGE)), 1000 * MOST_FOR_A_PAGE)]
        with browser(workspace) as get:
            held += [verdict(f"web page: {what} (ms)", 1000 * seconds(lambda where=where: get(where)), 1000 * MOST_IN_BROWSER) for what, where in CONDITIONS.items()]
        print(f"\none more run: {1000 * empty:.2f} ms in an empty store, {1000 * full:.2f} ms in the full one")
        held.append(verdict("times as long in the full store", times_as_long, MOST_GROWTH))
        held.append(verdict("a run of iris with its files and its model: times as long", run_and_fitted(workspace), MOST_GROWTH))
    print(f"\n{sum(held)} of {len(held)} hold")
    raise SystemExit(not all(held))


if __name__ == "__main__": main()
