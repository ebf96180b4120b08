"""Changing a declaration changes nothing else, or is refused: never a broken cell, whatever the cell looks like."""

import ast
import collections
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from ml_pkg.errors import NotRewritable
from ml_pkg.rewriting import find_declared, rewrite, rewritten_cell

# --- the cells

def read_cells() -> Iterator[tuple[str, str, str]]:
    "Title, source with its marks, and reason of refusal of each awkward cell."
    text = (Path(__file__).parent / "awkward_cells.txt").read_text(encoding="utf-8")
    for title, body in re.findall(r"^=== (.*)\n((?s:.*?))\n(?=\n===|\Z)", text, re.MULTILINE):
        source, _, reason = body.partition(" | ") if re.search(r" \| [^\n]*\Z", body) and "|" not in body.rpartition(" | ")[0].rpartition("\n")[2] else (body, "", "")
        yield title, source, reason

CELLS = list(read_cells())
VARIANTS = {"": lambda cell: cell, "last newline": lambda cell: cell + "\n", "Windows": lambda cell: cell.replace("\n", "\r\n"), "tabs": lambda cell: re.sub(r"(?m)^( {4})+", lambda spaces: "\t" * (len(spaces.group()) // 4), cell)}
ALL = [pytest.param(variant(source), reason, id=f"{title}, {kind}" if kind else title) for title, source, reason in CELLS for kind, variant in VARIANTS.items()]

TARGETS = [
    'Experiment(name="iris")',
    "Experiment('iris', Dataset('data/iris.csv', target='species'), make_pipeline(SelectKBest(k=3), LogisticRegression(), SVC()), seed=4)",
    'Experiment(\n    name="Größe 𝛼 # (",\n    dataset=Dataset("data/iris.csv", target="species"),\n    estimator=make_pipeline(\n        StandardScaler(),\n        SelectKBest(k=3),\n        SVC(C=1, kernel="""a\n  b"""),\n    ),\n    evaluation=Evaluation(\n        cv=5,\n        metrics=["accuracy", "roc_auc"],\n    ),\n)',
    "Experiment(estimator=make_pipeline(make_column_transformer((OneHotEncoder(), ['c', 'd']), remainder='drop'), SVC(C=2)), tags=['b', 'c', 'x'], parameters={'C': [1], 'k': 2, 'new': {}}, name='iris')",
]

def meaning(expression:str) -> str:
    "What an expression is, apart from the order of its keywords."
    tree = ast.parse(f"({expression}\n)", mode="eval").body
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and all(keyword.arg for keyword in node.keywords): node.keywords.sort(key=lambda keyword: keyword.arg)
        if isinstance(node, ast.Constant): node.kind = None
    return ast.dump(tree)

class Edit(ast.NodeTransformer):
    "Changes the first call, constant or list that it is told to change."
    def __init__(self, kind:type, change): self.kind, self.change, self.left = kind, change, 1
    def generic_visit(self, node):
        node = super().generic_visit(node)
        if self.left and isinstance(node, self.kind) and self.change(node): self.left = 0
        return node

def grown(node) -> bool:
    (node.keywords if node.keywords else node.args).append(ast.keyword("new", ast.Constant(1)) if node.keywords else ast.Constant("new"))
    return True

def shrunk(node) -> bool: return bool((node.keywords or node.args) and [(node.keywords or node.args).pop(0)])

def shorter(node) -> bool: return bool(node.args and [node.args.pop()])

def other(node) -> bool:
    node.value = "other"
    return True

def longer(node) -> bool:
    node.elts.insert(0, ast.Name("new"))
    return True

def emptied(node) -> bool: return bool(node.elts and [node.elts.pop()])

def keyed(node) -> bool:
    node.keys.insert(1, ast.Constant("new"))
    node.values.insert(1, ast.Name("new"))
    return True

EDITS = [(ast.Call, grown), (ast.Call, shrunk), (ast.Call, shorter), (ast.Constant, other), (ast.List, longer), (ast.List, emptied), (ast.Tuple, emptied), (ast.Dict, keyed)]

def edited(expression:str) -> Iterator[str]:
    "Expressions that differ from one in a single place."
    for kind, change in EDITS:
        edit = Edit(kind, change)
        tree = edit.visit(ast.parse(f"({expression}\n)", mode="eval"))
        if not edit.left: yield ast.unparse(ast.fix_missing_locations(tree))

def assert_is_python(cell:str) -> None: ast.parse(TransformerManager().transform_cell(cell.replace("\r\n", "\n"))) # IPython does not see magics that go on in a next line that ends as on Windows

COUNTS = collections.Counter()

@pytest.fixture(scope="module", autouse=True)
def printed_counts() -> Iterator[None]:
    yield
    print(f"\n{len(CELLS)} cells, {len(ALL)} with their variants")
    for kind, count in sorted(COUNTS.items()): print(f"{count:6} {kind}")

# --- every byte beside the expression

@pytest.mark.parametrize("marked, reason", ALL)
def test_only_the_expression_changes(marked:str, reason:str):
    before, _, rest = marked.partition("⟦")
    old, _, after = rest.partition("⟧")
    cell = before + old + after
    for target in [*TARGETS, *(edited(old) if old else [])]:
        try: new = rewritten_cell(cell, "iris", target)
        except NotRewritable as error:
            assert reason and reason in str(error), error
            assert str(error).endswith(f"paste:\n\niris = {target}")
            COUNTS[f"refused: {reason}"] += 1
            continue
        assert old and new.startswith(before) and new.endswith(after)
        middle = new[len(before):len(new) - len(after)]
        assert meaning(middle) == meaning(target)
        assert_is_python(new)
        assert rewritten_cell(new, "iris", target) == new
        if "\r\n" in cell: assert not re.search(r"(?<!\r)\n", new)
        COUNTS["rewritten"] += 1

@pytest.mark.parametrize("marked", [pytest.param(case.values[0], id=case.id) for case in ALL if "⟦" in case.values[0]])
def test_what_is_declared_already_changes_no_byte(marked:str):
    cell = re.sub("[⟦⟧]", "", marked)
    expression = ast.unparse(ast.parse("(" + marked.partition("⟦")[2].partition("⟧")[0] + "\n)", mode="eval"))
    assert rewritten_cell(cell, "iris", expression) == cell

def test_there_are_fifty_cells_of_each_kind_and_some_are_refused():
    assert len([source for _, source, reason in CELLS if "⟦" in source]) >= 50
    assert all(("⟦" in source) != bool(reason) or "walrus" in title for title, source, reason in CELLS)

# --- noise

PLAIN = 'Experiment(name="iris",estimator=make_pipeline(SelectKBest(k=2),SVC(C=1)),tags=["a","b"],options={"x":1,"y":(2,3)},seed=3)'
NOISE = st.lists(st.sampled_from([" ", "  ", "\t", "\n", "\n    ", " # note\n", "\n# (\n", " \\\n"]), max_size=3).map("".join)
WANTED = {
    "one value": PLAIN.replace("k=2", "k=3"), "several values": PLAIN.replace("C=1", "C=2").replace('"x":1', '"x":5').replace("seed=3", "seed=5"),
    "more": PLAIN.replace("SVC(C=1)", "PCA(),SVC(C=1,tol=2)").replace('"b"]', '"b","c"]').replace('"y"', '"z":1,"y"').replace("seed=3", "seed=3,new=4"),
    "less": PLAIN.replace("SelectKBest(k=2),", "").replace('"a",', "").replace('"x":1,', "").replace(",seed=3", ""),
    "other": PLAIN.replace("SVC(C=1)", "MLP()").replace("make_pipeline", "Pipeline").replace('["a","b"]', '("a","b")'),
}

def tokens(cell:str) -> list[str]:
    "The words of a cell, without commas, comments and lines."
    return [token.string for token in tokenize.generate_tokens(io.StringIO(cell).readline) if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT) and token.string != ","]

def comments(cell:str) -> int: return sum(token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(cell).readline))

@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(noises=st.lists(NOISE, min_size=70, max_size=70), wanted=st.sampled_from(sorted(WANTED)), comma=st.booleans())
def test_noise_does_not_change_the_outcome(noises:list[str], wanted:str, comma:bool):
    words = [token.string for token in tokenize.generate_tokens(io.StringIO(PLAIN).readline) if token.string]
    words[-1:] = [",", ")"] if comma else [")"]
    noisy = "".join(word + noise for word, noise in zip(words, noises, strict=False))[:-len(noises[len(words) - 1]) or None]
    cell = f"x = 1 # one\niris = ({noisy})  # end\ny = 2"
    new = rewritten_cell(cell, "iris", WANTED[wanted])
    quiet = rewritten_cell(f"x = 1 # one\niris = ({PLAIN})  # end\ny = 2", "iris", WANTED[wanted])
    assert tokens(new) == tokens(quiet)
    assert rewritten_cell(new, "iris", WANTED[wanted]) == new
    if "value" in wanted:
        assert comments(new) == comments(cell)
        assert len(new) == len(cell)

# --- files

LETTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=12)

@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(note=LETTERS, other=LETTERS, as_lines=st.booleans(), is_ascii=st.booleans(), indent=st.sampled_from([None, 1, "\t"]))
def test_a_notebook_is_written_as_its_editor_would(tmp_path:Path, note:str, other:str, as_lines:bool, is_ascii:bool, indent:int|str|None):
    def written(k:str) -> bytes:
        sources = [f"#| export\nfrom a import b # {note}", f"#| export\n# {other}\niris = Experiment(k={k}, note={note!r}) # {other}\nx = 1", f"# {note}"]
        cells = [{"cell_type": kind, "id": f"c{place}", "metadata": {"é": 1.0}, "source": source.splitlines(True) if as_lines else source} for place, (kind, source) in enumerate(zip(["code", "code", "markdown"], sources, strict=True))]
        return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=indent, ensure_ascii=is_ascii).encode()
    path = tmp_path / "iris.ipynb"
    path.write_bytes(written("2"))
    target = f"Experiment(k=f('日'), note={note!r})"
    rewriting = rewrite(find_declared(path, "iris"), target)
    assert rewriting.new == written("f('日')")
    assert path.read_bytes() == rewriting.old == written("2")
    path.write_bytes(rewriting.new)
    assert rewrite(find_declared(path, "iris"), target).new == rewriting.new
