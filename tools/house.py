"""Print the structural figures of the package, and name what does not hold: `python tools/house.py`.

Looked at are the exported modules (ml_pkg/**/*.py without __init__.py and _modidx.py) and the notebooks they come from. How it is counted:

- lines of a body: those from a function's first statement to its last, without the docstring, the signature, blank lines and
  lines that hold nothing but a comment. `def f(): return 1` has one line. A function inside another one is counted by
  itself, and its lines are lines of the outer one, too;
- lines of an export cell: without blank lines and `#|` directives. A cell of imports is a cell;
- a definition: an export cell that defines a function or a class. It is shown at once if the next code cell is no export cell;
- a number: that of nbs/api/NNN_name.ipynb, whose `#| default_exp` says which module it is. What has no number is to the right of all;
- imports for type checkers alone (`if TYPE_CHECKING`) do not count, since they import nothing;
- an argument is documented by a comment on one of its lines in the signature, as in `rows:int, # how many`; in a function of one line,
  as protocols have them, by the comment at its end. Arguments of commands have help texts instead. Where several classes have a method of one name with the same arguments, as a protocol and what follows it do,
  the comments of one of them are enough.

The exit code is 1 if something does not hold. What is only `listed` always holds.
"""

import ast
import json
import math
import re
import statistics
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ml_pkg"
LISTED = "listed"
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

MOST_NAMED = 25 # offenders of one kind

MAY_BE_LONG:dict[str, str] = { # functions of more than 40 lines, and why they stay so
}
MAY_IMPORT:dict[str, str] = { # lazy imports from the right, and why they stay so
    "checkpoints imports memory": "Checkpoints.cache is scikit-learn's hook: the store is what a user hands to Pipeline(memory=...)",
    "model imports addresses": "Model.load takes an address, and not only a file",
    "model imports mlflow_sink": "Model.to_mlflow is a method for convenience",
    "model imports final_model": "what travels with a model is made when it is first asked for, also of one that was read from the file of its run",
    "held_out imports logged": "what traffic said of a model comes back to whoever is to be promoted: here the circle closes",
    "held_out imports logged_predictions": "likewise",
    "held_out imports observed": "likewise",
}


@dataclass(frozen=True)
class Figure:
    "One line of the table."
    name:str
    found:str
    wanted:str           # LISTED if nothing is
    holds:bool
    offenders:list[str] = field(default_factory=list) # the worst first

    def __str__(self) -> str: return f"{self.found:>16}  ({self.wanted})"


# --- what is looked at

@dataclass(frozen=True)
class Module:
    "An exported module."
    path:Path

    @property
    def name(self) -> str: return ".".join(self.path.relative_to(PACKAGE).with_suffix("").parts)

    @cached_property
    def text(self) -> str: return self.path.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]: return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module: return ast.parse(self.text)

    @cached_property
    def commented(self) -> set[int]:
        "Numbers of the lines that have a comment."
        with tokenize.open(self.path) as file: return {token.start[0] for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.COMMENT}


@dataclass(frozen=True)
class Cell:
    "A code cell."
    notebook:str
    id:str
    source:str

    def __str__(self) -> str: return f"{self.notebook} {self.id}"

    @property
    def is_exported(self) -> bool: return bool(re.search(r"^#\s*\|\s*export[si]?\b", self.source, re.MULTILINE))

    @property
    def length(self) -> int: return sum(1 for line in self.source.splitlines() if line.strip() and not re.match(r"#\s*\|", line))

    @property
    def defines(self) -> bool: return any(isinstance(node, Definition) for node in ast.parse(self.source).body)


def modules() -> list[Module]:
    return [Module(path) for path in sorted(PACKAGE.rglob("*.py")) if path.name not in ("__init__.py", "_modidx.py")]


def notebooks() -> dict[str, list[Cell]]:
    "The code cells of each notebook that is exported."
    read = {path.name: json.loads(path.read_text(encoding="utf-8"))["cells"] for folder in ("api", "experiments") for path in sorted((ROOT / "nbs" / folder).glob("*.ipynb"))}
    return {name: [Cell(name, cell["id"], "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"] for name, cells in read.items()}


# --- lengths

def functions(tree:ast.AST, outer:str = "") -> Iterator[tuple[str, Function]]:
    "Every function with its dotted name, those inside of others too."
    for node in ast.iter_child_nodes(tree):
        name = f"{outer}.{node.name}" if isinstance(node, Definition) else outer
        if isinstance(node, Function): yield name, node
        yield from functions(node, name)


def body_length(function:Function, lines:list[str]) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body: return 0
    written = lines[body[0].lineno - 1:body[-1].end_lineno]
    return sum(1 for line in written if line.strip() and not line.lstrip().startswith("#"))


def longest(lengths:dict[str, int], limit:int) -> list[str]:
    return most({name: length for name, length in lengths.items() if length > limit}, "lines")


def most(counts:dict[str, int], noun:str) -> list[str]: return [f"{count:4} {noun}: {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1])]


def figures_of_bodies() -> Iterator[Figure]:
    lengths = {module.name + name: body_length(function, module.lines) for module in modules() for name, function in functions(module.tree)}
    unexcused = {name: length for name, length in lengths.items() if name not in MAY_BE_LONG}
    short = sum(1 for length in lengths.values() if length < 20) / len(lengths)
    excused = f", {len(MAY_BE_LONG)} with a reason" if MAY_BE_LONG else ""
    yield Figure("lines of a function's body, median", f"{statistics.median(lengths.values()):g} of {len(lengths)}", "under 6", statistics.median(lengths.values()) < 6)
    yield Figure("functions of under 20 lines", f"{short:.1%}", "90 %", short >= .9, longest(lengths, 29))
    yield Figure("functions of over 40 lines", f"{len(longest(unexcused, 40))}{excused}", "0", not longest(unexcused, 40), longest(unexcused, 40))


def figures_of_cells() -> Iterator[Figure]:
    lengths = {str(cell): cell.length for cells in notebooks().values() for cell in cells if cell.is_exported}
    median = statistics.median(lengths.values())
    yield Figure("lines of an export cell, median", f"{median:g} of {len(lengths)}", "under 12", median < 12)
    yield Figure("export cells of over 60 lines", f"{len(longest(lengths, 60))}", LISTED, True, longest(lengths, 60))


# --- examples

def unshown(cells:list[Cell]) -> list[Cell]:
    "The definitions that no example and no test follows at once."
    following = [*cells[1:], None]
    return [cell for cell, after in zip(cells, following, strict=True) if cell.is_exported and cell.defines and (after is None or after.is_exported)]


def figures_of_examples() -> Iterator[Figure]:
    definitions = sum(1 for cells in notebooks().values() for cell in cells if cell.is_exported and cell.defines)
    missing = {name: len(unshown(cells)) for name, cells in notebooks().items() if unshown(cells)}
    share = 1 - sum(missing.values()) / definitions
    yield Figure("definitions shown or tested at once", f"{share:.1%} of {definitions}", "70 %", share >= .7, most(missing, "definitions"))


# --- imports

@dataclass(frozen=True)
class Import:
    "That a module imports another one of the package, or a library."
    by:str
    of:str        # dotted; of the package's own modules without "ml_pkg."
    is_ours:bool
    is_star:bool
    is_lazy:bool  # inside a function

    def __str__(self) -> str: return f"{self.by} imports {self.of}"


def imports(module:Module) -> Iterator[Import]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom) or node in for_type_checkers(module.tree): continue
        for name, is_star in imported(node): yield Import(module.name, name.removeprefix("ml_pkg."), name.startswith("ml_pkg."), is_star, node not in module.tree.body)


def for_type_checkers(tree:ast.Module) -> list[ast.stmt]:
    return [inner for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) for inner in node.body]


def imported(node:ast.Import | ast.ImportFrom) -> Iterator[tuple[str, bool]]:
    "Names of modules, and whether all of their names are taken."
    if isinstance(node, ast.Import): yield from ((alias.name, False) for alias in node.names)
    elif node.module in (None, "ml_pkg"): yield from ((f"ml_pkg.{alias.name}", alias.name == "*") for alias in node.names)
    else: yield f"ml_pkg.{node.module}" if node.level else node.module, node.names[0].name == "*"


def numbers() -> dict[str, float]:
    "The number of each module's notebook."
    found = {}
    for name, cells in notebooks().items():
        exported_to = re.search(r"^#\s*\|\s*default_exp (\S+)", "\n".join(cell.source for cell in cells), re.MULTILINE)
        if exported_to: found[exported_to[1]] = float(name[:3]) if name[:3].isdigit() else math.inf
    return found


def backwards(found:list[Import]) -> list[Import]:
    number = numbers()
    return [each for each in found if each.is_ours and each.of in number and number[each.of] >= number[each.by]]


def figures_of_imports() -> Iterator[Figure]:
    found = [each for module in modules() for each in imports(module)]
    stars = [str(each) for each in found if each.is_star]
    tools = [str(each) for each in found if each.of.split(".")[0] in ("nbdev", "fastcore")]
    eager, lazy = ({str(each) for each in backwards(found) if each.is_lazy is is_lazy} for is_lazy in (False, True))
    unexcused = sorted(lazy - set(MAY_IMPORT))
    yield Figure("star imports", f"{len(stars)}", "0", not stars, stars)
    yield Figure("imports of nbdev or fastcore", f"{len(tools)}", "0", not tools, tools)
    yield Figure("imports from the right", f"{len(eager)} of {sum(each.is_ours for each in found)}", "0", not eager, sorted(eager))
    yield Figure("imports from the right inside functions", f"{len(unexcused)}, {len(MAY_IMPORT)} with a reason", "0", not unexcused, unexcused)


# --- documentation

@dataclass(frozen=True)
class Public:
    "A function, class or method whose name, and every name around it, does not begin with an underscore."
    name:str
    node:Definition
    module:Module

    @property
    def is_method(self) -> bool: return self.node not in self.module.tree.body

    @property
    def is_command(self) -> bool: return any(re.search(r"\.(command|callback)\(", ast.unparse(decorator)) for decorator in self.node.decorator_list)

    @property
    def is_silent(self) -> bool: return ast.get_docstring(self.node) is None and not self.is_command

    @property
    def arguments(self) -> list[ast.arg]:
        if isinstance(self.node, ast.ClassDef) or self.is_command: return []
        found = self.node.args
        every = [*found.posonlyargs, *found.args, found.vararg, *found.kwonlyargs, found.kwarg]
        return [argument for argument in every if argument and argument.arg not in ("self", "cls") and not argument.arg.startswith("_")]

    @property
    def call(self) -> tuple[str, ...]:
        "A method's own name, and its arguments'."
        return (self.node.name, *(argument.arg for argument in self.arguments))

    @property
    def undocumented(self) -> list[str]:
        signature = self.module.commented.intersection(range(self.node.lineno, max(self.node.body[0].lineno, self.node.lineno + 1)))
        return [argument.arg for argument in self.arguments if not signature.intersection(range(argument.lineno, argument.end_lineno + 1))]


def public(module:Module) -> Iterator[Public]:
    for node in module.tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"): continue
        yield Public(f"{module.name}.{node.name}", node, module)
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, Function) and not inner.name.startswith("_"): yield Public(f"{module.name}.{node.name}.{inner.name}", inner, module)


def figures_of_documentation() -> Iterator[Figure]:
    found = [each for module in modules() for each in public(module)]
    functions_and_classes, methods = ([each for each in found if each.is_method is is_method] for is_method in (False, True))
    yield from figures_of_names("functions and classes", functions_and_classes, lacking(functions_and_classes), "0")
    yield from figures_of_names("methods and properties", methods, lacking(unexplained(methods)), LISTED)


def figures_of_names(title:str, some:list[Public], missing:list[str], wanted:str) -> Iterator[Figure]:
    silent = [each.name for each in some if each.is_silent]
    yield Figure(f"{title} without a docstring", f"{len(silent)} of {len(some)}", wanted, wanted == LISTED or not silent, silent)
    yield Figure(f"{title} with an argument without a comment", f"{len(missing)} of {sum(1 for each in some if each.arguments)}", "0", not missing, missing)


def unexplained(methods:list[Public]) -> list[Public]:
    "Those whose arguments are documented nowhere: neither here nor at a method of another class that is called in the same way."
    explained = {each.call for each in methods if not each.undocumented}
    return [each for each in methods if each.call not in explained]


def lacking(some:list[Public]) -> list[str]:
    return [f"{each.name}: {', '.join(each.undocumented)}" for each in sorted(some, key=lambda each: -len(each.undocumented)) if each.undocumented]


def commands(command, name:str) -> Iterator[tuple[str, object]]:
    "Every command and group of the command line with its full name."
    yield name, command
    for part, inner in getattr(command, "commands", {}).items(): yield from commands(inner, f"{name} {part}")


def figures_of_commands() -> Iterator[Figure]:
    sys.path.insert(0, str(ROOT))
    import typer

    from ml_pkg.commands import app
    found = dict(commands(typer.main.get_command(app), "ml_pkg"))
    silent = [name for name, command in found.items() if not command.help]
    options = [(f"{name} {option.name}", option.help) for name, command in found.items() for option in command.params]
    unhelpful = [name for name, text in options if not text]
    yield Figure("commands without help", f"{len(silent)} of {len(found)}", "0", not silent, silent)
    yield Figure("arguments and options without help", f"{len(unhelpful)} of {len(options)}", "0", not unhelpful, unhelpful)


def figures_of_errors() -> Iterator[Figure]:
    errors = [node for node in Module(PACKAGE / "errors.py").tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    silent = [node.name for node in errors if ast.get_docstring(node) is None]
    yield Figure("error classes without a docstring", f"{len(silent)} of {len(errors)}", "0", not silent, silent)


# --- the table

PARTS:tuple[Callable[[], Iterator[Figure]], ...] = (figures_of_bodies, figures_of_cells, figures_of_examples, figures_of_imports, figures_of_documentation, figures_of_commands, figures_of_errors)


def print_table(figures:list[Figure]) -> None:
    width = max(len(figure.name) for figure in figures)
    for figure in figures: print(f"{word(figure):5}  {figure.name:{width}}  {figure}")


def word(figure:Figure) -> str: return "" if figure.wanted == LISTED else "ok" if figure.holds else "FAILS"


def print_offenders(figures:list[Figure]) -> None:
    for figure in figures:
        named, others = figure.offenders[:MOST_NAMED], figure.offenders[MOST_NAMED:]
        if named: print(f"\n{figure.name}", *named, *([f"… and {len(others)} more"] if others else []), sep="\n    ")


def main() -> None:
    figures = [figure for part in PARTS for figure in part()]
    print_table(figures)
    print_offenders(figures)
    sys.exit(0 if all(figure.holds for figure in figures) else 1)


if __name__ == "__main__": main()
