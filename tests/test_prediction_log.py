"""Prediction logs of processes that are killed, that fork, that write at once, and whose disk is full or read-only."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from conftest import waited

from ml_pkg.logged import Logged
from ml_pkg.logged_predictions import read_feedback, read_log
from ml_pkg.periods import Every
from ml_pkg.prediction_log import Bound, Outcome, PredictionLog, Rotation
from ml_pkg.windows import LastHours, Recent, SameHour, SameWeekday

KILLS = int(os.environ.get("ML_PKG_KILLS", "4")) # servers that are killed, of each kind
BOUND = 1.0 # seconds

SERVER = '''
import asyncio, os, sys, time
from pathlib import Path
from ml_pkg.logged import Logged
from ml_pkg.periods import Every
from ml_pkg.prediction_log import Bound, Outcome, PredictionLog, Rotation

async def client(log, name, taken):
    number = 0
    while True:
        number += 1
        id = f"{name}-{number}"
        at = time.monotonic()
        outcome = await log.add(Logged([id], {"age": [number], "text": ["x" * (number % 50)]}, {"prediction": [number % 2]}, "churn", "1", time.time(), 0.001))
        if number % 3 == 0: await log.feedback(id, number % 2, time.time())
        if outcome is taken: os.write(1, f"{id} {at}\\n".encode())
        await asyncio.sleep(0.002)

async def serve(folder, name, durable):
    log = PredictionLog(Path(folder), Bound(seconds=1.0, rows=10**6), durable=durable, rotation=Rotation(rows=700))
    await asyncio.gather(*(client(log, f"{name}.{number}", Outcome.WRITTEN if durable else Outcome.TAKEN) for number in range(8)))

asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3] == "durable"))
'''


def killed(folder:Path, name:str, kind:str, seconds:float) -> list[str]:
    "Ids that a server acknowledged, and that had to be on the disk when it was killed with all that it had started."
    with subprocess.Popen([sys.executable, "-c", SERVER, str(folder), name, kind], stdout=subprocess.PIPE, text=True, start_new_session=True) as server:
        first = server.stdout.readline()
        time.sleep(seconds)
        until = time.monotonic() - (0 if kind == "durable" else BOUND)
        os.killpg(server.pid, signal.SIGKILL)
        said = [line.split() for line in (first + server.stdout.read()).splitlines(keepends=True) if line.endswith("\n")]
    return [id for id, at in said if kind == "durable" or float(at) <= until]


@pytest.mark.parametrize("kind", ["durable", "bounded"])
def test_killed_servers_lose_nothing_beyond_the_bound(tmp_path:Path, kind:str, attempts:Callable):
    chance, folder, needed = random.Random(0), tmp_path / "churn", []
    for number in range(KILLS):
        needed += killed(folder, str(number), kind, chance.uniform(0.05, 1.0) + (BOUND if kind == "bounded" else 0))
        log = Counter(read_log("churn", logs=tmp_path)["id"])
        assert set(log.values()) == {1} and not [id for id in needed if id not in log]
        attempts(1)
    assert len(needed) > 20 * KILLS
    PredictionLog(folder).close(patience=600) # the next one makes segments of all that is left
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert Counter(read_log("churn", logs=tmp_path)["id"]) == log
    labels = read_feedback("churn", logs=tmp_path)
    assert len(labels) > 0 and labels["id"].is_unique


def asked(id:str) -> Logged: return Logged([id], {"age": [31], "text": ["x" * 100]}, {"prediction": ["no"]}, "churn", "1", time.time(), 0.001)


def ids(folder:Path) -> list[str]: return sorted(read_log("churn", logs=folder)["id"])


def test_processes_write_at_once(tmp_path:Path):
    program = '''
import sys, time
from pathlib import Path
from ml_pkg.logged import Logged
from ml_pkg.periods import Every
from ml_pkg.prediction_log import Bound, PredictionLog, Rotation
log = PredictionLog(Path(sys.argv[1]), Bound(seconds=0.02, rows=50), rotation=Rotation(rows=200))
for number in range(int(sys.argv[3])):
    if number % 20 == 0: time.sleep(0.02)
    log.add(Logged([f"{sys.argv[2]}-{number:04}"], {"age": [number]}, {"prediction": [1]}, "churn", "1", time.time(), 0.001))
log.close()
assert log.counts.dropped == 0 and log.counts.written == int(sys.argv[3]) and log.counts.error == '', log.counts
'''
    counts = {"a": 1000, "b": 3000, "c": 6000} # who ends leaves what others write to where it is
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "churn"), name, str(count)]) for name, count in counts.items()]
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "churn").exists(): assert read_log("churn", logs=tmp_path)["id"].is_unique
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert ids(tmp_path) == [f"{name}-{number:04}" for name, count in counts.items() for number in range(count)]
    PredictionLog(tmp_path / "churn").close()
    assert ids(tmp_path) == [f"{name}-{number:04}" for name, count in counts.items() for number in range(count)]


def test_what_a_killed_process_left_becomes_segments_while_others_write(tmp_path:Path):
    killed(tmp_path / "churn", "first", "durable", 0.3)
    before, left = ids(tmp_path), set((tmp_path / "churn").glob("*.ahead"))
    assert left
    log = PredictionLog(tmp_path / "churn")
    waited(lambda: not left & set((tmp_path / "churn").glob("*.ahead")), "segment of what was left", seen=lambda: f": {log.counts}")
    assert ids(tmp_path) == before and log.counts.error == ""
    log.close()


def test_forks_have_logs_of_their_own(python:Callable, tmp_path:Path):
    python('''
import os, sys, time
from pathlib import Path
from ml_pkg.logged import Logged
from ml_pkg.periods import Every
from ml_pkg.prediction_log import Bound, PredictionLog
def asked(id): return Logged([id], {"age": [31]}, {"prediction": ["no"]}, "churn", "1", time.time(), 0.001)
log = PredictionLog(Path(sys.argv[1]), Bound(seconds=0.05))
log.add(asked("before"))
while log.counts.waiting: time.sleep(0.01)
log.add(asked("waiting"))
child = os.fork()
log.add(asked("parent" if child else "child"))
if child: assert os.waitpid(child, 0)[1] == 0
log.close()
assert log.counts.written == (3 if child else 1), log.counts
if not child: os._exit(0)
''', tmp_path / "churn")
    assert ids(tmp_path) == ["before", "child", "parent", "waiting"]
    assert len(list((tmp_path / "churn").glob("*.parquet"))) == 2


def test_a_process_that_ends_closes_its_logs(python:Callable, tmp_path:Path):
    python('''
import sys, time
from pathlib import Path
from ml_pkg.logged import Logged
from ml_pkg.periods import Every
from ml_pkg.prediction_log import Bound, PredictionLog
log = PredictionLog(Path(sys.argv[1]), Bound(seconds=1000))
log.add(Logged(["a"], {"age": [31]}, {"prediction": ["no"]}, "churn", "1", time.time(), 0.001))
''', tmp_path / "churn")
    assert ids(tmp_path) == ["a"] and [path.suffix for path in (tmp_path / "churn").glob("*.*")] == [".parquet"]


@pytest.mark.parametrize("durable", [False, True])
def test_full_disk(small_disk:Path, durable:bool):
    "Answers go on; what is said to be there is there, and there is more when there is room again."
    filler = small_disk / "filler"
    filler.write_bytes(bytes(900_000))
    log = PredictionLog(small_disk / "churn", Bound(seconds=0.02, rows=10, waiting=50), durable=durable, rotation=Rotation(rows=2000)) # the file grows until the disk takes half of a record
    receipts, slowest = {}, 0.0
    for number in range(3000):
        began = time.monotonic()
        receipts[f"{number:04}"] = log.add(asked(f"{number:04}"))
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.0005)
    full = log.counts
    assert full.is_failing and full.dropped > 0 and "No space left" in full.error and slowest < 1
    filler.unlink()
    receipts["after"] = log.add(asked("after"))
    waited(lambda: not log.counts.waiting, "room", seen=lambda: f": {log.counts}")
    receipts["at last"] = log.add(asked("at last")) # the first may not have fitted into what was waiting
    log.close()
    counts, found = log.counts, ids(small_disk)
    assert not counts.is_failing and counts.written == len(found) == len(set(found)) and counts.written + counts.dropped == len(receipts)
    assert "at last" in found
    if durable: assert found == sorted(id for id, receipt in receipts.items() if receipt.outcome is Outcome.WRITTEN)
    else: assert set(found) <= {id for id, receipt in receipts.items() if receipt.outcome is Outcome.TAKEN}


def test_read_only_disk(small_disk:Path):
    log = PredictionLog(small_disk / "churn", Bound(seconds=0.02))
    log.add(asked("before"))
    waited(lambda: log.counts.written == 1, "row on the disk")
    log.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    log = PredictionLog(small_disk / "churn", Bound(seconds=0.02))
    assert log.add(asked("refused")).outcome is Outcome.TAKEN
    waited(lambda: log.counts.is_failing, "refusal")
    assert ids(small_disk) == ["before"] and "Read-only" in log.counts.error
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    waited(lambda: log.counts.written == 1, "row on the disk")
    log.close()
    assert ids(small_disk) == ["before", "refused"]


MOMENTS = {"the clock goes on": "2026-03-29T01:00:00Z", "the clock goes back": "2026-10-25T01:00:00Z", "the year 2038": "2038-01-19T03:14:07Z"}


@pytest.mark.parametrize("what", MOMENTS)
def test_clock_that_moves(tmp_path:Path, what:str, monkeypatch:pytest.MonkeyPatch, attempts:Callable):
    "By an hour, where daylight saving begins or ends, or beyond 32 bits: rows come in the order of their times, each in one window, and no window is negative."
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    moment = pd.Timestamp(MOMENTS[what])
    seconds = [offset + step for offset in (0, -3600, 3600, 7200, -7200) for step in (-1, 0, 1, 600)]
    log = PredictionLog(tmp_path / "churn", Bound(seconds=0.02))
    for number, second in enumerate(seconds):
        log.add(asked(f"{number:02}")._replace(received=moment.timestamp() + second))
        log.feedback(f"{number:02}", "no", moment.timestamp() + second)
    log.close()
    monkeypatch.undo()
    time.tzset()
    rows = read_log("churn", logs=tmp_path)
    assert rows["time"].tolist() == sorted(moment + pd.Timedelta(seconds=second) for second in seconds) and (rows["labelled"] == rows["time"]).all()
    every, now = Every(timedelta(hours=1)), rows["time"].max() + pd.Timedelta(hours=2)
    starts = every.over(rows["time"].min(), now, 1000)
    windows = [read_log("churn", start, start + every.length, logs=tmp_path)["id"].tolist() for start in starts]
    assert starts == sorted(set(starts)) and sorted(sum(windows, [])) == sorted(rows["id"])
    for policy in (Recent(timedelta(hours=3)), LastHours(timedelta(hours=2)), SameHour(1, "Europe/Vienna"), SameWeekday(1, "Europe/Vienna")):
        for at in rows["time"]:
            chosen = policy.choose(rows["time"], at)
            assert (rows["time"][chosen.window] <= at).all() and (chosen.reference is None or not (chosen.window & chosen.reference).any())
            attempts(1)
