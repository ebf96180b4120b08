"""A promotion as somebody in JupyterLab sees it: explored in one notebook, and the cell of another is what was found. In a real browser."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from conftest import CHROMIUM
from test_jupyterlab import Lab, start_browser, start_lab, write_notebook
from test_promotion import PACKAGE, environment, run

pytestmark = pytest.mark.skipif(not (CHROMIUM and shutil.which("chromedriver")), reason="Chromium and its driver are not installed (on Debian: apt-get install chromium chromium-driver)")

EXPLORED = "from flowers.experiments.flowers import flowers\nstronger = flowers.replace(logisticregression__C=10.0)\nrun = stronger.run()\nprint('explored', run.summary['accuracy'])"
PROMOTED = "stronger.promote(why='seen in the lab')"


def cells_of(path:Path) -> list[str]: return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]


def run_all(lab:Lab) -> None:
    "The button with two arrows, and yes to what it asks."
    lab.press("restart-run-all")
    lab.wait(lambda: lab.browser.execute_script("const yes = document.querySelector('.jp-Dialog .jp-mod-accept'); yes?.click(); return yes !== null"), "the question")
    lab.wait(lambda: lab.browser.execute_script("return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].every(each => /\\d/.test(each.textContent))") and lab.state == "Idle", "the end of all cells", seconds=90)


def text_of(lab:Lab) -> str: return lab.browser.execute_script("return [...document.querySelectorAll('.jp-Notebook .jp-Cell')].map(each => each.textContent).join('\\n')")


@pytest.mark.thorough
def test_the_cell_of_production_is_what_was_explored(tmp_path:Path, monkeypatch:pytest.MonkeyPatch):
    shutil.copy(PACKAGE / "data" / "iris.csv", tmp_path / "iris.csv")
    run(tmp_path, "ml_pkg", "new", "flowers", "--csv", "iris.csv", "--yes")
    project = tmp_path / "flowers"
    write_notebook(project / "explored.ipynb", EXPLORED, PROMOTED)
    for name, value in environment(project).items(): monkeypatch.setenv(name, value)
    process, address = start_lab(project, tmp_path)
    browser = start_browser(tmp_path / "browser")
    try:
        production = project / "nbs/experiments/flowers.ipynb"
        count = len(cells_of(production))
        lab = Lab(browser, f"{address}/lab/tree/nbs/experiments/flowers.ipynb?reset", cells=count)
        run_all(lab)
        assert "C=10.0" not in text_of(lab) and "Error" not in text_of(lab)

        lab = Lab(browser, f"{address}/lab/tree/explored.ipynb?reset", cells=2)
        run_all(lab)
        assert "in production" in lab.output(1), lab.output(1)
        assert "C=10.0" in lab.output(1) and "answers" in lab.output(1)
        explored = re.search(r"explored \(([\d.e-]+)", lab.output(0))[1]

        lab = Lab(browser, f"{address}/lab/tree/nbs/experiments/flowers.ipynb?reset", cells=count)
        assert "LogisticRegression(max_iter=1000, C=10.0)" in text_of(lab) # what it shows before anything runs
        run_all(lab)
        assert "Error" not in text_of(lab) and f"{float(explored):.4f}" in text_of(lab), text_of(lab)
    finally:
        browser.quit()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert "max_iter=1000, C=10.0" in production.read_text()
