"""The page of a watched model in a real browser: from `ml_pkg ui`, and from the server that answers for the model."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import CLI, Site, followed, needs_browser, opened, serving, waited, web_pages
from watched import HOSTILE

pytestmark = pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "orjson", "httptools", "prometheus_client", "jinja2"])), reason="what a server needs is not installed: pip install 'ml_pkg[serve]'")


def watched(workspace:Path, days:int) -> None:
    "Two weeks of traffic and looks, up to some day, made in a process of its own."
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("watched.py")), str(days)], env={**os.environ, "ML_PKG_WORKSPACE": str(workspace)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory:pytest.TempPathFactory) -> Iterator[Site]:
    workspace = tmp_path_factory.mktemp("watched") / "workspace"
    watched(workspace, 14)
    with web_pages(workspace, {}) as site: yield site


@needs_browser
def test_the_story_is_told(chromium:Any, site:Site):
    with opened(chromium, site.address) as tab:
        tab.goto("/watched")
        followed(tab, tab.get_by_role("link", name="buyers"))
        text = tab.inner_text("main")
        assert "answers have moved" in tab.inner_text("h1") and "town: unseen" in tab.inner_text("[role=status]")
        assert "7 were refusals and 2 were failures" in text and "Version 7 answered beside it in this window: the shadow answered 800 rows, 100.0% of them as production did" in text
        assert tab.locator("figure svg .curve.measured").count() == 2 and tab.locator("figure svg .curve.estimated").count() == 2 and tab.locator("svg .curve.failed").count() == 1
        cells = tab.locator("table.heat tr", has=tab.get_by_role("link", name="age", exact=True)).locator("td")
        assert cells.count() == 14 and [cell.inner_text().strip() == "●" for cell in cells.all()] == [True] * 4 + [False] * 10
        followed(tab, cells.first.get_by_role("link"))
        text = tab.inner_text("main")
        assert tab.inner_text("h1") == "age" and "moved by" in text and tab.locator("svg rect.now").count() == 14
        followed(tab, tab.get_by_role("navigation", name="Looks").get_by_role("link").last)
        assert "moved" not in tab.inner_text("dd >> nth=0")
        followed(tab, tab.get_by_role("link", name="buyers").first)
        followed(tab, tab.get_by_role("link", name="town", exact=True))
        assert "another one" in tab.inner_text("main")


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_everybody(chromium:Any, site:Site, scheme:str, width:int):
    from axe_playwright_python.sync_playwright import Axe
    with opened(chromium, site.address, viewport={"width": width, "height": 900}, color_scheme=scheme) as tab:
        for address in ("/watched", "/watched/buyers", "/watched/buyers/thing?thing=age", "/watched/buyers/thing?thing=town"):
            tab.goto(address)
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
            assert not [(address, each["id"], each["nodes"][0]["html"]) for each in Axe().run(tab).response["violations"] if each["impact"] in ("serious", "critical")]


@needs_browser
def test_what_a_column_is_called_is_text(chromium:Any, site:Site):
    with opened(chromium, site.address, java_script_enabled=False) as tab:
        tab.goto("/watched/buyers")
        followed(tab, tab.get_by_role("link", name=HOSTILE, exact=True))
        assert tab.inner_text("h1") == HOSTILE and tab.locator("main script").count() == 0
        missing, misspelt = tab.request.get(f"{site.address}/watched/nobody"), tab.request.get(f"{site.address}/watched/buyers/thing?thing=agge")
        assert (missing.status, misspelt.status) == (404, 404) and "Did you mean &#39;age&#39;" in misspelt.text()


@needs_browser
@pytest.mark.thorough
def test_it_is_kept_up_to_date_without_the_network(chromium:Any, tmp_path:Path, workspace:Path):
    watched(workspace, 10)
    with web_pages(workspace, {}) as site, opened(chromium, site.address) as tab:
        tab.goto("/watched/buyers")
        assert "alarm" not in tab.inner_text("h1") and tab.locator("[role=status]").count() == 0
        tab.evaluate("window.isTheSame = true")
        watched(tmp_path / "later", 14)
        shutil.rmtree(workspace / "watched")
        shutil.copytree(tmp_path / "later" / "watched", workspace / "watched")
        waited(lambda: tab.locator("[role=status]").count() == 1, "alarm", 20)
        assert tab.evaluate("window.isTheSame") and "town: unseen" in tab.inner_text("[role=status]")


@needs_browser
def test_a_server_shows_it_and_asks_for_a_token(chromium:Any, site:Site, tmp_path:Path, monkeypatch:pytest.MonkeyPatch):
    monkeypatch.setenv("ML_PKG_WORKSPACE", str(site.workspace))
    with serving(tmp_path, "buyers", "--no-log") as server, opened(chromium, f"http://127.0.0.1:{server.port}", color_scheme="dark") as tab:
        tab.goto("/dashboard")
        assert "answers have moved" in tab.inner_text("h1")
        followed(tab, tab.get_by_role("link", name="age", exact=True))
        assert tab.url.endswith("/dashboard/thing?thing=age") and tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    secret = subprocess.run([*CLI, "token", "add", "ada"], capture_output=True, text=True, check=True).stdout.split()
    secret = next(word for word in secret if word.startswith("mlp_"))
    with serving(tmp_path, "buyers", "--no-log") as server:
        address, basic = f"http://127.0.0.1:{server.port}", {"authorization": f"Basic {base64.b64encode(f'anybody:{secret}'.encode()).decode()}"}
        context = chromium.new_context()
        assert [context.request.get(f"{address}{path}", headers=headers).status for path, headers in (("/dashboard", {}), ("/dashboard", basic), ("/model", basic))] == [401, 200, 401]
        context.close()
        context = chromium.new_context(http_credentials={"username": "anybody", "password": secret})
        tab = context.new_page()
        assert tab.goto(f"{address}/dashboard").status == 200 and tab.locator("svg.chart").count() > 3
        context.close()
