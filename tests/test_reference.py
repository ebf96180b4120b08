"""The reference in nbs/reference has all there is, with words, and no page names a command or an option that there is not."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import PACKAGE

import ml_pkg
from ml_pkg import errors
from ml_pkg.commands import app

ROOT = PACKAGE.parent
PAGES = ROOT / "nbs" / "reference"
pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="the package under test is installed, and not the checkout")

# --- what stands in the pages

@cache
def sections(page:str) -> dict[str, str]:
    "What stands below each heading, by the name in it."
    found = re.split(r"^#{2,4} `?(.+?)`?$", (PAGES / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def words(section:str) -> str:
    "A section without what is made for every name: code, lists, and where it is defined."
    without_code = re.sub(r"^```.*?^```$", "", section, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in without_code.splitlines() if not line.startswith(("- ", "Defined in ", "Named in: ", "Arguments:", "Options:"))).strip()


def without_words(page:str, names:list[str]) -> list[str]: return [name for name in names if len(words(sections(page).get(name, "")).split()) < 2]


def test_section_without_words_is_seen():
    "Guards the tests below."
    assert words("```python\nA()\n```\n\nDefined in [x](y).\n\n- Is a: b\n") == ""
    assert words("```python\nA()\n```\n\nWhat it is.\n\nDefined in [x](y).\n") == "What it is."
    assert without_words("names.md", ["Experiment", "Experimnt"]) == ["Experimnt"]


@cache
def anchors(page:str) -> list[str]: return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("page", ["names.md", "commands.md", "errors.md", "settings.md"])
def test_headings_can_be_linked_to(page:str):
    "No two of them have the same anchor."
    assert sorted(set(anchors(page))) == sorted(anchors(page))


@pytest.mark.parametrize("page", ["names.md", "commands.md", "errors.md", "settings.md"])
def test_links_lead_somewhere(page:str):
    found = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", (PAGES / page).read_text(encoding="utf-8"))
    assert len(found) >= 5
    assert [path for path, _ in found if not (PAGES / path).exists()] == []
    assert [f"{path}#{anchor}" for path, anchor in found if anchor and anchor not in anchors(path or page)] == []


# --- public names

def public_members(kind:type) -> Iterator[str]:
    "Methods and properties of a class and of its bases in the package, as Python has them."
    for base in kind.__mro__:
        if not base.__module__.startswith("ml_pkg."): continue
        yield from (name for name, value in vars(base).items() if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod | cached_property)))


MEMBERS = [f"{name}.{member}" for name in ml_pkg.__all__ if inspect.isclass(getattr(ml_pkg, name)) for member in dict.fromkeys(public_members(getattr(ml_pkg, name)))]


def test_every_public_name_is_documented():
    assert without_words("names.md", ml_pkg.__all__) == []


def test_every_public_method_and_property_is_there():
    assert len(MEMBERS) > 150
    assert [name for name in MEMBERS if name not in sections("names.md")] == []


def test_every_public_method_and_property_is_documented():
    assert without_words("names.md", MEMBERS) == []


# --- commands

def walk(command:Any, name:str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for part, inner in getattr(command, "commands", {}).items(): yield from walk(inner, f"{name} {part}")


COMMANDS = dict(walk(typer.main.get_command(app), "ml_pkg"))


def spelt(parameter:Any) -> list[str]:
    "How a parameter is written: its options, or the placeholder of an argument."
    return [*parameter.opts, *parameter.secondary_opts] if parameter.opts[0].startswith("-") else [parameter.metavar or parameter.name.upper()]


def is_explained(spelling:str, section:str) -> bool: return re.search(rf"^- (?:`[^`]*`, )*`\[?{re.escape(spelling)}(?: [^`]*|…)?\]?`(?:, `[^`]*`)*: \W?\w+\W+\w", section, re.MULTILINE) is not None


def test_every_command_is_documented():
    assert len(COMMANDS) > 30
    assert without_words("commands.md", list(COMMANDS)) == []


def test_every_argument_and_option_is_documented():
    every = [(name, spelling) for name, command in COMMANDS.items() for parameter in command.params for spelling in spelt(parameter)]
    assert len(every) > 100
    assert [(name, spelling) for name, spelling in every if not is_explained(spelling, sections("commands.md").get(name, ""))] == []


def test_option_without_words_is_seen():
    "Guards the test above."
    assert is_explained("-o", "- `--output PATH`, `-o PATH`: A file to write.\n")
    assert is_explained("TAGS", "- `[TAGS…]`: Tags to give it.\n")
    for section in ("- `--output PATH`, `-o PATH`: \n", "- `--only`: What else.\n", "It has `-o`: a file.\n"): assert not is_explained("-o", section)


# --- errors

ERRORS = [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, errors.MlPkgError | Warning)]


def declared_errors() -> list[str]:
    "Classes of other modules whose bases are errors of ours, as they are written."
    found = []
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and path.stem != "errors" and {ast.unparse(base) for base in node.bases} & {*ERRORS, "UserWarning", "Refusal"}: found.append(f"{path.stem}.{node.name}")
    return found


def test_every_error_is_documented():
    assert len(ERRORS) > 15
    assert without_words("errors.md", [*ERRORS, *declared_errors()]) == []


def test_every_error_has_something_to_do():
    assert len(declared_errors()) > 10
    assert [name for name in [*ERRORS, *declared_errors()] if not re.search(r"^- What to do: \w+\W+\w", sections("errors.md")[name], re.MULTILINE)] == []


def test_every_error_of_the_module_for_errors_says_where_it_is_raised():
    silent = [name for name in ERRORS if not re.search(r"^- (Raised|Given) in: \w+ \(`", sections("errors.md")[name], re.MULTILINE)]
    assert silent == ["MlPkgError"]


# --- settings

SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "_modidx.py"]
READ = re.compile(r"""(?:environ(?:ment)?(?:\.(?:get|pop|setdefault)\(|\[)|\bgetenv\()\s*["'](\w+)["']|["'](\w+)["']\s+(?:not\s+)?in\s+(?:os\.|self\.)?environ|\b(ML_PKG_[A-Z_]*[A-Z])\b""")


def variables(text:str) -> set[str]:
    "Those that a source looks up, or that begin as ours do."
    return {name for found in READ.findall(text) for name in found if name}


def test_lookups_are_seen():
    "Guards the test below."
    assert variables('os.environ.get("A"), os.environ["B"], environment.get("C", ""), "D" in os.environ, E = "ML_PKG_F", "G", os.getenv("H")') == {"A", "B", "C", "D", "ML_PKG_F", "H"}


def test_every_variable_that_is_read_is_documented():
    found = set().union(*(variables(path.read_text(encoding="utf-8")) for path in SOURCES))
    assert {"ML_PKG_WORKSPACE", "ML_PKG_TOKENS", "ML_PKG_SMTP_PASSWORD", "MLFLOW_TRACKING_URI"} <= found
    settings = {name for section in sections("settings.md").values() for name in re.findall(r"^- In the environment: `(\w+)`$", section, re.MULTILINE)}
    assert without_words("settings.md", sorted(found - settings)) == []


def test_every_setting_is_documented():
    from ml_pkg.settings import Settings
    names = list(Settings.__dataclass_fields__)
    assert len(names) >= 5
    assert without_words("settings.md", names) == []
    assert [name for name in names if f"`ML_PKG_{name.upper()}`" not in sections("settings.md")[name]] == []


# --- what other pages say of the command line

def documentation() -> Iterator[tuple[str, str]]:
    "Pages of Markdown, and the Markdown of notebooks, by where it stands."
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(PAGES.glob("*.md"))): yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown": yield path.relative_to(ROOT).as_posix(), "".join(cell["source"])


def command_lines(text:str) -> Iterator[str]:
    "What is written to be typed: after a prompt, after &&, or between backticks."
    yield from re.findall(r"^\$ (ml_pkg(?: [^\n]*)?)$", text, re.MULTILINE)
    yield from re.findall(r"&& (ml_pkg [^\n]*)$", text, re.MULTILINE)
    yield from re.findall(r"`(ml_pkg [^`\n]*)`", text)


def complaint(line:str) -> str:
    "What of a command line there is not; nothing, if all is there. What its comment names may belong to any command."
    typed, _, comment = line.partition(" #")
    name, rest = "ml_pkg", re.split(r"&&|[|;]\s", typed)[0].split()[1:]
    known = spellings(COMMANDS[name])
    while rest and (COMMANDS[name].params == [] or name == "ml_pkg" or hasattr(COMMANDS[name], "commands")):
        word = rest.pop(0)
        if word.startswith("-"):
            if word not in known: return f"{name} has no option {word}"
        elif re.fullmatch(r"[a-z][a-z-]*,?", word):
            name = f"{name} {word.rstrip(',')}"
            if name not in COMMANDS: return f"there is no command {name}"
            known = spellings(COMMANDS[name]) | {"--help"}
        else: break
    wrong = [word for word in options_in(" ".join(rest)) if word not in known]
    everywhere = set().union(*map(spellings, COMMANDS.values()), {"--help"})
    wrong += [word for word in options_in(comment) if word not in everywhere]
    return f"{name} has no option {wrong[0]}" if wrong else ""


def spellings(command:Any) -> set[str]: return {spelling for parameter in command.params for spelling in spelt(parameter) if spelling.startswith("-")} | {"--help"}


def options_in(text:str) -> list[str]: return re.findall(r"(?<![\w-])--?[a-z][\w-]*", text)


@pytest.mark.parametrize(("line", "wrong"), [
    ("ml_pkg train module:name --jobs 2", ""), ("ml_pkg --debug train a:b", ""), ("ml_pkg token add shop --per-second 5", ""), ("ml_pkg ui # also: --port", ""), ("ml_pkg --debug …", ""),
    ("ml_pkg trian a:b", "there is no command ml_pkg trian"), ("ml_pkg token give shop", "there is no command ml_pkg token give"), ("ml_pkg --bug train a:b", "ml_pkg has no option --bug"),
    ("ml_pkg train a:b --shadow x", "ml_pkg train has no option --shadow"), ("ml_pkg predict iris rows -q 3", "ml_pkg predict has no option -q"), ("ml_pkg ui # also: --prot", "ml_pkg ui has no option --prot"),
])
def test_wrong_command_lines_are_seen(line:str, wrong:str):
    "Guards the test below."
    assert complaint(line) == wrong


def test_pages_name_only_commands_and_options_that_there_are():
    found = [(place, line) for place, text in documentation() for line in command_lines(text)]
    assert len({place for place, _ in found}) > 15
    assert [f"{place}: {line}: {wrong}" for place, line in found if (wrong := complaint(line))] == []


# --- the pages and the package

@pytest.mark.parametrize(("width", "seed"), [("40", "1"), ("200", "2")])
def test_pages_are_what_the_package_says(width:str, seed:str, tmp_path:Path):
    "On terminals of any width, with hashes of any seed, for any user."
    environment = {**os.environ, "COLUMNS": width, "TERMINAL_WIDTH": width, "PYTHONHASHSEED": seed, "HOME": str(tmp_path), "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "reference.py"), "--check"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
