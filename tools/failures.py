"""The errors and warnings of the package, and the functions that make them."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from house import Function, Module
from signatures import arguments, sources, words

@dataclass(frozen=True)
class Failure:
    "A class of errors or warnings."
    module:Module
    node:ast.ClassDef

    @property
    def name(self) -> str: return self.node.name

    @property
    def key(self) -> str:
        "Its name; with its module, if that is not the one for errors."
        return self.name if self.module.name == "errors" else f"{self.module.name}.{self.name}"

    @property
    def bases(self) -> list[str]: return [ast.unparse(base) for base in self.node.bases]

    @property
    def is_warning(self) -> bool: return "UserWarning" in self.bases

    @property
    def words(self) -> str: return words(self.node)

    @property
    def is_answered(self) -> bool:
        "Whether it has a status of HTTP, since a server answers with it."
        return any(isinstance(node, Function) and node.name == "__init__" and any(each.text.startswith("status:") for each in arguments(self.module, node)) for node in self.node.body)


@functools.cache
def failures() -> dict[str, Failure]:
    "Every public subclass of `MlPkgError`, and every warning; those of the module for errors first."
    classes = [Failure(module, node) for module in sources().values() for node in module.tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    known = {"MlPkgError", "UserWarning"}
    while more := {each.name for each in classes if known.intersection(each.bases)} - known: known |= more
    found = [each for each in classes if each.name == "MlPkgError" or known.intersection(each.bases)]
    return {each.key: each for each in sorted(found, key=lambda each: each.module.name != "errors")}


def linked(text:str) -> str:
    "A docstring with a link from each error that it names. A name that two errors have leads nowhere."
    keys:dict[str, list[str]] = {}
    for key, each in failures().items(): keys.setdefault(each.name, []).append(key)
    return re.sub(r"`(\w+)`", lambda found: f"[{found[0]}](errors.md#{anchor(keys[found[1]][0])})" if len(keys.get(found[1], [])) == 1 else found[0], text)


def is_named(failure:Failure, text:str) -> bool:
    "Whether a docstring leads to an error."
    return f"`{failure.name}`" in text and f"(errors.md#{anchor(failure.key)})" in linked(text)


def anchor(heading:str) -> str:
    "What a link to a heading ends with."
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def meanings(module:Module) -> dict[str, str]:
    "Which error a name of a module stands for."
    here = {each.name: key for key, each in failures().items() if each.module == module}
    for node in ast.walk(module.tree):
        for alias in node.names if isinstance(node, ast.ImportFrom) and node.module else ():
            origin = (node.module or "").removeprefix("ml_pkg.")
            key = alias.name if origin == "errors" else f"{origin}.{alias.name}"
            if key in failures(): here[alias.asname or alias.name] = key
    return here


def outer_functions(module:Module) -> Iterator[tuple[str, Function]]:
    "Functions and methods, without those inside of others."
    for node in module.tree.body:
        if isinstance(node, Function): yield node.name, node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, Function): yield f"{node.name}.{inner.name}", inner


def made(function:Function) -> set[str]:
    "Names that a function raises, calls or warns with."
    called = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    places = [*(node.func for node in called), *(part for node in called if ast.unparse(node.func).endswith("warn") for part in node.args),
              *(part.elts[0] for node in called if ast.unparse(node.func).endswith(".append") for part in node.args if isinstance(part, ast.Tuple) and part.elts), # to be warned with, by whoever reads the list
              *(node.exc for node in ast.walk(function) if isinstance(node, ast.Raise))]
    return {name.id for place in places if isinstance(place, ast.Name | ast.IfExp) for name in ast.walk(place) if isinstance(name, ast.Name)}


@functools.cache
def raised() -> dict[str, dict[str, list[str]]]:
    "For each error, the functions of each module that make it."
    found:dict[str, dict[str, list[str]]] = {key: {} for key in failures()}
    for module in sources().values():
        here = meanings(module)
        for name, function in outer_functions(module):
            for key in sorted({here[each] for each in made(function) if each in here}): found[key].setdefault(module.name, []).append(name)
    return found
