"""The committed notebooks: what they may hold, and that they were executed as they stand."""

import ast
import re

import nbformat
import pytest

from dnrlib.pages import EXHIBITS, NOTEBOOKS, contents, gate, known_parameters, source
from dnrlib.recipes import RECIPES

COMMITTED = sorted(NOTEBOOKS.glob("*.ipynb"))
COSMETICS = {"figsize", "fontsize", "alpha", "linewidth", "markersize", "width", "height"}


def read(path):
    return nbformat.read(path, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


@pytest.fixture(params=COMMITTED, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_there_are_notebooks():
    assert {path.stem for path in COMMITTED} >= {"holds", "quickstart", "audit", "why"}


def test_no_functions_and_no_numbers_outside_the_parameters(notebook):
    for cell in read(notebook).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        cosmetic = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.keyword) and node.arg in COSMETICS
            for part in ast.walk(node.value)
        }
        for node in ast.walk(tree):
            assert not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef), cell.source
            assert not isinstance(node, ast.For | ast.While), cell.source
            if isinstance(node, ast.Constant) and "parameters" not in tags(cell):
                number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
                assert not number or node.value in (0, 1, 2) or id(node) in cosmetic, cell.source


def test_parameters_are_scalars_in_one_cell(notebook):
    cells = [cell for cell in read(notebook).cells if "parameters" in tags(cell)]
    without = {"introduction", "audit", "discrepancies", "table10"}
    assert len(cells) == (0 if notebook.stem in without else 1)
    for cell in cells:
        for statement in ast.parse(cell.source).body:
            assert isinstance(statement, ast.Assign)
            assert isinstance(ast.literal_eval(statement.value), str | int | float | bool)
        assert "dataset" in known_parameters(notebook)


def test_prose_comes_before_code_and_figures_have_words(notebook):
    cells = read(notebook).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    for cell in cells:
        pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        if pictures:
            shown = cell.metadata["mystnb"]
            assert len(shown["image"]["alt"]) > 30, cell.source
            assert shown["figure"]["caption"], cell.source


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


def test_the_book_has_a_page_for_every_exhibit():
    pages = contents()
    assert pages[0] == "holds"
    for page in pages:
        notebook, dataset = source(page)
        assert notebook.exists()
        assert dataset is None or dataset in RECIPES
    assert {source(page)[0].stem for page in pages} >= set(EXHIBITS.values())
