"""Production is exploration: a model is declared once, in a notebook, and explored, trained and used from there."""
__version__ = "0.1.0"

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_pkg.addresses import find_model as find_model
    from ml_pkg.api import create_app as create_app
    from ml_pkg.candidates import Better as Better
    from ml_pkg.candidates import NotWorse as NotWorse
    from ml_pkg.checkpoints import Checkpoints as Checkpoints
    from ml_pkg.checkpoints import NoCheckpoints as NoCheckpoints
    from ml_pkg.dataset import Dataset as Dataset
    from ml_pkg.errors import MlPkgError as MlPkgError
    from ml_pkg.evaluation import Evaluation as Evaluation
    from ml_pkg.experiment import Experiment as Experiment
    from ml_pkg.gates import EnoughRows as EnoughRows
    from ml_pkg.gates import FairAcross as FairAcross
    from ml_pkg.gates import Gates as Gates
    from ml_pkg.gates import Latency as Latency
    from ml_pkg.gates import ModelSize as ModelSize
    from ml_pkg.gates import NoFindings as NoFindings
    from ml_pkg.gates import SameInputs as SameInputs
    from ml_pkg.held_out import Holdout as Holdout
    from ml_pkg.held_out import InTraffic as InTraffic
    from ml_pkg.history import runs as runs
    from ml_pkg.leaderboard import Leaderboard as Leaderboard
    from ml_pkg.logged_predictions import read_feedback as read_feedback
    from ml_pkg.logged_predictions import read_log as read_log
    from ml_pkg.mlflow_sink import from_registry as from_registry
    from ml_pkg.model import Model as Model
    from ml_pkg.monitor import Monitor as Monitor
    from ml_pkg.persistence import Joblib as Joblib
    from ml_pkg.persistence import Pickle as Pickle
    from ml_pkg.persistence import Skops as Skops
    from ml_pkg.registry import Version as Version
    from ml_pkg.registry import alias as alias
    from ml_pkg.registry import models as models
    from ml_pkg.registry import registry_history as registry_history
    from ml_pkg.registry import retire as retire
    from ml_pkg.registry import versions as versions
    from ml_pkg.remote import Remote as Remote
    from ml_pkg.run import Run as Run
    from ml_pkg.run import load_run as load_run
    from ml_pkg.search import Halving as Halving
    from ml_pkg.search import Optuna as Optuna
    from ml_pkg.search import Parameter as Parameter
    from ml_pkg.search import Random as Random
    from ml_pkg.search import Rows as Rows
    from ml_pkg.sources import CSV as CSV
    from ml_pkg.sources import SQL as SQL
    from ml_pkg.sweep import Sweep as Sweep
    from ml_pkg.sweep import compare as compare
    from ml_pkg.verdicts import Watch as Watch
    from ml_pkg.way_back import rollback as rollback
    from ml_pkg.window_report import Worse as Worse
    from ml_pkg.workspace import Workspace as Workspace
    from ml_pkg.workspace import temporary_workspace as temporary_workspace

# Public names and the modules they are in. They load when they are used: `import ml_pkg` alone costs milliseconds.
_PUBLIC = {
    "Dataset": "dataset", "CSV": "sources", "SQL": "sources", "Evaluation": "evaluation", "Experiment": "experiment", "Model": "model",
    "Run": "run", "runs": "history", "load_run": "run", "compare": "sweep", "Sweep": "sweep", "Leaderboard": "leaderboard",
    "Halving": "search", "Rows": "search", "Parameter": "search", "Random": "search", "Optuna": "search",
    "Checkpoints": "checkpoints", "NoCheckpoints": "checkpoints", "Remote": "remote", "Skops": "persistence", "Joblib": "persistence", "Pickle": "persistence",
    "Version": "registry", "models": "registry", "versions": "registry", "registry_history": "registry", "alias": "registry", "retire": "registry", "rollback": "way_back", "find_model": "addresses",
    **dict.fromkeys(("NotWorse", "Better"), "candidates"), **dict.fromkeys(("Holdout", "InTraffic"), "held_out"), **dict.fromkeys(("Gates", "SameInputs", "NoFindings", "Latency", "ModelSize", "FairAcross", "EnoughRows"), "gates"),
    "Monitor": "monitor", "Worse": "window_report", "Watch": "verdicts",
    "read_log": "logged_predictions", "read_feedback": "logged_predictions", "create_app": "api",
    "from_registry": "mlflow_sink", "Workspace": "workspace", "temporary_workspace": "workspace", "MlPkgError": "errors",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC: raise AttributeError(f"module 'ml_pkg' has no attribute '{name}'. Public names: {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(f"ml_pkg.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]: return sorted([*globals(), *_PUBLIC])
