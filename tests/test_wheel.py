"""What is no Python is in what is installed: the templates, stylesheet and script of the pages, and the data."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import PACKAGE

ROOT = PACKAGE.parent
BUILD = "import setuptools, sys; sys.argv = ['setup.py', '--quiet', 'sdist', 'bdist_wheel']; exec(open('setup.py').read(), {'__file__': 'setup.py', '__name__': '__main__'})"
RENDER = "import ml_pkg.pages as pages; print(pages.__file__); print(len(pages.FILES['/style.css'][1]), pages.rendered('problem', title='Not there', message='x', here='', root='', pages=(), whose='flowers'))"
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="the package under test is installed, and not the checkout")


@pytest.fixture(scope="module")
def built(tmp_path_factory:pytest.TempPathFactory) -> tuple[Path, set[str]]:
    "An unpacked wheel, built from what an sdist holds, and the names of what is in the checkout and is no Python. The step of .ci/run that builds a wheel looks as well, where these tools are not installed."
    pytest.importorskip("setuptools")
    pytest.importorskip("wheel")
    folder = tmp_path_factory.mktemp("built")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"): shutil.copy(ROOT / name, folder / name)
    shutil.copytree(PACKAGE, folder / "ml_pkg", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True, timeout=120)
    source = next((folder / "dist").glob("*.tar.gz"))
    shutil.unpack_archive(source, folder / "source")
    subprocess.run([sys.executable, "-c", BUILD], cwd=next((folder / "source").iterdir()), check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next((folder / "source").glob("*/dist/*.whl"))) as wheel: wheel.extractall(folder / "installed")
    return folder / "installed", {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_everything_is_in_the_wheel(built:tuple[Path, set[str]]):
    installed, expected = built
    assert {"templates/layout.html", "templates/style.css", "templates/page.js", "data/iris.csv", "py.typed"} <= expected
    assert {path.relative_to(installed / "ml_pkg").as_posix() for path in (installed / "ml_pkg").rglob("*") if path.is_file() and path.suffix != ".py"} == expected


def test_pages_are_rendered_from_the_wheel(built:tuple[Path, set[str]], tmp_path:Path, monkeypatch:pytest.MonkeyPatch):
    pytest.importorskip("jinja2")
    monkeypatch.setenv("PYTHONPATH", str(built[0]))
    done = subprocess.run([sys.executable, "-c", RENDER], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith(str(built[0])) and "<h1>Not there</h1>" in done.stdout, done.stderr
