"""Sweeps on real clusters of two workers each: the same bits as in one process, also when a worker is killed."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_sweep_faults import finished, fitted, swept  # noqa: F401 - a fixture

ON_DASK = """
import os, signal, sys, threading, time
import joblib
from distributed import Client, LocalCluster

def main():
    from swept import sweep
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    client = Client(cluster)
    with joblib.parallel_config(backend="dask", wait_for_workers_timeout=60): run_each(sweep)
    client.close(); cluster.close()
"""

ON_RAY = """
import os, signal, sys, threading, time
import joblib

def main():
    os.environ["RAY_raylet_start_wait_time_s"] = "120"
    from swept import sweep
    import ray
    from ray.util.joblib import register_ray
    for attempt in range(3): # its own processes give each other little time on a busy machine
        try: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.getcwd() + os.pathsep + os.environ.get("PYTHONPATH", "")}})
        except Exception:
            if attempt == 2: sys.exit(77) # it has nothing to do with what is tested here
            ray.shutdown()
        else: break
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2): run_each(sweep)
    ray.shutdown()
"""

RUNNING = """
def run_each(sweep):
    "In a workspace that holds nothing yet, as it is and while a worker is killed; leaves a board and the traces of each."
    for name in ("whole", "killed"):
        os.environ["ML_PKG_WORKSPACE"] = os.path.abspath(name)
        if name == "killed": threading.Thread(target=kill_one, daemon=True).start()
        board = sweep.run()
        board.scores.to_pickle(name + ".pkl")
        os.rename(os.environ["TRACE"], name + ".trace")

def kill_one():
    "Kill the worker that left the last trace, once there are a few."
    def lines():
        try: return open(os.environ["TRACE"]).read().splitlines()
        except FileNotFoundError: return []
    while len(lines()) < 5: time.sleep(0.01)
    os.kill(int(lines()[-1].split()[-1]), signal.SIGKILL)

if __name__ == "__main__": main()
"""


def on_cluster(program:str, folder:Path) -> None:
    "A cluster of its own runs the sweep, twice."
    path = folder / "on_cluster.py" # workers import the main module
    path.write_text(program + RUNNING)
    done = subprocess.run([sys.executable, path], cwd=folder, capture_output=True, text=True, timeout=900)
    if done.returncode == 77: pytest.skip(f"Ray's own processes did not start here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "drew from a global random generator" not in done.stderr


@pytest.mark.parametrize("program", [pytest.param(ON_DASK, id="dask"), pytest.param(ON_RAY, id="ray", marks=pytest.mark.thorough)])
def test_a_cluster_gives_the_same_leaderboard_as_one_process(program:str, swept:Path, tmp_path:Path):  # noqa: F811
    pytest.importorskip("distributed" if program is ON_DASK else "ray")
    expected = finished(swept, tmp_path / "here.pkl", ML_PKG_WORKSPACE=str(tmp_path / "here"))
    (tmp_path / "trace").unlink()
    on_cluster(program, swept)
    for name, again in (("whole", 0), ("killed", 2)):
        pd.testing.assert_frame_equal(pd.read_pickle(swept / f"{name}.pkl"), expected, check_exact=True)
        done = fitted(swept / f"{name}.trace")
        assert len(set(done)) == 2 * 3 + 4 * 3
        assert len(done) - len(set(done)) <= again, done # what a killed worker was at is fitted again, and nothing else
