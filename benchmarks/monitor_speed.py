"""What monitoring costs: a million rows of 25 columns against a reference profile, rows as they come, and a thousand segments.

    python benchmarks/monitor_speed.py
    python benchmarks/monitor_speed.py --rows 100000 --without-peers

20 columns of numbers and 5 of categories, with predictions and probabilities. Everything that is judged is computed: values, what is
missing, dependence, answers, faults. Wall time and the processor's time are the least of a few repetitions; on a machine that does
other things they differ, and the bars are those of wall time. Memory is what the process needs at its peak above what it had with the rows in it. Peers get the same
rows and do what they do by default, in environments of their own; they compare with the reference's rows.

The bars: a million rows counted and judged in 1 s and 500 MiB; 5 microseconds a row in batches of 10,000; 1,000 segments merged in 1 s.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ.setdefault(_threads, "1")

import numpy as np  # noqa: E402 - after the number of threads is set
import pandas as pd  # noqa: E402

REFERENCE, BATCH, SEGMENTS = 10_000, 10_000, 1_000
PEERS = {"Evidently": ("evidently", ["evidently==0.7.23", "pandas<3"]), "NannyML": ("nannyml", ["nannyml==0.13.1", "statsmodels", "pandas<3"])}


def draw(rows:int, seed:int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    numbers = {f"number {place}": random.normal(size=rows) for place in range(20)}
    return pd.DataFrame({**numbers, **{f"category {place}": random.choice(list("abcdefgh"), rows) for place in range(5)}})


def answers(rows:pd.DataFrame) -> pd.DataFrame:
    probability = 1 / (1 + np.exp(-rows["number 0"]))
    return pd.DataFrame({"prediction": np.where(probability > 0.5, "yes", "no"), "probability yes": probability}, rows.index)


def resident() -> float:
    "Memory of this process in MiB."
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def measured(action:Callable, repetitions:int) -> tuple[float, float, float]:
    "Least wall time, least processor's time, and the peak of memory above the start."
    walls, processors, peak, over, before = [], [], 0.0, threading.Event(), resident()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005): peak = max(peak, resident() - before)

    threading.Thread(target=watch, daemon=True).start()
    for _ in range(repetitions):
        wall, processor = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    over.set()
    return min(walls), min(processors), peak


def ours(rows:int, repetitions:int) -> bool:
    "Measure and print; whether the bars hold, by wall time."
    from ml_pkg.reference import reference_profile
    from ml_pkg.verdicts import check
    training, table = draw(REFERENCE, 0), draw(rows, 1)
    said = answers(table)
    started = time.perf_counter()
    profile = reference_profile(training, answers(training))
    size = len(json.dumps(profile.to_dict()))
    print(f"profile of {REFERENCE:,} rows: {time.perf_counter() - started:.2f} s, {size / 1024:.0f} KiB as JSON")
    check(profile, profile.count(table[:100], said[:100])) # imports
    wall, processor, peak = measured(lambda: check(profile, profile.count(table, said)), repetitions)
    print(f"{rows:,} rows counted and judged: {wall:.2f} s, {processor:.2f} s of processor, {peak:.0f} MiB")
    held = [wall * 1e6 / rows < 1, peak < 500]
    starts = range(0, min(rows, 200_000), BATCH)
    wall, processor, _ = measured(lambda: [profile.count(table[start:start + BATCH], said[start:start + BATCH]) for start in starts], repetitions)
    each = [1e6 * seconds / len(starts) / BATCH for seconds in (wall, processor)]
    print(f"in batches of {BATCH:,}: {each[0]:.2f} microseconds a row, {each[1]:.2f} of processor")
    segments = [profile.count(table[start:start + 100], said[start:start + 100]) for start in range(0, SEGMENTS * 100, 100)]
    wall, processor, _ = measured(lambda: check(profile, profile.merged(segments)), repetitions)
    written = json.dumps(segments[0].to_dict())
    print(f"{SEGMENTS:,} segments merged and judged: {wall:.2f} s, {processor:.2f} s of processor; a segment is {len(written) / 1024:.0f} KiB as JSON")
    return all([*held, each[0] < 5, wall < 1])


def evidently(rows:int) -> Callable:
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset
    reference, current = Dataset.from_pandas(draw(REFERENCE, 0)), Dataset.from_pandas(draw(rows, 1))
    return lambda: Report([DataDriftPreset()]).run(current, reference).dict()


def nannyml(rows:int) -> Callable:
    import nannyml as nml
    reference, current = draw(REFERENCE, 0), draw(rows, 1)
    calculator = nml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_number=1)
    return lambda: calculator.fit(reference).calculate(current).to_df()


def peer(name:str, python:Path, rows:int) -> str:
    "What a peer needs, measured in its environment."
    code = f"import sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, {str(Path(__file__).parent)!r}); import monitor_speed; print(*monitor_speed.measured(monitor_speed.{name.lower()}({rows}), 1))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode: return f"failed: {(done.stderr.strip().splitlines() or ['nothing was said'])[-1][:120]}"
    wall, processor, peak = map(float, done.stdout.strip().splitlines()[-1].split())
    return f"{rows:,} rows: {wall:.2f} s, {processor:.2f} s of processor, {peak:.0f} MiB"


def main() -> None:
    import environments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--without-peers", action="store_true")
    environments.add_option(parser)
    chosen = parser.parse_args()
    print(environments.versions("scipy"))
    held = ours(chosen.rows, chosen.repetitions)
    if not chosen.without_peers:
        pythons, absent = environments.environments(PEERS, chosen.environments, shared=())
        for name, python in pythons.items(): print(f"{name}: {peer(name, python, chosen.rows)}")
        for name, reason in absent.items(): print(f"{name} {reason}")
    print("every bar holds" if held else "a bar does not hold")
    sys.exit(not held)


if __name__ == "__main__": main()
