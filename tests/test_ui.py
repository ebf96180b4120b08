"""The pages of `ml_pkg ui` in a real browser, served by the command line: filtered, sorted, opened, compared and watched; nothing foreign gets in, and nothing goes out."""

import http.client
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import CLI, Site, followed, needs_browser, opened, waited, web_pages

from ml_pkg.store import annotate, connected, record
from ml_pkg.workspace import Workspace

COMMAND = [*CLI, "ui"]
needs_server = pytest.mark.skipif(not all(map(find_spec, ["fastapi", "uvicorn", "jinja2"])), reason="fastapi, uvicorn and jinja2 are not installed: pip install 'ml_pkg[ui]'")
pytestmark = needs_server

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\'{{7*7}}</td></table></pre> Ωμέγα 🌸'
SLOW = """
import time
from sklearn.linear_model import LogisticRegression
from ml_pkg import Dataset, Evaluation, Experiment

class Slow(LogisticRegression):
    def fit(self, X, y):
        time.sleep(0.3)
        return super().fit(X, y)

slow = Experiment("slow", Dataset("iris.csv", target="species"), Slow(max_iter=1000), Evaluation(3, ["accuracy"]))
slow.vary(C=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]).run()
"""


def recorded(connection:Any, name:str, score:float, **values) -> str:
    "A run of which only the record exists; its id."
    run = {"experiment": name, "status": "finished", "started": "2025-11-26T04:22:03.000000+00:00", "seconds": 1.0, "origin": "notebook", **values}
    failed = run["status"] == "failed"
    return record(connection, run, metrics=[] if failed else [{"metric": "accuracy", "place": 0}], scores=[] if failed else [{"metric": "accuracy", "fold": fold, "value": score} for fold in range(2)])


@pytest.fixture(scope="module")
def site(tmp_path_factory:pytest.TempPathFactory) -> Iterator[Site]:
    "A workspace with 110 plain records, some that a user filled with the worst, and real runs."
    folder = tmp_path_factory.mktemp("site") / "workspace"
    with connected(Workspace(folder)) as connection:
        for _ in range(110): recorded(connection, "plain", 0.5)
        worst = {"place": HOSTILE, "source": HOSTILE, "estimator": HOSTILE, "dataset": HOSTILE, "dataset_rows": 3, "comparable": "x", "key": "k1", "held_out": 0.5, "train_size": 1.0}
        ids = {"hostile": recorded(connection, HOSTILE, 0.4, **worst), "long": recorded(connection, "long" + "ß" * 10_000, 0.3, dataset="d" * 10_000),
               "broken": recorded(connection, HOSTILE, 0.0, status="failed", error=HOSTILE * 100, traceback=HOSTILE * 100)}
        for kind in ("note", "tag"): annotate(connection, ids["hostile"], kind, HOSTILE, "x" * 10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ML_PKG_WORKSPACE", str(folder))
        from ml_pkg.experiments.iris import iris
        first = iris.run().star().tag("production")
        second = iris.replace(selectkbest__k=3).run().tag("candidate").note("as the botanists asked")
        with pytest.raises(ValueError): iris.replace(logisticregression__C=-1.0).run()
        ids |= {"first": first.id, "second": second.id, "reused": iris.run().id}
    with web_pages(folder, ids) as site: yield site


def rows(tab:Any) -> list[str]: return tab.eval_on_selector_all("[data-rows] tbody tr", "rows => rows.map(row => row.dataset.run)")


def follow(tab:Any, role:str, name:str) -> None:
    "Click something that leads to another page, and be there."
    followed(tab, tab.get_by_role(role, name=name).first)


def ask(tab:Any, condition:str) -> None:
    tab.fill("#where", condition)
    with tab.expect_navigation(wait_until="load"): tab.press("#where", "Enter")


@needs_browser
def test_runs_are_filtered_sorted_opened_and_compared(chromium:Any, site:Site):
    with opened(chromium, site.address) as tab:
        tab.goto("/")
        assert len(rows(tab)) == 100 and rows(tab)[0] == site.ids["reused"]
        follow(tab, "link", "Next 100")
        assert len(rows(tab)) == 17 and "101 to 117 of 117" in tab.inner_text("main")

        tab.goto("/")
        ask(tab, "accuracy > 0.9 and not reused")
        assert set(rows(tab)) == {site.ids["first"], site.ids["second"]} and tab.input_value("#where") == "accuracy > 0.9 and not reused"
        follow(tab, "link", "accuracy") # the head of the column
        assert rows(tab)[0] == site.ids["second"] and tab.get_attribute("th[aria-sort]", "aria-sort") == "descending"
        follow(tab, "link", "accuracy")
        assert rows(tab)[0] == site.ids["first"] and tab.get_attribute("th[aria-sort]", "aria-sort") == "ascending"

        tab.get_by_role("button", name="Compare").click() # with nothing ticked
        assert "Tick two runs to compare" in tab.inner_text("#picked")
        for box in tab.query_selector_all("tbody input[type=checkbox]"): box.check()
        follow(tab, "button", "Compare")
        assert tab.url.endswith(f"/compare?a={site.ids['first']}&b={site.ids['second']}") and "selectkbest.k" in tab.inner_text("main") and "may be luck" in tab.inner_text("main")

        follow(tab, "link", site.ids["second"])
        text = tab.inner_text("main")
        assert "as the botanists asked" in text and "candidate" in text and "logisticregression__max_iter" in text and "scikit-learn" in text
        follow(tab, "link", "candidate")
        assert rows(tab) == [site.ids["second"]]

        ask(tab, "accurcy > 0.9")
        assert "Did you mean 'accuracy'?" in tab.inner_text("#problem") and tab.get_attribute("#where", "aria-invalid") == "true"
        follow(tab, "link", "failed")
        assert len(rows(tab)) == 2 and "must be a float in the range" in tab.inner_text("tbody")
        follow(tab, "link", "iris")
        assert tab.query_selector("svg.chart circle.best") and "logisticregression__C=-1.0" in tab.inner_text("main")
        follow(tab, "link", "leaderboard")
        assert "best of 2 tried" in tab.inner_text("main") and "cannot be told from the best" in tab.inner_text("main") and "baseline" in tab.inner_text("main")


@needs_browser
def test_the_keyboard_is_enough(chromium:Any, site:Site):
    with opened(chromium, site.address) as tab:
        tab.goto("/?where=" + quote("experiment == 'iris'"))
        def focused() -> str: return tab.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")
        tab.keyboard.press("Tab")
        assert focused() == "Skip to the content"
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.id") == "main"
        tab.keyboard.press("/")
        assert focused() == "where"
        tab.keyboard.type("/jk") # in the box they are letters
        assert tab.input_value("#where") == "/jk"
        tab.keyboard.press("Escape")
        shown = rows(tab)
        for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
            tab.keyboard.press(key)
            assert focused() == shown[place]
        tab.keyboard.press("x")
        assert tab.evaluate("document.querySelector('input:checked').value") == shown[1]
        tab.keyboard.press("Enter")
        tab.wait_for_url(f"**/runs/{shown[1]}")


@needs_browser
def test_no_script_is_needed(chromium:Any, site:Site):
    with opened(chromium, site.address, java_script_enabled=False) as tab:
        tab.goto("/")
        tab.fill("#where", "experiment == 'iris' and status == 'finished' and not reused")
        follow(tab, "button", "Filter")
        assert tab.locator("tbody tr").count() == 2
        for box in tab.locator("tbody input").all(): box.check()
        follow(tab, "button", "Compare")
        assert "selectkbest.k" in tab.inner_text("main")


def pages_of(site:Site) -> list[str]:
    ids = site.ids
    return ["/", "/?where=starred", "/?where=accurcy", "/?where=seconds%20%3C%200", f"/runs/{ids['second']}", f"/runs/{ids['broken']}", f"/runs/{ids['hostile']}", f"/compare?a={ids['first']}&b={ids['second']}", "/experiments", "/experiments/iris", "/leaderboard/iris", "/checkpoints"]


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_read_by_everybody(chromium:Any, site:Site, scheme:str, width:int):
    from axe_playwright_python.sync_playwright import Axe
    axe, found = Axe(), []
    with opened(chromium, site.address, viewport={"width": width, "height": 900}, color_scheme=scheme) as tab:
        for address in pages_of(site):
            tab.goto(address)
            assert tab.get_attribute("html", "lang") == "en" and tab.title().endswith("· ml_pkg")
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
            found += [(address, each["id"], each["nodes"][0]["html"]) for each in axe.run(tab).response["violations"] if each["impact"] in ("serious", "critical")]
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not found
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@needs_browser
def test_what_users_wrote_is_text(chromium:Any, site:Site):
    ids = site.ids
    with opened(chromium, site.address) as tab:
        for address in ("/", f"/?where={quote(repr(HOSTILE))}%20in%20tags", f"/?where={quote('x' * 3000)}%3C%3E", f"/runs/{ids['hostile']}", f"/runs/{ids['broken']}", f"/runs/{ids['long']}", f"/compare?a={ids['hostile']}&b={ids['broken']}", "/experiments", f"/experiments/{quote(HOSTILE, safe='')}", f"/leaderboard/{quote(HOSTILE, safe='')}"):
            tab.goto(address)
            assert tab.evaluate("document.querySelectorAll('img:not([src^=\"data:image/\"]), main script').length") == 0, address
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
            if ids["long"] not in address and "xxx" not in address: assert HOSTILE[:30] in tab.inner_text("main"), address # long names are cut
        tab.goto("/")
        ask(tab, f"id == '{ids['long']}'")
        follow(tab, "link", "longß") # an address of 60,000 characters
        assert "1 run" in tab.inner_text("main")


@needs_browser
def test_a_running_sweep_is_followed(chromium:Any, tmp_path:Path, project:Path, workspace:Path):
    (project / "slow.py").write_text(SLOW)
    with web_pages(workspace, {}) as site, opened(chromium, site.address) as tab:
        tab.goto("/")
        assert "Nothing has run in this workspace yet." in tab.inner_text("main")
        tab.evaluate("window.isTheSame = true")
        sweep = subprocess.Popen([sys.executable, "slow.py"], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            first = waited(lambda: rows(tab), "rows")
            assert sweep.poll() is None and len(first) < 8 # it is still running
            tab.evaluate("document.querySelector('tbody tr').isTheSame = true")
            tab.locator("tbody input").first.check()
            tab.locator("tbody a[data-row]").first.focus()
            seen = {len(first)}
            waited(lambda: seen.add(len(rows(tab))) or len(rows(tab)) == 8, "eight rows")
        finally: sweep.wait(timeout=60)
        assert len(seen) > 2 # they came one after the other
        assert tab.evaluate("window.isTheSame") # without loading the page again
        row = f"document.querySelector('tr[data-run=\"{first[0]}\"]')"
        assert tab.evaluate(f"{row}.isTheSame && {row}.querySelector('input').checked && {row}.contains(document.activeElement) && document.activeElement.matches('a')")
        assert rows(tab).index(first[0]) > 0 and "8 runs, the newest first" in tab.inner_text("caption")
        assert re.fullmatch(r"\d+ runs were recorded in the last minute\.", tab.inner_text("#recent"))


def answer(site:Site, method:str="GET", path:str="/", headers:tuple=()) -> http.client.HTTPResponse:
    "What the server says to a request with these headers and no others."
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers: connection.putheader(name, value)
    connection.endheaders()
    found = connection.getresponse()
    found.text = found.read().decode()
    connection.close()
    return found


def test_only_this_machine_is_answered(site:Site):
    ours = f"127.0.0.1:{site.port}"
    for host, status in {ours: 200, f"localhost:{site.port}": 200, f"[::1]:{site.port}": 200, "127.0.0.1": 421, f"127.0.0.1:{site.port + 1}": 421, f"evil.example:{site.port}": 421, f"127.0.0.1.evil.example:{site.port}": 421, f"0.0.0.0:{site.port}": 421}.items():
        assert answer(site, headers=(("Host", host),)).status == status, host
    assert answer(site, headers=(("Host", ours), ("Host", "evil.example"))).status in (400, 421)
    for origin, status in {f"http://{ours}": 200, "http://evil.example": 403, "null": 403, f"https://{ours}": 403, f"http://localhost:{site.port}": 403}.items():
        assert answer(site, headers=(("Host", ours), ("Origin", origin))).status == status, origin
    for method, status in {"HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "PATCH": 405, "OPTIONS": 405, "CONNECT": 405}.items():
        assert answer(site, method, headers=(("Host", ours), ("Content-Length", "0"))).status == status, method


def test_every_answer_says_what_a_browser_may_do(site:Site):
    ours = (("Host", f"127.0.0.1:{site.port}"),)
    for path, status in {"/": 200, "/style.css": 200, "/page.js": 200, "/pulse": 200, "/health": 200, "/nothing": 404, "/runs/zzzz": 404, "/runs/..%2f..%2fetc%2fpasswd": 404, "/?where=1%20%2B": 400, "/?page=x": 400, f"/compare?run={site.ids['first']}": 400}.items():
        found = answer(site, path=path, headers=ours)
        assert found.status == status, path
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert [found.headers[name] for name in ("x-content-type-options", "referrer-policy", "cache-control")] == ["nosniff", "no-referrer", "no-store"] and not found.headers["access-control-allow-origin"] and not found.headers["server"]
        assert "Traceback" not in found.text and str(site.workspace) not in found.text, path
    assert answer(site, "POST", headers=(("Host", "evil.example"),)).headers["x-content-type-options"] == "nosniff"


def test_looking_changes_nothing(site:Site):
    def content() -> dict[str, bytes]: return {str(path): path.read_bytes() for path in sorted(site.workspace.rglob("*")) if path.is_file()}
    before = content()
    for path in pages_of(site): assert answer(site, path=path, headers=(("Host", f"127.0.0.1:{site.port}"),)).status in (200, 400)
    assert content() == before


@pytest.mark.parametrize("words, message", [(["--host", "0.0.0.0"], "--others-may-read"), (["--host", "::"], "--others-may-read"), (["--host", "nowhere.invalid", "--others-may-read"], "nothing can be served")])
def test_an_address_that_should_not_or_cannot_be_served_is_refused(words:list[str], message:str):
    done = subprocess.run([*COMMAND, "--no-open", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run([*COMMAND, "--no-open", "--port", str(taken.getsockname()[1])], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "Another port" in done.stderr and len(done.stderr.splitlines()) == 1
