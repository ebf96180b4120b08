"""What a user of JupyterLab sees of a sweep: a bar that moves, a table and pictures, and after *stop* a bar that goes on. In a real browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import CHROMIUM, TRACE, answers, free_port, make_project, traces, waited

DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and its driver are not installed (on Debian: apt-get install chromium chromium-driver)")

DECLARED = TRACE + """
import sys, time
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from ml_pkg import Dataset, Evaluation, Experiment

class Slow(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        time.sleep(0.4)
        self.mean_ = X.mean(axis=0)
        trace("slow", y.index[:40].to_numpy().sum())
        return self
    def transform(self, X): return X - self.mean_

class Last(LogisticRegression):
    def fit(self, X, y):
        time.sleep(0.4)
        super().fit(X, y)
        trace(f"C={self.C}", y.index[:40].to_numpy().sum())
        return self

flowers = Experiment("flowers", Dataset("iris.csv", target="species"), make_pipeline(Slow(), Last(max_iter=1000)), Evaluation(3, ["accuracy", "f1_macro"]))
sweep = flowers.vary(last__C=[0.001, 0.01, 0.1, 1.0, 10.0, 100.0])
print("python", sys.executable)
"""
SWEPT = "board = sweep.run(n_jobs=2)\nboard"
DRAWN = ["board.plot();", "board.plot.pareto();"]
FITS = 3 + 6 * 3 # the slow step once in each fold, and six variants in each
TOOLBAR = ".jp-NotebookPanel-toolbar [data-command='notebook:{}']"


class Lab:
    "A notebook in JupyterLab, in a browser, as a person sees it."
    def __init__(self, browser:Any, address:str, cells:int):
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self._script("return document.querySelectorAll('.jp-Notebook .jp-Cell').length") == cells and self.state == "Idle", "notebook and kernel", seconds=120)

    @property
    def state(self) -> str:
        "Of the kernel, as the status bar has it: Initializing, Idle, Busy, …; empty as long as there is none."
        return self._script("return document.querySelector('#jp-main-statusbar')?.innerText.match(/[|] (\\w+)/)?.[1] ?? ''")

    def press(self, command:str) -> None: self._find(TOOLBAR.format(command)).click()
    def output(self, cell:int) -> str: return self._script(f"return {self._cell(cell)}.querySelector('.jp-Cell-outputArea')?.textContent ?? ''")
    def count(self, cell:int, selector:str) -> int: return self._script(f"return {self._cell(cell)}.querySelectorAll(arguments[0]).length", selector)

    def select(self, cell:int) -> None:
        self._script(f"{self._cell(cell)}.scrollIntoView({{block: 'center'}})")
        self._find(f".jp-Notebook .jp-Cell[data-windowed-list-index='{cell}'] .jp-InputPrompt").click()

    def bar(self, cell:int) -> tuple[int, str] | None:
        "Percent and words of the bar, if there is one."
        return self._script(f"const bar = {self._cell(cell)}.querySelector('[role=progressbar]'); return bar && [Number(bar.getAttribute('aria-valuenow')), bar.nextElementSibling.textContent]")

    def picture(self, cell:int) -> tuple[int, int] | None:
        "Width and height of the picture below a cell as the page shows it, if there is one that has been drawn."
        return self._script(f"const image = {self._cell(cell)}.querySelector('.jp-OutputArea img'); return image?.naturalWidth ? [image.width, image.height] : null")

    def wait(self, condition:Callable[[], Any], what:str, seconds:float=60) -> Any:
        "What the condition gives, as soon as that is true."
        return waited(condition, what, seconds, lambda: f"; the page shows:\n{self._script('return document.body.innerText')}")

    def _cell(self, cell:int) -> str: return f"document.querySelector('.jp-Notebook .jp-Cell[data-windowed-list-index=\"{cell}\"]')"
    def _script(self, script:str, *arguments) -> Any: return self.browser.execute_script(script, *arguments)

    def _find(self, selector:str) -> Any:
        from selenium.webdriver.common.by import By
        return self.browser.find_element(By.CSS_SELECTOR, selector)


def write_notebook(path:Path, *cells:str) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)), metadata={"kernelspec": kernel}), path)


def own_settings(folder:Path, theme:str="JupyterLab Light") -> dict[str, str]:
    "An environment in which JupyterLab reads and writes nothing of the user's, and asks no server for news."
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    places = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    return {**os.environ, **{name: str(folder / place) for name, place in places.items()}}


def start_lab(root:Path, folder:Path, *more:str, **options) -> tuple[subprocess.Popen, str]:
    "JupyterLab on a folder, with more flags, and its address."
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    flags = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "token": "", "password": "", "root_dir": root, "allow_root": True}
    log = (folder / "lab.log").open("w")
    process = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", *(f"--ServerApp.{name}={value}" for name, value in flags.items()), *more], env=own_settings(folder, **options), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not answers(f"{address}/api/status"):
        assert process.poll() is None and time.monotonic() < until, (folder / "lab.log").read_text()
        time.sleep(0.1)
    return process, address


def start_browser(folder:Path) -> Any:
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync", "window-size=1280,1600", f"user-data-dir={folder}"]
    for flag in flags: options.add_argument(f"--{flag}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture
def lab(tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Iterator[Lab]:
    "The notebook `sweep.ipynb`, of four cells, in a project folder; nothing of it has run."
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.delenv("MPLBACKEND", raising=False) # the kernel's own, which draws into the page
    project = make_project(tmp_path / "project")
    write_notebook(project / "sweep.ipynb", DECLARED.strip(), SWEPT, *DRAWN)
    process, address = start_lab(project, tmp_path)
    try:
        browser = start_browser(tmp_path / "browser")
        try: yield Lab(browser, f"{address}/lab/tree/sweep.ipynb", cells=4)
        finally: browser.quit()
    finally:
        process.send_signal(signal.SIGTERM) # it takes its kernels along
        process.wait(timeout=30)


def test_a_sweep_is_seen_stopped_and_goes_on(lab:Lab, tmp_path:Path):
    declared, swept, *drawn = range(4)
    lab.select(declared)
    lab.press("run-cell-and-select-next")
    lab.wait(lambda: "python" in lab.output(declared), "output of the first cell")
    assert lab.output(declared).split() == ["python", sys.executable]

    lab.press("run-cell-and-select-next")
    first = lab.wait(lambda: lab.bar(swept), "bar")
    assert "of 6 variants" in first[1]
    later = lab.wait(lambda: (now := lab.bar(swept)) and now[0] >= max(40, first[0] + 1) and now, "bar that has moved")
    assert later[0] < 100 and later[1] != first[1] and "best so far" in later[1] and "left" in later[1]

    lab.press("interrupt-kernel")
    lab.wait(lambda: "KeyboardInterrupt" in lab.output(swept) and lab.state == "Idle", "KeyboardInterrupt")
    assert "stopped; what is done is kept, and running it again goes on from there" in lab.output(swept)
    assert lab.bar(swept) is None and lab.count(swept, "table") == 0
    before = traces(tmp_path / "trace")
    assert 5 <= len(before) < FITS

    lab.select(swept)
    for _ in (swept, *drawn): lab.press("run-cell-and-select-next")
    lab.wait(lambda: lab.bar(swept), "bar of the second run")
    lab.wait(lambda: lab.count(swept, "table"), "leaderboard")
    said = lab.output(swept)
    assert "KeyboardInterrupt" not in said and "done: 6 of 6 variants (" in said and " known)" in said and " 0 reused" not in said
    assert lab.count(swept, "table tr") == 1 + 6 and "best of 6 tried" in said and "baseline" in said
    for cell in drawn: # each of them is shown, not only the first
        width, height = lab.wait(lambda cell=cell: lab.picture(cell), f"picture of {DRAWN[cell - 2]}", seconds=30)
        assert 400 < width < 1000 and 150 < height < 800

    again = traces(tmp_path / "trace")[len(before):]
    assert len(set(before)) == len(before) and len(set(again)) == len(again) and len({*before, *again}) == FITS
    assert len({*before} & {*again}) <= 2 # of each worker, a step that was done and not yet kept when *stop* was pressed
