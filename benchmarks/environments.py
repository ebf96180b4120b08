"""Virtual environments for the peers of a benchmark, so that none of them is ever installed beside ml_pkg."""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SHARED = ("scikit-learn", "numpy", "pandas", "joblib", "threadpoolctl") # are of the same version everywhere
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def environment(name:str, requirements:list[str], folder:Path, shared:tuple[str, ...]=SHARED) -> Path:
    "The Python of an environment; this one's, if nothing is required. Makes it, if it is not there as required. Raises CalledProcessError."
    if not requirements: return Path(sys.executable)
    required = [*requirements, *(f"{each}=={importlib.metadata.version(each)}" for each in shared)]
    home, made = folder/name, folder/name/"required.json"
    python = home/"bin"/"python"
    if made.exists() and json.loads(made.read_text()) == required: return python
    print(f"installing {' '.join(required)} in {str(home).replace(str(Path.home()), '~')}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True, text=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *required], check=True, capture_output=True, text=True)
    made.write_text(json.dumps(required))
    return python


def environments(required:dict[str, tuple[str, list[str]]], folder:Path, shared:tuple[str, ...]=SHARED) -> tuple[dict[str, Path], dict[str, str]]:
    "For each contestant, given the name of its environment and what that requires: its Python, or why it cannot be installed."
    found, absent = {}, {}
    for contestant, (name, requirements) in required.items():
        try: found[contestant] = environment(name, requirements, folder, shared)
        except subprocess.CalledProcessError as error: absent[contestant] = f"cannot be installed: {last_line(error.stderr)}"
    return found, absent


def last_line(text:str) -> str: return (text.strip().splitlines() or ["nothing was printed"])[-1]


def versions(*others:str) -> str:
    "Python and the packages that are shared, in a line."
    return ", ".join([f"Python {sys.version.split()[0]}", *(f"{each} {importlib.metadata.version(each)}" for each in (*SHARED, *others)), f"{os.cpu_count()} cores, one BLAS and one OpenMP thread"])


def add_option(parser:argparse.ArgumentParser) -> None:
    "`--environments`: where they are kept."
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home()/".cache"))/"ml_pkg-benchmarks"
    parser.add_argument("--environments", type=Path, default=cache, help=f"where the virtual environments are kept (default: {cache})")
