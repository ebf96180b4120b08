"Render nbs/index.ipynb as README.md; with --check, compare instead of writing."

import difflib
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "nbs" / "index.ipynb"
README = ROOT / "README.md"
HEAD = "<!-- made from nbs/index.ipynb by .ci/readme.py; edit the notebook -->"

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<value>.*)$")
LINK = re.compile(r"\]\((?P<path>(?![a-z]+:|#)[^)\s]+)\)")
FENCED_OUTPUTS = """
{%- extends 'markdown/index.md.j2' -%}
{%- macro fenced(text) %}
```text
{{ text | strip_ansi | trim('\n') }}
```
{% endmacro -%}
{% block stream %}{{ fenced(output.text) }}{% endblock stream %}
{% block data_text %}{{ fenced(output.data['text/plain']) }}{% endblock data_text %}
{% block error %}{{ fenced(output.ename ~ ': ' ~ output.evalue) }}{% endblock error %}
"""


def directives(source):
    "The `#| name: value` lines of a cell."
    matches = map(DIRECTIVE.match, source.splitlines())
    return {match["name"]: match["value"].strip() for match in matches if match}


def without_directives(source):
    "The cell as a reader should see it."
    return "\n".join(line for line in source.splitlines() if not DIRECTIVE.match(line)).strip("\n")


def is_shown(cell):
    "False for what is in the notebook for nbdev or for tests only."
    if cell.cell_type != "code":
        return True
    said = directives(cell.source)
    return "hide" not in said and said.get("include") != "false" and bool(without_directives(cell.source))


def as_shown(cell):
    "The cell without directives, execution counts and standard error."
    if cell.cell_type == "code":
        hidden = directives(cell.source).get("output") == "false"
        cell.outputs = [output for output in cell.outputs if not hidden and output.get("name") != "stderr"]
        cell.source = without_directives(cell.source)
    return cell


def render(notebook):
    "The notebook as Markdown: text outputs in fenced blocks, no HTML and no pictures."
    notebook.cells = [as_shown(cell) for cell in notebook.cells if is_shown(cell)]
    notebook.metadata["language_info"] = {"name": "python"}
    exporter = MarkdownExporter(extra_loaders=[DictLoader({"fenced.md.j2": FENCED_OUTPUTS})], template_file="fenced.md.j2")
    exporter.preprocessors = []
    exporter.config.NbConvertBase.display_data_priority = ["text/markdown", "text/plain"]
    body, _ = exporter.from_notebook_node(notebook)
    return f"{HEAD}\n\n{outside_fences(as_in_readme, body).strip()}\n"


def outside_fences(change, text):
    "A text of which all is changed but what is in fenced blocks."
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def as_in_readme(text):
    "Runs of blank lines made one; links and pictures as they are found from README.md, and not from the notebook's folder."
    folder = NOTEBOOK.parent.relative_to(ROOT).as_posix()
    return LINK.sub(lambda link: f"]({posixpath.normpath(posixpath.join(folder, link['path']))})", re.sub(r"\n{3,}", "\n\n", text))


def difference(found, expected):
    "Unified diff from the README to what the notebook renders to; empty when they agree."
    lines = found.splitlines(keepends=True), expected.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, "README.md", "nbs/index.ipynb, rendered"))


def main():
    expected = render(nbformat.read(NOTEBOOK, as_version=4))
    if "--check" not in sys.argv[1:]:
        README.write_text(expected, encoding="utf-8")
        return
    found = README.read_text(encoding="utf-8") if README.exists() else ""
    if found != expected:
        sys.exit(difference(found, expected) + "\nREADME.md is not what nbs/index.ipynb renders to: run `python .ci/readme.py`")


if __name__ == "__main__":
    main()
