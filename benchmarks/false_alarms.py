"""How often monitors cry wolf, and what they see: windows without drift, and windows with shifts that were planted.

    python benchmarks/false_alarms.py
    python benchmarks/false_alarms.py --repetitions 10 --rows 30 1000 --features 5 20
    python benchmarks/false_alarms.py --without-peers

Tables of 5, 20 or 100 columns: normal ones that hang together, skewed ones, heavy tails, whole numbers, many zeros, categories,
missing values. A reference of 10,000 rows serves five windows. A window fills, and is looked at 100 times on its way; ours raises
a false alarm if any look at it does, about anything: a column, missing values, the joint check, predictions, or a fault in
values that is certain. The same with a tolerance of zero is harder than what anybody would ask for: then every column is at the edge
of what is tolerated. "100 in a row" are fresh windows, each judged once, none of which may be an alarm.

Peers look once, at the end, at the numbers of the same windows: two-sample Kolmogorov-Smirnov with p < 0.05, population
stability index above 0.1 in ten bins, Wasserstein distance above 0.1 standard deviations; and Evidently with what it does by
default, in an environment of its own. For them the share of columns that are flagged is shown too.

The bars: any alarm in at most 5% of the windows in every line; planted shifts above their tolerance found in 90% of the windows
of 2,000 rows; a move of 0.02 standard deviations in 100,000 rows is none.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"): os.environ.setdefault(_threads, "1")

import numpy as np  # noqa: E402 - after the number of threads is set
import pandas as pd  # noqa: E402

REFERENCE, LOOKS, LEVEL, WINDOWS_OF_EACH = 10_000, 100, 0.05, 5
SEED = 0
ROWS, FEATURES = (30, 100, 1_000, 10_000, 100_000), (5, 20, 100)
EVIDENTLY = ["evidently==0.7.23", "pandas<3"]


def column(random:np.random.Generator, number:int, common:np.ndarray) -> pd.Series:
    "One column of a table: of ten kinds, in turn. `common` is what columns 0 and 1 share."
    size = len(common)
    kind = number % 10
    if kind in (0, 1): return pd.Series(np.sqrt(0.6) * common + np.sqrt(0.4) * random.normal(size=size))
    if kind == 2: return pd.Series(random.choice(["a", "b", "c", "d"], size, p=[0.4, 0.3, 0.2, 0.1]))
    if kind == 3: return pd.Series(random.lognormal(size=size))
    if kind == 4: return pd.Series(np.where(random.random(size) < 0.02, np.nan, random.normal(size=size)))
    if kind == 5: return pd.Series(random.standard_t(3, size=size))
    if kind == 6: return pd.Series(random.poisson(3, size))
    if kind == 7: return pd.Series(random.exponential(size=size) * (random.random(size) > 0.6))
    if kind == 8: return pd.Series(random.choice(list("abcdefgh"), size, p=np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 36))
    return pd.Series(random.random(size) > 0.9)


def draw(random:np.random.Generator, rows:int, features:int) -> pd.DataFrame:
    "Rows of the world: every ten columns share something."
    common = random.normal(size=(-(-features // 10), rows))
    return pd.DataFrame({f"x{number}": column(random, number, common[number // 10]) for number in range(features)})


def answers(rows:pd.DataFrame) -> pd.DataFrame:
    "What a model would say of rows."
    probability = 1 / (1 + np.exp(-rows["x0"] - rows["x1"]))
    return pd.DataFrame({"prediction": np.where(probability > 0.5, "yes", "no"), "probability yes": probability}, rows.index)


def turned(random:np.random.Generator, rows:pd.DataFrame) -> pd.DataFrame: return rows.assign(x0=-rows["x1"], x1=rows["x0"])
def renamed(random:np.random.Generator, rows:pd.DataFrame) -> pd.DataFrame: return rows.assign(x2=rows["x2"].where(random.random(len(rows)) > 0.15, "new"))
def emptied(random:np.random.Generator, rows:pd.DataFrame) -> pd.DataFrame: return rows.assign(x4=rows["x4"].where(random.random(len(rows)) > 0.15))

SHIFTS:dict[str, Callable] = {
    "mean by 0.3 standard deviations": lambda random, rows: rows.assign(x0=rows["x0"] + 0.3),
    "standard deviation times 1.5": lambda random, rows: rows.assign(x0=rows["x0"] * 1.5),
    "a new category in 15% of the rows": renamed,
    "15% more missing, where 2% were": emptied,
    "two columns swapped": lambda random, rows: rows.assign(x0=rows["x3"], x3=rows["x0"]),
    "two columns turned by 90 degrees, equal margins": turned,
}


def looks(rows:int) -> list[int]:
    "Rows at each look."
    return np.unique(np.linspace(rows / LOOKS, rows, LOOKS).round().clip(1).astype(int)).tolist()


def followed(profile, window:pd.DataFrame, watches:list) -> list[tuple[int, str]]:
    "For each way to watch: rows at the first alarm and what it was; 0 if there was none."
    from ml_pkg.verdicts import FAULTY, MOVED, check
    so_far, first, start = profile.merged([]), [(0, "")] * len(watches), 0
    for rows in looks(len(window)):
        part = window.iloc[start:rows]
        so_far, start = profile.merged([so_far, profile.count(part, answers(part))]), rows
        for place, watch in enumerate(watches):
            if first[place][0]: continue
            found = check(profile, so_far, watch)
            if found.verdict in (MOVED, FAULTY): first[place] = (rows, found.alarms[0].kind if found.alarms else "fault")
        if all(rows for rows, _ in first): break
    return first


def profile_of(rows:pd.DataFrame):
    from ml_pkg.reference import reference_profile
    return reference_profile(rows, answers(rows))


def watches() -> tuple:
    "The usual one, and one that tolerates nothing."
    from ml_pkg.verdicts import Watch
    return Watch(level=LEVEL), Watch(numbers=0, categories=0, missing=0, dependence=0, level=LEVEL)


def plain_peers(reference:pd.DataFrame, window:pd.DataFrame) -> dict[str, list[bool]]:
    "For each peer, which columns of numbers it flags."
    from scipy.stats import ks_2samp, wasserstein_distance
    flagged:dict[str, list[bool]] = {"KS p < 0.05": [], "PSI > 0.1": [], "Wasserstein > 0.1": []}
    for name in reference.columns:
        if not pd.api.types.is_numeric_dtype(reference[name]) or pd.api.types.is_bool_dtype(reference[name]): continue
        before, now = reference[name].dropna().to_numpy(float), window[name].dropna().to_numpy(float)
        ends = np.unique(np.quantile(before, np.arange(1, 10) / 10))
        one, other = (np.maximum(np.bincount(np.searchsorted(ends, values), minlength=len(ends) + 1) / len(values), 1e-4) for values in (before, now))
        flagged["KS p < 0.05"].append(bool(ks_2samp(before, now).pvalue < 0.05))
        flagged["PSI > 0.1"].append(bool(((other - one) * np.log(other / one)).sum() > 0.1))
        flagged["Wasserstein > 0.1"].append(bool(wasserstein_distance(before, now) / before.std() > 0.1))
    return flagged


def evidently_flags(rows:int, features:int, repetitions:int) -> dict:
    "What Evidently flags by default; runs in its own environment."
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset
    flagged = []
    for repetition in range(repetitions):
        random = np.random.default_rng([SEED, rows, features, repetition])
        reference, window = draw(random, REFERENCE, features), draw(random, rows, features)
        found = Report([DataDriftPreset()]).run(Dataset.from_pandas(window), Dataset.from_pandas(reference)).dict()
        counts = [metric["value"] for metric in found["metrics"] if isinstance(metric["value"], dict) and "count" in metric["value"]]
        flagged.append(counts[0]["count"] / features)
    return {"any": float(np.mean(np.array(flagged) > 0)), "columns": float(np.mean(flagged))}


def evidently(python:Path, rows:int, features:int, repetitions:int) -> str:
    code = f"import sys, json, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, {str(Path(__file__).parent)!r}); import false_alarms; false_alarms.SEED = {SEED}; print(json.dumps(false_alarms.evidently_flags({rows}, {features}, {repetitions})))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode: return f"failed: {done.stderr.strip().splitlines()[-1][:60]}"
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return f"{found['any']:4.0%} ({found['columns']:3.0%})"


def in_a_row(profile, random:np.random.Generator, rows:int, features:int) -> bool:
    "Whether any of a hundred fresh windows is an alarm."
    from ml_pkg.verdicts import FAULTY, MOVED, Watch, check
    for _ in range(100):
        window = draw(random, rows, features)
        if check(profile, profile.count(window, answers(window)), Watch(level=LEVEL, windows=100)).verdict in (MOVED, FAULTY): return True
    return False


def without_drift(rows:int, features:int, chosen:argparse.Namespace, python:Path|None) -> bool:
    "Measure and print one line; whether the bar holds."
    usual, strict, sequences, flagged = [], [], [], {}
    started = time.perf_counter()
    for repetition in range(chosen.repetitions):
        random = np.random.default_rng([SEED, rows, features, repetition])
        if repetition % WINDOWS_OF_EACH == 0: profile = profile_of(reference := draw(random, REFERENCE, features))
        window = draw(random, rows, features)
        (one, _), (other, _) = followed(profile, window, list(watches()))
        usual.append(one > 0)
        strict.append(other > 0)
        if not chosen.without_peers:
            for name, found in plain_peers(reference, window).items(): flagged.setdefault(name, []).append(found)
        if rows <= 1_000 and repetition % WINDOWS_OF_EACH == 0: sequences.append(in_a_row(profile, random, rows, features))
    peers = [f"{np.mean([any(found) for found in each]):4.0%} ({np.mean(each):3.0%})" for each in flagged.values()]
    if python: peers.append(evidently(python, rows, features, min(chosen.repetitions, 3)))
    row = f"{sum(sequences):>5} of {len(sequences):<4}" if sequences else f"{'':13}"
    print(f"{rows:>8,}{features:>5}{sum(usual):>9} of {len(usual):<5}{sum(strict):>9} of {len(strict):<5}{row}" + "".join(f"{each:>19}" for each in peers) + f"   {time.perf_counter() - started:.0f} s", flush=True)
    return np.mean(usual) <= LEVEL and np.mean(strict) <= LEVEL


def with_shift(name:str, shift:Callable, rows:int, features:int, repetitions:int) -> float:
    "Measure and print one line; the share of windows in which the shift was found."
    found = []
    for repetition in range(repetitions):
        random = np.random.default_rng([SEED + 1, rows, features, repetition])
        if repetition % WINDOWS_OF_EACH == 0: profile = profile_of(draw(random, REFERENCE, features))
        found += followed(profile, shift(random, draw(random, rows, features)), list(watches())[:1])
    delays, kinds = [rows for rows, _ in found if rows], [kind for _, kind in found if kind]
    said = f"after {statistics.median(delays):,.0f} rows (median), by {max(set(kinds), key=kinds.count)}" if delays else ""
    print(f"{name:<50}{rows:>8,}{features:>5}{len(delays):>6} of {len(found):<5}{said}", flush=True)
    return len(delays) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100, help="windows in each line (default: 100)")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--features", type=int, nargs="*", default=FEATURES)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--without-shifts", action="store_true")
    import environments
    environments.add_option(parser)
    chosen = parser.parse_args()
    global SEED
    SEED, python = chosen.seed, None
    if not chosen.without_peers:
        pythons, absent = environments.environments({"Evidently": ("evidently", EVIDENTLY)}, chosen.environments, shared=())
        python = pythons.get("Evidently")
        for name, reason in absent.items(): print(f"{name} {reason}")
    print(f"{environments.versions('scipy')}\n\nno drift, {LOOKS} looks at each window\n{'rows':>8}{'cols':>5}{'any alarm':>17}{'tolerance 0':>17}{'100 in a row':>13}" + ("" if chosen.without_peers else f"{'KS p < 0.05':>19}{'PSI > 0.1':>19}{'Wasserstein > 0.1':>19}{'Evidently':>19}"))
    held = [without_drift(rows, features, chosen, python) for rows in chosen.rows for features in chosen.features]
    if not chosen.without_shifts:
        print(f"\nplanted shifts, found in windows\n{'':50}{'rows':>8}{'cols':>5}")
        held += [with_shift(name, shift, 2_000, features, chosen.repetitions) >= 0.9 for name, shift in SHIFTS.items() for features in chosen.features]
        held.append(with_shift("mean by 0.02 standard deviations: none", lambda random, rows: rows.assign(x0=rows["x0"] + 0.02), 100_000, min(chosen.features), max(2, chosen.repetitions // 10)) == 0)
    print(f"\n{'every bar holds' if all(held) else f'{len(held) - sum(held)} of {len(held)} bars do not hold'}")
    sys.exit(not all(held))


if __name__ == "__main__": main()
