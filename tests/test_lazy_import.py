"""`import ml_pkg` costs milliseconds, because what is heavy loads when it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ml_pkg

HEAVY = {"sklearn", "scipy", "pandas", "pyarrow", "joblib", "matplotlib", "skops"}
SOURCES = sorted(Path(ml_pkg.__file__).parent.rglob("*.py"))


def imported(statement:str) -> set[str]:
    "The top-level packages that a fresh process imports for a statement, as Python itself reports them."
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, timeout=60, check=True)
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {name.partition(".")[0] for name in names}


def test_report_sees_what_is_imported():
    "Guards the tests below: what a statement does import is in the report."
    assert {"numpy", "pandas"} <= imported("import pandas")


def test_package_alone_loads_nothing_heavy():
    "Not even numpy."
    loaded = imported("import ml_pkg")
    assert "ml_pkg" in loaded
    assert loaded & (HEAVY | {"numpy", "xxhash", "typer"}) == set()


@pytest.mark.parametrize("statement", ["from ml_pkg import Dataset, Evaluation", "import ml_pkg.cli", "from ml_pkg import Workspace, MlPkgError"])
def test_declaring_loads_no_tables_and_no_learning(statement:str):
    assert imported(statement) & HEAVY == set()


@pytest.mark.parametrize("name", ml_pkg.__all__)
def test_public_name_resolves(name:str):
    "Also through `dir`, which completion uses."
    assert getattr(ml_pkg, name).__name__ == name
    assert name in dir(ml_pkg)


def test_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match="no attribute 'Exprmnt'.*Experiment"): _ = ml_pkg.Exprmnt


def packages_named(source:str) -> set[str]:
    "Top-level packages that a module imports, at any depth of its functions."
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module.partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "_modidx.py"], ids=lambda path: path.name)
def test_no_module_imports_development_tools(path:Path):
    assert packages_named(path.read_text(encoding="utf-8")) & {"nbdev", "fastcore", "execnb", "ghapi", "IPython", "pytest", "hypothesis"} == set()


def test_imports_in_functions_are_found():
    "Guards the test above."
    assert packages_named("def f():\n    from fastcore.test import test_eq\n    import nbdev.export") == {"fastcore", "nbdev"}
