"""Every tutorial and explanation from top to bottom in JupyterLab, in a real browser: no error, nothing wider than the page, bars that end.

Each time one of them is opened; ML_PKG_PAGES=all opens all, ML_PKG_PAGES="03_checkpoints 11_a_year" those that are named.
ML_PKG_PICTURES names a folder for pictures of what is seen, in the light theme and in the dark one.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PACKAGE, waited
from test_jupyterlab import CHROMIUM, DRIVER, start_browser, start_lab

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and its driver are not installed (on Debian: apt-get install chromium chromium-driver)")

NOTEBOOKS = PACKAGE.parent / "nbs"
ALL = [path.relative_to(NOTEBOOKS).as_posix() for folder in ("tutorials", "explanations") for path in sorted((NOTEBOOKS / folder).glob("*.ipynb"))]
WANTED = os.environ.get("ML_PKG_PAGES", "04_sweeps_and_honest_scores")
PAGES = ALL if WANTED == "all" else [page for page in ALL if Path(page).stem in WANTED.split()]
assert PAGES, f"ML_PKG_PAGES={WANTED}: there is none of these. What there is: all, {', '.join(Path(page).stem for page in ALL)}"
PICTURES = os.environ.get("ML_PKG_PICTURES", "")

CELLS = """
const done = arguments[arguments.length - 1], panel = window.jupyterapp.shell.currentWidget
const cells = [...panel.content.model.cells].filter(cell => cell.type === 'code')
done(JSON.stringify({
    state: panel.sessionContext.session?.kernel?.status ?? '',
    asked: cells.filter(cell => cell.sharedModel.source.trim()).length,
    ran: cells.filter(cell => cell.executionCount !== null && cell.executionState !== 'running').length,
    errors: cells.flatMap(cell => cell.outputs.toJSON()).filter(output => output.output_type === 'error').map(output => output.ename + ': ' + output.evalue),
}))
"""
WIDER = """
return [...document.querySelectorAll('.jp-OutputArea-output')]
    .filter(output => output.scrollWidth > output.clientWidth + 1) // what has a bar of its own to scroll by is no wider
    .map(output => output.outerHTML.slice(0, 200))
"""
BARS = "return [...document.querySelectorAll('.jp-OutputArea-output [role=progressbar]')].map(bar => bar.getAttribute('aria-valuenow'))"


class Page:
    "A notebook in JupyterLab, all of whose cells are in the page."
    def __init__(self, browser:Any, address:str):
        self.browser = browser
        browser.set_script_timeout(60)
        browser.get(address)
        waited(lambda: browser.execute_script("return window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"), "kernel", 120)

    @property
    def cells(self) -> dict[str, Any]: return json.loads(self.browser.execute_async_script(CELLS))

    def run(self, seconds:float) -> dict[str, Any]:
        "Run all cells; what came of them."
        self.browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return waited(lambda: (found := self.cells)["state"] == "idle" and (found["ran"] == found["asked"] or found["errors"]) and found, "end of all cells", seconds, lambda: f": {self.cells}")

    def photograph(self, name:str) -> None:
        "What is seen, one screen after the other."
        height = self.browser.execute_script("const outer = document.querySelector('.jp-WindowedPanel-outer'); outer.scrollTop = 0; return outer.scrollHeight")
        for number, top in enumerate(range(0, height, 1400)):
            self.browser.execute_script("document.querySelector('.jp-WindowedPanel-outer').scrollTop = arguments[0]", top)
            self.browser.save_screenshot(f"{PICTURES}/{name}-{number:02}.png")


@pytest.fixture(params=["JupyterLab Light", "JupyterLab Dark"] if PICTURES else ["JupyterLab Light"], ids=lambda theme: theme.split()[-1].lower())
def lab(request:pytest.FixtureRequest, tmp_path:Path, monkeypatch:pytest.MonkeyPatch) -> Iterator[tuple[str, Any, str]]:
    "Where JupyterLab shows a copy of the notebooks, a browser, and which theme it has."
    for name in ("MPLBACKEND", "ML_PKG_WORKSPACE", "NO_COLOR"): monkeypatch.delenv(name, raising=False)
    shutil.copytree(NOTEBOOKS, tmp_path / "checkout" / "nbs")
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(PACKAGE.parent / name, tmp_path / "checkout" / name)
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"})) # all cells are in the page, also those that are not in sight
    process, address = start_lab(tmp_path / "checkout" / "nbs", tmp_path, "--LabApp.expose_app_in_browser=True", theme=request.param)
    try:
        browser = start_browser(tmp_path / "browser")
        try: yield address, browser, request.param.split()[-1].lower()
        finally: browser.quit()
    finally:
        process.send_signal(signal.SIGTERM) # it takes its kernels along
        process.wait(timeout=30)


@pytest.mark.parametrize("page", PAGES)
def test_it_runs_from_top_to_bottom_and_fits_the_page(lab:tuple[str, Any, str], page:str):
    address, browser, theme = lab
    shown = Page(browser, f"{address}/lab/tree/{page}")
    assert shown.run(seconds=300)["errors"] == []
    if PICTURES: shown.photograph(f"{Path(page).stem}-{theme}")
    assert browser.execute_script(WIDER) == []
    assert set(browser.execute_script(BARS)) <= {"100"}
