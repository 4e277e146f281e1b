"""The committed notebooks: what they may hold, and that they were executed as they stand."""

import ast
import html
import re

import nbformat
import pytest

from dnrlib.book.build import gate, known_parameters
from dnrlib.book.pages import NOTEBOOKS, contents, source
from dnrlib.methods import METHODS
from dnrlib.paper.exhibits import EXHIBITS, discrepancies
from dnrlib.recipes import RECIPES

COMMITTED = sorted(NOTEBOOKS.glob("*.ipynb"))
LONGEST = 25
"""Lines of a cell."""


def read(path):
    return nbformat.read(path, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


@pytest.fixture(params=COMMITTED, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_there_are_notebooks():
    assert {path.stem for path in COMMITTED} >= {"holds", "quickstart", "audit", "why"}


def code(page):
    """The code cells of a notebook but for that of its parameters, each with its syntax tree."""
    cells = [cell for cell in page.cells if cell.cell_type == "code"]
    return [(cell, ast.parse(cell.source)) for cell in cells if "parameters" not in tags(cell)]


def inside(tree, chosen):
    """The ids of all nodes that lie in a chosen node."""
    return {id(part) for node in ast.walk(tree) if chosen(node) for part in ast.walk(node)}


def builds(node):
    """Whether a node is a call that draws (of axes, matplotlib or seaborn, or with `ax=`) or that
    builds a layer of a network."""
    if not isinstance(node, ast.Call):
        return False
    owner = node.func
    while isinstance(owner, ast.Attribute | ast.Subscript | ast.Call):
        owner = owner.func if isinstance(owner, ast.Call) else owner.value
    named = isinstance(owner, ast.Name) and owner.id in {"ax", "axes", "plt", "sns", "nn"}
    return named or any(keyword.arg == "ax" for keyword in node.keywords)


def typed(tree):
    """Numbers that may be results: outside of calls that draw or build, all but 0, 1, 2 and 100,
    and, in slices, keyword arguments and defaults, whole numbers and fractions below 1."""
    inside_calls = inside(tree, builds)
    settings = inside(tree, lambda node: isinstance(node, ast.keyword | ast.arguments | ast.Slice))
    numbers = [n for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    return [
        node.value
        for node in numbers
        if type(node.value) in (int, float)
        and id(node) not in inside_calls
        and node.value not in (0, 1, 2, 100)
        and not (id(node) in settings and (node.value < 1 or node.value == int(node.value)))
    ]


def test_no_result_is_typed(notebook):
    for cell, tree in code(read(notebook)):
        assert not typed(tree), cell.source


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("accuracy = 87.4", [87.4]),
        ("show(frame.assign(ours=87.4), 91)", [91, 87.4]),
        ("ax.plot(x, 100 * y, lw=0.5)\nplt.subplots(1, 2, figsize=(7, 2.8))", []),
        ("sns.heatmap(frame)\nframe.plot(ax=axes[0], alpha=0.3)\naxes[1].text(0.5, 3, 'x')", []),
        ("frame[:5].round(1)\nshow(frame, digits=3)", []),
        ("def train(model, epochs=20):\n    SGD(lr=0.1)\nnn.Conv2d(16, 64, 3)", []),
    ],
)
def test_what_counts_as_a_typed_result(line, numbers):
    assert sorted(typed(ast.parse(line)), reverse=True) == numbers


def test_cells_are_short_and_their_functions_are_used(notebook):
    trees = code(read(notebook))
    called = {
        node.id
        for _, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for cell, tree in trees:
        assert len(cell.source.splitlines()) <= LONGEST, cell.source
        for node in ast.walk(tree):
            assert not isinstance(node, ast.ClassDef), cell.source
            assert not isinstance(node, ast.FunctionDef) or node.name in called, cell.source


def test_parameters_are_scalars_in_one_cell(notebook):
    cells = [cell for cell in read(notebook).cells if "parameters" in tags(cell)]
    without = {"start", "holds", "introduction", "setup", "audit", "discrepancies", "faults"}
    without |= {"ke_costs", "ke_correlation", "table10", "yardstick"}
    assert len(cells) == (0 if notebook.stem in without else 1)
    for cell in cells:
        first = next(cell for cell in read(notebook).cells if cell.cell_type == "code")
        assert cell.id == first.id, "before all imports, so that a misspelt name fails at once"
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, ast.Assign)
            assert isinstance(ast.literal_eval(statement.value), str | int | float | bool)
        assert {"dataset", "comparison"} & known_parameters(notebook).keys()


def test_prose_comes_before_code_and_figures_have_words_and_folded_code(notebook):
    cells = read(notebook).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    for cell in cells:
        assert not {"remove-input", "remove-cell"} & {*tags(cell)}, "fold code, do not remove it"
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if kinds & {"image/svg+xml", "image/png"}:
            assert "hide-input" in tags(cell), cell.source
            results = [o for o in cell.outputs if o.output_type == "execute_result"]
            assert not results, f"what the last line returns is shown too: {cell.source}"
            shown = cell.metadata["mystnb"]
            assert len(shown["image"]["alt"]) > 30, cell.source
            assert shown["figure"]["caption"], cell.source


def test_a_role_stands_on_one_line(notebook):
    """JupyterLab does not read one that goes on in the next."""
    for cell in read(notebook).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\{[a-z]+\}`[^`\n]*\n", cell.source), cell.source


def test_committed_notebooks_are_executed_as_they_stand(notebook):
    """nbval checks nothing of a cell that was never executed."""
    page = read(notebook)
    gate(page, notebook.name)
    counts = [cell.execution_count for cell in page.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run it top to bottom"
    checked = [
        cell
        for cell in page.cells
        if cell.cell_type == "code" and cell.outputs and "nbval-ignore-output" not in tags(cell)
    ]
    assert len(checked) >= 1


def test_committed_notebooks_hold_nothing_of_their_machine(notebook):
    page = read(notebook)
    assert "papermill" not in page.metadata
    text = nbformat.writes(page)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", text)
    for cell in page.cells:
        assert "execution" not in cell.metadata
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output.text


def test_the_list_of_discrepancies_is_escaped_and_searchable():
    page = read(NOTEBOOKS / "discrepancies.ipynb")
    text = page.cells[-1].outputs[0].data["text/html"]
    listed = discrepancies()
    assert text.count("<tr id=") == len(listed) >= 50
    assert all(html.escape(what) in text for what in listed["what"])
    assert 'type="search"' in text


def test_every_method_has_a_card():
    said = (NOTEBOOKS / "methods.ipynb").read_text()
    assert [name for name in METHODS if f"tbl-plan-{name}\\n" not in said] == []


def test_the_book_has_a_page_for_every_exhibit():
    pages = contents()
    assert pages[0] == "start"
    for page in pages:
        notebook, dataset = source(page)
        assert notebook.exists()
        assert dataset is None or dataset in RECIPES
    made = {source(page)[0].stem for page in pages}
    assert made >= {of.notebook or name for name, of in EXHIBITS.items()}


STALE = [
    r"not (part of|in) this book yet",
    r"runs are still missing",
    r"\bTODO\b",
    r"Show code cell",
    r"<IPython\.core\.display",
    r"\*\*fails\*\*",
    r"claims? (that )?fails?\b",
]


def prose(notebook):
    """What a reader sees of a notebook: its text, and the text of its outputs."""
    for cell in read(notebook).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown = data.get("text/markdown", "") + data.get("text/html", "")
            # The bare name of an object is seen only where nothing better is there.
            yield shown or ("" if "image/png" in data else data.get("text/plain", ""))


def test_no_stale_words(notebook):
    for text in prose(notebook):
        for pattern in STALE:
            assert not re.search(pattern, text), text


def test_result_pages_have_one_order():
    """The paper's sentence, what was found, figures before tables, how, and the commands folded."""
    order = ["## What we found", "## How it was done", "## Reproduce this page"]
    without = {"cost", "normalisation", "released", "speed", "why"}
    for path in COMMITTED:
        cells = read(path).cells
        sources = [cell.source for cell in cells]
        told = any("answers(page" in text for text in sources)
        shown = any("reproduce(page" in text for text in sources)
        assert told == (shown and path.stem not in without), path.name
        if not told:
            continue
        heads = [text.split("\n")[0] for text in sources if text.startswith("## ")]
        assert heads[0] == order[0], path.name
        assert heads[-1] == order[-1], path.name
        assert [head for head in order if head in heads] == [h for h in heads if h in order]
        folded = [{"hide-input", "hide-cell"} & {*tags(c)} for c in cells if c.cell_type == "code"]
        assert all(folded), path.name
        assert "::::{admonition}" in cells[-1].outputs[0].data["text/markdown"], path.name
        assert not any(text.startswith("Parameters: see") for text in sources)
