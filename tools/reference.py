"""Write nbs/reference/, where public names, commands, errors and settings are looked up: `python tools/reference.py`.

With `--check` nothing is written; the exit code is 1 if a page is not what it should be, and what differs is printed. What stands in
the pages comes from the package:

- signatures, comments of arguments and docstrings as they are written in ml_pkg/**/*.py, so every version of Python writes the same;
- commands from the application itself, without its layout, which depends on the width of the terminal;
- what cannot be read there (the order of names, what to do about an error, what a variable is for) from tools/reference.toml.
"""

import ast
import difflib
import functools
import inspect
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from failures import Failure, anchor, failures, is_named, linked, raised
from house import ROOT, Definition, Function, Module, commands
from signatures import (
    Argument,
    answer,
    arguments,
    constructor,
    decorators,
    definition,
    fields,
    members,
    named_variables,
    notebook,
    signature,
    sources,
    words,
)

PAGES = ROOT / "nbs" / "reference"
HEAD = "<!-- made by tools/reference.py: change the docstring, the comment of the argument, the help text or tools/reference.toml, and run it again -->"


@functools.cache
def told() -> dict[str, Any]:
    "What tools/reference.toml says."
    return tomllib.loads((ROOT / "tools" / "reference.toml").read_text(encoding="utf-8"))


def require_same(found:Iterable[str], said:Iterable[str], what:str) -> None:
    "Exit, naming what is there and not told of, or told of and not there, or told of twice."
    found, said = list(found), list(said)
    wrong = {"is missing in": set(found) - set(said), "is not there, and stands in": set(said) - set(found), "stands twice in": {name for name in said if said.count(name) > 1}}
    if any(wrong.values()): sys.exit("\n".join(f"{what} {name} {problem} tools/reference.toml" for problem, names in wrong.items() for name in sorted(names)))


# --- public names

@dataclass(frozen=True)
class Entry:
    "A public name, or a method or property of one."
    name:str      # "Experiment.run"
    module:Module
    node:Definition
    shown:str     # its signature

    @property
    def words(self) -> str:
        "Its docstring, and that of its initialiser."
        initialisers = [node for node in self.node.body if isinstance(node, Function) and node.name == "__init__"] if isinstance(self.node, ast.ClassDef) else []
        return "\n\n".join(filter(None, map(words, [self.node, *initialisers])))


def entry(name:str, module:Module, function:Function) -> Entry:
    "Of a function, method or property."
    is_property = any(each in ("property", "cached_property") for each in decorators(function))
    back = answer(module, function)
    return Entry(name, module, function, f"{name}: {back.text}" if is_property else signature(name, arguments(module, function), back))


@functools.cache
def entries() -> dict[str, list[Entry]]:
    "Every public name, followed by its methods and properties."
    import ml_pkg
    return {name: list(entries_of(name, getattr(ml_pkg, name))) for name in ml_pkg.__all__}


def entries_of(name:str, value:Any) -> Iterator[Entry]:
    "Of a function, or of a class and its members."
    module = sources()[value.__module__.removeprefix("ml_pkg.")]
    node = definition(module, name)
    if isinstance(node, Function): yield entry(name, module, node)
    else:
        yield Entry(name, module, node, signature(name, constructor(value), Argument("")))
        yield from (entry(f"{name}.{part}", place, function) for part, (place, function) in members(value).items())


def names_page() -> Iterator[str]:
    "All public names, by what a reader wants to do."
    groups = told()["groups"]
    require_same(entries(), [name for group in groups for name in group["names"]], "the public name")
    yield "# Public names\n\nAll are imported from `ml_pkg`: `from ml_pkg import Experiment`. Methods and properties stand below their class."
    yield "\n".join(f"- [{group['title']}](#{anchor(group['title'])}): {', '.join(f'[`{name}`](#{anchor(name)})' for name in group['names'])}" for group in groups)
    for group in groups:
        yield f"## {group['title']}\n\n{group['says']}"
        for name in group["names"]: yield from texts_of(entries()[name])


def texts_of(found:list[Entry]) -> Iterator[str]:
    "A name and its members, each under a heading."
    first, *parts = found
    yield f"### `{first.name}`\n\n{paragraphs(first)}\n\nDefined in {notebook(first.module, first.node)}."
    for each in parts: yield f"#### `{each.name}`\n\n{paragraphs(each)}" + ("" if each.module == first.module else f"\n\nDefined in {notebook(each.module, each.node)}.")


def paragraphs(found:Entry) -> str:
    "Signature and docstring."
    return f"```python\n{found.shown}\n```\n\n{linked(found.words)}".rstrip()


# --- errors

def errors_page() -> Iterator[str]:
    "All errors and warnings."
    require_same(failures(), told()["remedies"], "the error")
    require_same([key for key in told()["handled"] if key in failures()], told()["handled"], "the error")
    yield ("# Errors\n\nWhat a user can cause and mend is a `MlPkgError`, and the builtin error that fits as well. A message says what failed, what was found, what is there, and what to do.\n\n"
           "On the command line an error is one line, and the exit code is 2; `ml_pkg --debug …` shows the whole traceback. A warning is one line as well, and the command goes on. "
           "Errors with a module in front of their name are imported from there: `from ml_pkg.promotion import PromotionRefused`; the others from `ml_pkg.errors`.")
    yield "\n".join(f"- [`{key}`](#{anchor(key)}): {each.words.partition('. ')[0].rstrip('.')}" for key, each in failures().items())
    for key, each in failures().items(): yield f"## `{key}`\n\n{each.words}\n\n" + "\n".join(facts(each))


def facts(failure:Failure) -> Iterator[str]:
    "What is known of an error, a line each."
    yield f"- What to do: {told()['remedies'][failure.key]}"
    yield f"- Is a: {', '.join(f'`{base}`' for base in failure.bases)}"
    yield f"- {ending(failure)}"
    named = [each.name for found in entries().values() for each in found if is_named(failure, each.words)]
    if named: yield f"- Documented at: {', '.join(f'[`{name}`](names.md#{anchor(name)})' for name in named)}"
    if places := raised()[failure.key]: yield f"- {'Given' if failure.is_warning else 'Raised'} in: {'; '.join(f'{name} ({listed(found)})' for name, found in places.items())}"
    yield f"- Defined in {notebook(failure.module, failure.node)}"


def ending(failure:Failure) -> str:
    "What becomes of it where nobody catches it."
    if handled := told()["handled"].get(failure.key): return handled
    if failure.is_answered: return "At a server: the answer to a request, with `status` as the status of HTTP"
    return f"On the command line: {'a line that begins with `warning:`' if failure.is_warning else 'exit code 2'}"


def listed(names:list[str]) -> str:
    "Names as code, in one line."
    return ", ".join(f"`{name}`" for name in names)


# --- commands

NEEDED = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: ""} # what follows an option


def declared(command:Any, parameter:Any) -> tuple[Any, Any]:
    "The type of a parameter, and what the command says of it; of those that every application has, a flag and nothing."
    found = inspect.signature(command.callback).parameters.get(parameter.name) if command.callback else None
    if found is None: return bool, None
    annotation, info = typing.get_args(found.annotation)
    if isinstance(annotation, types.UnionType): annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
    return (typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation), info


def is_argument(parameter:Any) -> bool:
    "Whether a parameter is known by its place, and not by its name."
    return not parameter.opts[0].startswith("-")


def placeholder(parameter:Any) -> str:
    "An argument as a usage line shows it: in brackets, if it may be left out."
    name = parameter.metavar or parameter.name.upper()
    name = f"{name}…" if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def usage(name:str, command:Any) -> str:
    "As it is typed."
    if getattr(command, "commands", None): return f"{name} [OPTIONS] COMMAND" if command.params else f"{name} COMMAND"
    parts = [name, *(placeholder(each) for each in command.params if is_argument(each))]
    return " ".join([*parts, "[OPTIONS]"] if any(not is_argument(each) for each in command.params) else parts)


def parameter_text(command:Any, parameter:Any) -> str:
    "A line for an argument or an option."
    kind, info = declared(command, parameter)
    if is_argument(parameter): return f"- `{placeholder(parameter)}`: {parameter.help}{default_of(parameter)}"
    value = parameter.metavar or NEEDED[kind]
    names = [*parameter.opts, *parameter.secondary_opts]
    return f"- {', '.join(f'`{name} {value}`'.replace(' `', '`') for name in names)}: {parameter.help}{bounds(info)}{default_of(parameter)}{' Required.' if parameter.required else ''}"


def bounds(info:Any) -> str:
    "The least and the most of a number, if there are any."
    low, high = getattr(info, "min", None), getattr(info, "max", None)
    if low is None and high is None: return ""
    return f" From {low} to {high}." if low is not None and high is not None else f" {low} or more." if high is None else f" {high} or less."


def default_of(parameter:Any) -> str:
    "Nothing, if leaving it out is no value: empty, false, none at all, or not shown in the help either."
    value = parameter.default
    if not parameter.show_default or parameter.required or value in (None, "", False, ()): return ""
    return f" Default: `{parameter.opts[0] if value is True else value}`."


@functools.cache
def all_commands() -> dict[str, Any]:
    "Every command and group, by its full name."
    import typer

    from ml_pkg.commands import app
    return dict(commands(typer.main.get_command(app), "ml_pkg"))


def commands_page() -> Iterator[str]:
    "All commands."
    found = all_commands()
    yield ("# Commands\n\nEvery command has `--help`. Options of `ml_pkg` itself stand before the command: `ml_pkg --debug train …`.\n\n"
           "The exit code is 0 if all went well, 2 for an error that you can mend or a word that is not understood, 130 if it was interrupted, and 1 for anything else, and where the text of a command says so. With `--debug` an error ends in its traceback, and the code is 1.")
    yield "\n".join(f"- [`{name}`](#{anchor(name)}): {command.help.partition('. ')[0].rstrip('.')}" for name, command in found.items())
    for name, command in found.items(): yield f"## `{name}`\n\n{command.help}\n\n```console\n$ {usage(name, command)}\n```" + "".join(parameters_of(command))


def parameters_of(command:Any) -> Iterator[str]:
    "What a command takes."
    for title, some in (("Arguments", [each for each in command.params if is_argument(each)]), ("Options", [each for each in command.params if not is_argument(each) and not each.hidden])):
        if some: yield f"\n\n{title}:\n\n" + "\n".join(parameter_text(command, each) for each in some)


# --- settings

@functools.cache
def settings() -> dict[str, str]:
    "The entries of the section [ml_pkg], and what they are for."
    from ml_pkg.settings import Settings
    return {each.text.partition(":")[0]: each.comment for each in fields(Settings)}


@functools.cache
def variables() -> dict[str, list[str]]:
    "What is named of the environment, but for settings."
    return {name: places for name, places in named_variables().items() if name not in {f"ML_PKG_{each.upper()}" for each in settings()}}


def settings_page() -> Iterator[str]:
    "Entries of settings.ini, and variables."
    require_same(settings(), told()["settings"], "the setting")
    require_same(variables(), told()["variables"], "the variable")
    yield "# Settings\n\nWhat is set outside of the code: in the section `[ml_pkg]` of the project's `settings.ini`, and in the environment, which has the last word. An empty variable switches an entry off. A word that is not a setting is refused."
    yield f"## In settings.ini\n\nDefined in {notebook(sources()['settings'], definition(sources()['settings'], 'Settings'))}."
    for name, comment in settings().items(): yield f"### `{name}`\n\n{comment[:1].upper()}{comment[1:]}.\n\n- As it is written: {told()['settings'][name]}\n- In the environment: `ML_PKG_{name.upper()}`"
    yield "## In the environment alone"
    for name, text in told()["variables"].items(): yield f"### `{name}`\n\n{text}\n\nNamed in: {listed(variables()[name])}."


# --- the pages

def pages() -> dict[str, str]:
    "The text of each page, by the name of its file."
    made = {"names": names_page, "commands": commands_page, "errors": errors_page, "settings": settings_page}
    links = " · ".join(f"[{name}]({name}.md)" for name in made)
    return {f"{name}.md": "\n\n".join([HEAD, f"Reference: {links}", *page()]) + "\n" for name, page in made.items()}


def difference(name:str, found:str, expected:str) -> str:
    "From a page as it is to what it should be."
    return "".join(difflib.unified_diff(found.splitlines(keepends=True), expected.splitlines(keepends=True), f"nbs/reference/{name}", "the package"))


def check() -> str:
    "What differs; nothing, if the pages are what they should be."
    there = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.md"))}
    expected = pages()
    return "".join(difference(name, there.get(name, ""), expected.get(name, "")) for name in sorted({*there, *expected}))


def main() -> None:
    if "--check" not in sys.argv[1:]:
        PAGES.mkdir(exist_ok=True)
        for name, text in pages().items(): (PAGES / name).write_text(text, encoding="utf-8")
    elif found := check(): sys.exit(f"{found}\nnbs/reference is not what the package says: run `python tools/reference.py`")


if __name__ == "__main__": main()
