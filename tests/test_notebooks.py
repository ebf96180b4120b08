"Notebooks that nbdev_test runs one after another in one process must not meet there."
import ast
import importlib.util
import json
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent

def imported(source):
    "The packages that a cell imports, by their first names."
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import): yield from (each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split(".")[0]

def is_made(package):
    "It is neither installed nor one of the optional dependencies: the notebook itself has written it."
    return importlib.util.find_spec(package) is None and not re.search(rf"\b{package}\b", (ROOT/"pyproject.toml").read_text("utf-8") + (ROOT/"settings.ini").read_text("utf-8"))

def test_packages_that_notebooks_make_have_names_of_their_own():
    "A second package of the same name is not imported: `sys.modules` still holds the first, whose folder is gone."
    makers = defaultdict(set)
    for path in (ROOT/"nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in path.parts: continue
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or source.startswith("%%"): continue
            for package in filter(is_made, imported(source)): makers[package].add(path.relative_to(ROOT).as_posix())
    assert makers, "no notebook makes a package, so this looked at nothing"
    assert {package: paths for package, paths in makers.items() if len(paths) > 1} == {}

def pages():
    "What people read: the text of notebooks, and the pages beside them."
    for path in [*(ROOT/"nbs").rglob("*.ipynb"), *(ROOT/"nbs").rglob("*.md"), *ROOT.glob("*.md")]:
        if ".ipynb_checkpoints" in path.parts: continue
        text = path.read_text("utf-8")
        yield path, "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown") if path.suffix == ".ipynb" else text

def test_links_between_pages_lead_somewhere():
    "A notebook that gets another number takes its links along."
    links = [(path, link) for path, text in pages() for link in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", text) if ":" not in link]
    assert len(links) > 100
    assert [f"{path.relative_to(ROOT)}: {link}" for path, link in links if not (path.parent/link).exists()] == []
