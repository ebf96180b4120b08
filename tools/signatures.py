"""How functions and classes of the package are written: their arguments with types, defaults and comments, and their docstrings.

All is read from ml_pkg/**/*.py and shown as it is written there, so it is the same in every version of Python.
"""

import ast
import functools
import importlib
import inspect
import re
import sys
import tokenize
import typing
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path

from house import ROOT, Definition, Function, Module, modules

WIDEST = 110 # characters of a signature in one line

sys.path.insert(0, str(ROOT)) # a default may be a constant, whose value is shown


# --- definitions

@functools.cache
def sources() -> dict[str, Module]:
    "The modules of the package, by name."
    return {module.name: module for module in modules()}


@functools.cache
def comments(module:Module) -> dict[int, str]:
    "The comment of each line that has one, for readers: of `noqa: B008 - a value: how many` the end."
    with tokenize.open(module.path) as file: return {token.start[0]: re.sub(r"^noqa\b[^-]*(- [^:]*)?(: |$)", "", token.string.lstrip("# ")) for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT}


def notebook(module:Module, node:Definition) -> str:
    "A link to the notebook that a definition is exported from: the last `# %%` above it names it."
    path = next(match[1] for line in reversed(module.lines[:node.lineno]) if (match := re.match(r"# %% \.\./nbs/(\S+\.ipynb)", line)))
    return f"[{Path(path).stem}](../{path})"


def definition(module:Module, name:str) -> Definition:
    "A function or class of a module."
    return next(node for node in module.tree.body if isinstance(node, Definition) and node.name == name)


def words(node:Definition) -> str:
    "A docstring without its indentation."
    return inspect.cleandoc(ast.get_docstring(node) or "")


def written(module:Module, node:ast.expr) -> str:
    "An expression in one line."
    return " ".join((ast.get_source_segment(module.text, node) or "").split())


def type_text(module:Module, node:ast.expr|None) -> str:
    "An annotation, without the quotes that only Python needs."
    return written(module, node).replace('"', "") if node else ""


def default_text(module:Module, node:ast.expr) -> str:
    "As it is written; of a constant of the module its value, if that is a number or a text."
    value = getattr(importlib.import_module(f"ml_pkg.{module.name}"), node.id, None) if isinstance(node, ast.Name) and node.id.isupper() else None
    return repr(value) if isinstance(value, int | float | str) else written(module, node) if hasattr(node, "lineno") else ast.unparse(node)


@dataclass(frozen=True)
class Argument:
    "An argument as a reader should see it."
    text:str         # with type and default; "*" for what stands between positions and names
    comment:str = ""


def argument(module:Module, name:str, annotation:ast.expr|None, default:ast.expr|None, comment:str) -> Argument:
    "With type and default."
    typed = f"{name}: {type_text(module, annotation)}" if annotation else name
    return Argument(f"{typed} = {default_text(module, default)}" if default else typed, comment)


def arguments(module:Module, function:Function) -> list[Argument]:
    "All but the first of a method, and those that begin with an underscore."
    found = function.args
    placed = [*found.posonlyargs, *found.args]
    defaults = dict(zip(reversed([each.arg for each in placed]), reversed(found.defaults), strict=False)) | {each.arg: default for each, default in zip(found.kwonlyargs, found.kw_defaults, strict=True) if default}
    stars = [("*", found.vararg)] if found.vararg or found.kwonlyargs else []
    listed = [*(("", each) for each in placed), *stars, *(("", each) for each in found.kwonlyargs), *([("**", found.kwarg)] if found.kwarg else [])]
    shown = [(star, each) for star, each in listed if each is None or each.arg not in ("self", "cls") and not each.arg.startswith("_")]
    after = {place: shown[place + 1][1] for place in range(len(shown) - 1)}
    return [argument(module, star + each.arg, each.annotation, defaults.get(each.arg), comment_of(module, function, each, after.get(place))) if each else Argument("*") for place, (star, each) in enumerate(shown)]


def comment_of(module:Module, function:Function, argument:ast.arg, following:ast.arg|None) -> str:
    "In the signature, on the line of an argument, if it is the last one there. Where what comes back stands on that line as well, the comment is of the argument."
    is_last = following is None or following.lineno > argument.lineno
    is_signature = argument.lineno < function.body[0].lineno
    return comments(module).get(argument.lineno, "") if is_last and is_signature else ""


def answer(module:Module, function:Function) -> Argument:
    "What comes back, with its comment."
    if not function.returns: return Argument("")
    given = function.args
    is_alone = all(each.lineno < function.returns.lineno for each in [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))] if each.arg not in ("self", "cls"))
    is_signature = function.returns.lineno < function.body[0].lineno
    return Argument(type_text(module, function.returns), comments(module).get(function.returns.lineno, "") if is_signature and is_alone else "")


def signature(name:str, given:list[Argument], back:Argument) -> str:
    "One line if it is short and there is nothing to say of its arguments, else an argument a line."
    arrow = f" -> {back.text}" if back.text else ""
    line = f"{name}({', '.join(each.text for each in given)}){arrow}"
    if not any(each.comment for each in [*given, back]) and len(line) <= WIDEST: return line
    if not given: return with_comments([Argument(line, back.comment)])
    inner = [Argument(f"    {each.text},", each.comment) for each in given]
    return f"{name}(\n{with_comments([*inner, Argument(f'){arrow}', back.comment)])}"


def with_comments(lines:list[Argument]) -> str:
    "Lines with their comments below each other."
    width = max((len(each.text) for each in lines if each.comment and len(each.text) < 60), default=0)
    return "\n".join(f"{each.text:{width}}  # {each.comment}" if each.comment else each.text for each in lines)


# --- classes

def own(kind:type) -> Iterator[tuple[Module, ast.ClassDef]]:
    "A class of the package and its bases that are of the package, each where it is written."
    for each in kind.__mro__:
        if each.__module__.startswith("ml_pkg."):
            module = sources()[each.__module__.removeprefix("ml_pkg.")]
            yield module, typing.cast(ast.ClassDef, definition(module, each.__name__))


def is_shown(function:Function) -> bool:
    "Public, or an operator that says what it does."
    if not function.name.startswith("_"): return "overload" not in decorators(function)
    return function.name.startswith("__") and bool(words(function)) and function.name not in ("__init__", "__post_init__")


def decorators(function:Function) -> list[str]:
    "Their last names."
    return [ast.unparse(each).rpartition(".")[2] for each in function.decorator_list]


def members(kind:type) -> dict[str, tuple[Module, Function]]:
    "The public methods and properties of a class, its own first."
    found:dict[str, tuple[Module, Function]] = {}
    for module, node in own(kind):
        for inner in node.body:
            if isinstance(inner, Function) and is_shown(inner): found.setdefault(inner.name, (module, inner))
    return found


def constructor(kind:type) -> list[Argument]:
    "The arguments of a class: of its initialiser, or its fields."
    for module, node in own(kind):
        for inner in node.body:
            if isinstance(inner, Function) and inner.name == "__init__": return arguments(module, inner)
    return fields(kind) if is_dataclass(kind) or hasattr(kind, "_fields") else []


def fields(kind:type) -> list[Argument]:
    "Of a dataclass or a named tuple, bases first."
    found = {node.target.id: (module, node) for module, body in reversed(list(own(kind))) for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_")}
    asked = {name: field_options(node) for name, (_, node) in found.items()}
    by_place = [name for name, options in asked.items() if "kw_only" not in options]
    by_name = [name for name in asked if name not in by_place]
    def shown(name:str) -> Argument:
        module, node = found[name]
        return argument(module, name, node.annotation, asked[name].get("default"), comments(module).get(node.end_lineno or node.lineno, ""))
    return [*map(shown, by_place), *([Argument("*")] if by_name else []), *map(shown, by_name)]


def field_options(node:ast.AnnAssign) -> dict[str, ast.expr]:
    "What `field(…)` says of a field, or its plain default."
    if not isinstance(node.value, ast.Call) or ast.unparse(node.value.func) != "field": return {"default": node.value} if node.value else {}
    options = {each.arg: each.value for each in node.value.keywords if each.arg}
    return {"default": ast.Call(options["default_factory"], [], []), **options} if "default_factory" in options else options


# --- the environment

def looked_up(node:ast.AST) -> str | None:
    "The variable that an expression looks up in the environment."
    match node:
        case ast.Call(func=ast.Name(id="getenv") | ast.Attribute(attr="getenv"), args=[ast.Constant(value=str(name)), *_]): return name
        case ast.Call(func=ast.Attribute(value=place, attr="get" | "setdefault" | "pop"), args=[ast.Constant(value=str(name)), *_]): pass
        case ast.Subscript(value=place, slice=ast.Constant(value=str(name))): pass
        case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()], comparators=[place]): pass
        case _: return None
    return name if ast.unparse(place).endswith(("environ", "environment")) else None


def named_variable(node:ast.AST) -> str | None:
    "A text that is the name of a variable of ours or of MLflow's."
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch("(ML_PKG|MLFLOW)_[A-Z_]+", node.value) else None


def named_variables() -> dict[str, list[str]]:
    "Every variable of the environment that the package names, and the modules that do."
    found:dict[str, list[str]] = {}
    for module in sources().values():
        for name in sorted({name for node in ast.walk(module.tree) if (name := looked_up(node) or named_variable(node))}): found.setdefault(name, []).append(module.name)
    return found
