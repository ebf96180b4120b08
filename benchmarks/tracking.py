"""What it costs to record a run of a small experiment, beside other trackers.

    python benchmarks/tracking.py
    python benchmarks/tracking.py --only ours "MLflow, no model" --repeats 10
    python benchmarks/tracking.py --profile

Iris, a SelectKBest and a LogisticRegression in a pipeline, five folds and their accuracies, and a fit on all rows: that is the
bare work. A tracked run does the same and records parameters, scores of the folds and their mean, and where it says so the
model. Every run has another parameter. In each process a bare and a tracked run take turns, after some that do not count; the
overhead is the median of their differences. Ours keeps everything it always does: source, commit, packages, key, schema,
checks, predictions and probabilities out of fold, timings, warnings, checkpoints, and the model as a signed file. What a model
takes along for whoever watches over it, its reference profile with what performance is estimated by, is made when it leaves its
run: `ours, model leaves` is a run whose model does. No other tracker makes such a thing, so it is printed and not judged.

MLflow writes to SQLite and to a folder. skore, dvclive and MLflow get a virtual environment each, made when it is first needed.
"""

import argparse
import contextlib
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import environments
import numpy as np
import pandas as pd
from sklearn.datasets import load_iris
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline

REQUIREMENTS = {"mlflow": ["mlflow==3.17.2"], "skore": ["skore==0.28.0"], "dvclive": ["dvclive==3.49.1"]}
MOST_OVERHEAD, LEAST_FACTOR = 0.008, 300  # seconds; how many times less than MLflow with its model
WARM_UP = 3
CPU_ONLY = ["scikit-learn"]               # given to MLflow, so that it does not look for what a model needs


def pipeline(strength:float) -> Pipeline: return Pipeline([("selectkbest", SelectKBest(k=2)), ("logisticregression", LogisticRegression(C=strength))])


class Rows(NamedTuple):
    "Iris."
    X: pd.DataFrame
    y: pd.Series


def rows() -> Rows:
    frame = load_iris(as_frame=True).frame.rename(columns=lambda name: name.replace(" (cm)", "").replace(" ", "_"))
    return Rows(frame.drop(columns="target"), frame["target"])


def bare(strength:float, data:Rows) -> tuple[np.ndarray, Pipeline]:
    "Accuracies of five folds, and the model on all rows."
    scores = cross_val_score(pipeline(strength), data.X, data.y, cv=StratifiedKFold(5), scoring="accuracy")
    return scores, pipeline(strength).fit(data.X, data.y)


# The contestants: each is prepared once in a process, in a folder of its own, and then called with a strength for every run.

def ours(folder:Path, data:Rows) -> Callable[[float], Any]:
    from ml_pkg import Dataset, Evaluation, Experiment
    experiment = Experiment("iris", Dataset(data.X.assign(species=data.y), target="species"), pipeline(1.0), Evaluation(5, ["accuracy"]))
    def run(strength:float) -> Any:
        variant = experiment.replace(logisticregression__C=strength)
        done = variant.run()
        model = variant.fitted(done)
        assert done.model_path
        return model
    return run


def ours_leaving(folder:Path, data:Rows) -> Callable[[float], Any]:
    run = ours(folder, data)
    def leave(strength:float) -> None: assert run(strength).take_along().attached
    return leave


def tell_mlflow(folder:Path) -> Any:
    import mlflow
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("iris", artifact_location=(folder/"artifacts").as_uri()))
    return mlflow


def with_mlflow(log_model:Callable|None) -> Callable:
    "MLflow called by hand: parameters, the score of each fold, their mean, and the model if there is a way to log it."
    def prepared(folder:Path, data:Rows) -> Callable[[float], Any]:
        mlflow = tell_mlflow(folder)
        def run(strength:float) -> None:
            with mlflow.start_run():
                scores, model = bare(strength, data)
                mlflow.log_params({"selectkbest__k": 2, "logisticregression__C": strength})
                for fold, score in enumerate(scores): mlflow.log_metric("accuracy", float(score), step=fold)
                mlflow.log_metric("accuracy_mean", float(scores.mean()))
                if log_model: log_model(mlflow, model, data)
        return run
    return prepared


def model_logged(mlflow:Any, model:Pipeline, data:Rows, **options) -> None:
    mlflow.sklearn.log_model(model, name="model", signature=mlflow.models.infer_signature(data.X, model.predict(data.X)), serialization_format="cloudpickle", **options)


def model_logged_quickly(mlflow:Any, model:Pipeline, data:Rows) -> None: model_logged(mlflow, model, data, pip_requirements=CPU_ONLY)


def autologged(folder:Path, data:Rows) -> Callable[[float], Any]:
    mlflow = tell_mlflow(folder)
    def run(strength:float) -> None:
        mlflow.sklearn.autolog(silent=True, serialization_format="cloudpickle")
        with mlflow.start_run():
            scores = cross_val_score(pipeline(strength), data.X, data.y, cv=StratifiedKFold(5), scoring="accuracy")
            mlflow.log_metric("accuracy_mean", float(scores.mean()))
            pipeline(strength).fit(data.X, data.y)
        mlflow.sklearn.autolog(disable=True) # for the bare work that follows
    return run


def with_skore(folder:Path, data:Rows) -> Callable[[float], Any]:
    import skore
    project = skore.Project("iris", mode="local", workspace=folder)
    def run(strength:float) -> None:
        report = skore.CrossValidationReport(pipeline(strength), data.X, data.y, splitter=StratifiedKFold(5))
        report.metrics.accuracy()
        project.put(f"run {strength}", report)
        pipeline(strength).fit(data.X, data.y)
    return run


def with_dvclive(folder:Path, data:Rows) -> Callable[[float], Any]:
    import joblib
    from dvclive import Live
    os.chdir(folder)
    for words in (("init", "-q"), ("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "first")): subprocess.run(["git", *words], check=True)
    def run(strength:float) -> None:
        with Live(str(folder/"live"), save_dvc_exp=False, dvcyaml=None, report=None) as live:
            scores, model = bare(strength, data)
            live.log_params({"selectkbest__k": 2, "logisticregression__C": strength})
            for score in scores:
                live.log_metric("accuracy", float(score))
                live.next_step()
            joblib.dump(model, folder/"model.joblib")
    return run


class Contestant(NamedTuple):
    "How it is prepared, and the environment it needs."
    prepared: Callable
    environment: str = ""


CONTESTANTS = {"ours": Contestant(ours), "ours, model leaves": Contestant(ours_leaving), "MLflow, model": Contestant(with_mlflow(model_logged), "mlflow"), "MLflow, model, given requirements": Contestant(with_mlflow(model_logged_quickly), "mlflow"),
               "MLflow, no model": Contestant(with_mlflow(None), "mlflow"), "MLflow, autolog": Contestant(autologged, "mlflow"), "skore": Contestant(with_skore, "skore"), "dvclive": Contestant(with_dvclive, "dvclive")}


# In a process of its own.

def seconds(work:Callable, *arguments) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


@contextlib.contextmanager
def profiled(wanted:bool) -> Iterator[None]:
    "Prints where the time goes, to standard error."
    if not wanted:
        yield
        return
    with cProfile.Profile() as profile: yield
    pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(60)


def work(contestant:Contestant, repeats:int, folder:Path, profile:bool) -> dict[str, list[float]]:
    "Seconds of bare and of tracked runs, in turns."
    data, times = rows(), {"bare": [], "tracked": []}
    tracked = contestant.prepared(folder, data)
    strengths = iter(0.5 + 0.01 * number for number in range(10_000))
    for _ in range(WARM_UP): bare(1.0, data), tracked(next(strengths))
    for _ in range(repeats):
        strength = next(strengths)
        times["bare"].append(seconds(bare, strength, data))
        with profiled(profile): times["tracked"].append(seconds(tracked, strength))
    return times


def measure(name:str, python:Path, repeats:int, profile:bool) -> dict[str, list[float]] | str:
    "Times of one contestant in a process of its own; why there are none, if it failed."
    with tempfile.TemporaryDirectory(prefix="tracking-", ignore_cleanup_errors=True) as store:
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or not CONTESTANTS[name].environment}
        surroundings = {**inherited, **environments.ONE_THREAD, "PYTHONWARNINGS": "ignore", "ML_PKG_WORKSPACE": f"{store}/workspace", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "true", "GIT_PYTHON_REFRESH": "quiet"}
        command = [str(python), __file__, "--worker", name, "--repeats", str(repeats), "--store", store, *(["--profile"] if profile else [])]
        done = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, stderr=None if profile else subprocess.PIPE, text=True)
    return json.loads(environments.last_line(done.stdout)) if done.returncode == 0 else f"failed (exit {done.returncode}): {environments.last_line(done.stderr or '')}"


# What is printed.

def overhead(times:dict[str, list[float]]) -> float: return statistics.median(tracked - plain for plain, tracked in zip(times["bare"], times["tracked"], strict=True))


def show(found:dict[str, dict]) -> None:
    mine = overhead(found["ours"]) if "ours" in found else None
    print(f"\n{'':<36}{'bare ms':>9}{'tracked ms':>12}{'overhead ms':>13}{'times ours':>12}")
    for name, times in found.items():
        factor = "" if mine is None or name == "ours" else f"{overhead(times) / mine:.1f}"
        print(f"{name:<36}{1000 * statistics.median(times['bare']):>9.1f}{1000 * statistics.median(times['tracked']):>12.1f}{1000 * overhead(times):>13.1f}{factor:>12}")
    print()


def bars(found:dict[str, dict]) -> list[bool]:
    "Print what has to hold, and whether it does."
    if "ours" not in found: return []
    mine = overhead(found["ours"])
    held = [verdict(f"ours takes {1000 * mine:.1f} ms above the bare work, less than {1000 * MOST_OVERHEAD:.0f}", mine < MOST_OVERHEAD)]
    for name in ("MLflow, model", "MLflow, autolog"):
        if name in found: held.append(verdict(f"{name} takes {overhead(found[name]) / mine:.0f} times as much, at least {LEAST_FACTOR}", overhead(found[name]) >= LEAST_FACTOR * mine))
    if "MLflow, no model" in found: held.append(verdict(f"ours takes less than MLflow without its model, {1000 * overhead(found['MLflow, no model']):.1f} ms", mine < overhead(found["MLflow, no model"])))
    return held


def verdict(what:str, holds:bool) -> bool:
    print(f"{'pass' if holds else 'FAIL'}  {what}")
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="CONTESTANT", help="; ".join(CONTESTANTS))
    parser.add_argument("--profile", action="store_true", help="show where the last tracked run of each spends its time")
    environments.add_option(parser)
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS) # a process of one contestant
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        warnings.simplefilter("ignore")
        print("\n" + json.dumps(work(CONTESTANTS[chosen.worker], chosen.repeats, chosen.store, chosen.profile)))
        return
    print(f"{environments.versions('ml_pkg')}, medians of {chosen.repeats}", flush=True)
    pythons, failed = environments.environments({name: (CONTESTANTS[name].environment, REQUIREMENTS.get(CONTESTANTS[name].environment, [])) for name in chosen.only}, chosen.environments)
    measured = {name: measure(name, python, chosen.repeats, chosen.profile) for name, python in pythons.items()}
    found = {name: times for name, times in measured.items() if isinstance(times, dict)}
    show(found)
    for name, reason in {**failed, **{name: reason for name, reason in measured.items() if name not in found}}.items(): print(f"{name}: {reason}")
    raise SystemExit(0 if all(bars(found)) else 1)


if __name__ == "__main__": main()
