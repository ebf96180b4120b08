"""Print what is promised of keys and checkpoints, each beside its test, and how many promises there are.

In the notebooks of nbs/api/tests every third-level heading is a promise, and the code under it is its test; in tests/,
every test of the files named below is one. A heading without code under it is an error.
"""

import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITH_PROCESSES = ("test_keys.py", "test_checkpoint_faults.py", "test_remote_checkpoints.py", "test_warm_run.py")


def headings(notebook:Path) -> list[tuple[str, bool]]:
    "Third-level headings, and whether a code cell that checks something comes before the next one."
    found:list[tuple[str, bool]] = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown": found += [(line[4:], False) for line in text.splitlines() if line.startswith("### ")]
        elif found: found[-1] = found[-1][0], found[-1][1] or any(word in text for word in ("test_", "assert", "differ(", "anew(", "damaged(", "same("))
    return found


def tests(path:Path) -> list[str]:
    "The names of a file's test functions, as words."
    return [node.name.removeprefix("test_").replace("_", " ") for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def main() -> None:
    total, untested = 0, []
    for notebook in sorted((ROOT / "nbs" / "api" / "tests").glob("*.ipynb")):
        found = headings(notebook)
        total += len(found)
        untested += [f"{notebook.name}: {heading}" for heading, tested in found if not tested]
        print(notebook.stem.replace("_", " "), *(f"    {heading}" for heading, _ in found), sep="\n")
    for name in WITH_PROCESSES:
        found = tests(ROOT / "tests" / name)
        total += len(found)
        print(f"tests/{name}", *(f"    {test}" for test in found), sep="\n")
    print(f"{total} promises")
    if untested: sys.exit("headings without a test: " + "; ".join(untested))


if __name__ == "__main__": main()
