"A model that was watched for two weeks, in which customers became older and a town was heard of for the first time."

import datetime
import sys
from unittest import mock

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ml_pkg import Dataset, Evaluation, Experiment
from ml_pkg.late_labels import MatureAfter
from ml_pkg.logged import Logged
from ml_pkg.observed import observed
from ml_pkg.periods import Every, watch_folder
from ml_pkg.prediction_log import PredictionLog, log_folder
from ml_pkg.responses import ResponseCounts
from ml_pkg.traffic import shadow_folder
from ml_pkg.watching import Watching
from ml_pkg.windows import Recent
from ml_pkg.workspace import Workspace

DAY, START = 86_400, pd.Timestamp.now("UTC").floor("D") - pd.Timedelta(days=14)
HOSTILE = "</td><script>alert(1)</script>'\"{{7*7}}"
random = np.random.default_rng(0)


def people(count:int, older:float=0.0, towns:tuple=("Rome", "Bari")) -> pd.DataFrame:
    X = pd.DataFrame({"age": random.normal(40 + older, 10, count), "income": random.normal(3, 1, count), "town": random.choice(towns, count), HOSTILE: random.normal(0, 1, count)})
    return X.assign(buys=np.where(random.random(count) < 1 / (1 + np.exp((40 - X["age"]) / 4)), "yes", "no"))


def ask(watching:Watching, rows:pd.DataFrame, day:int) -> None:
    "Rows that were asked for in the course of a day, by a candidate as well, with labels that came two days later."
    monitor, times = watching.monitor, START.timestamp() + day * DAY + np.linspace(0, DAY - 1, len(rows))
    log, shadow = PredictionLog(log_folder(Workspace.current(), "buyers")), PredictionLog(shadow_folder(Workspace.current(), "buyers"))
    said = observed(monitor.model, monitor.profile.answers.bins.names, rows).answers
    for place, (time, row) in enumerate(zip(times, rows.to_dict("records"), strict=True)):
        asked = Logged([f"{day}-{place}"], {name: [row[name]] for name in ("age", "income", "town", HOSTILE)}, {name: [said[name].tolist()[place]] for name in said}, "buyers", monitor.version, time, 0.001 * (1 + place % 9))
        log.add(asked)
        shadow.add(asked._replace(version="7"))
        log.feedback(f"{day}-{place}", row["buys"], time + 2 * DAY)
    log.close()
    shadow.close()


def main(days:int=14) -> None:
    Experiment("buyers", Dataset(people(5_000), target="buys"), make_pipeline(make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["town"]), remainder="passthrough"), LogisticRegression(max_iter=1000)), Evaluation(5, ["accuracy", "neg_log_loss"])).fit()
    watching = Watching("buyers", Every(datetime.timedelta(days=1)), Recent(datetime.timedelta(days=1)), maturity=MatureAfter(datetime.timedelta(days=2)))
    for day in range(days):
        ask(watching, people(800, 8 * (day >= 10), ("Rome", "Bari", "Oslo") if day >= 10 else ("Rome", "Bari")), day)
        watching.look(START + pd.Timedelta(days=day + 1, minutes=1))
    with mock.patch("ml_pkg.responses.time.time", return_value=(START + pd.Timedelta(days=days - 0.5)).timestamp()): ResponseCounts(watch_folder(Workspace.current(), "buyers")).write({200: 300, 422: 7, 503: 2})


if __name__ == "__main__": main(*map(int, sys.argv[1:]))
