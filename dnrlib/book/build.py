"""Notebooks to pages by papermill, and the book made of the pages."""

import ast
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from joblib import cpu_count
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from .. import UserError, parallel, records
from ..config import digest
from ..datasets import catalogue, decoded
from ..datasets.official import facts
from ..records import ROOT
from .pages import PAGES, contents, source
from .tables import escaped


class CellFailed(UserError):
    """A cell of a notebook that ended in an error."""


def known_parameters(notebook: Path) -> dict[str, Any]:
    """The parameters that a notebook has, with their defaults; none if it has no cell tagged
    `parameters`. Raises `UserError` for a file that is no notebook."""
    try:
        known = papermill.inspect_notebook(str(notebook))
    # What is no notebook can raise anything.
    except Exception as error:
        raise UserError(f"{notebook} cannot be read as a notebook: {error!r:.200}") from error
    return {name: ast.literal_eval(each["default"]) for name, each in known.items()}


def execute(
    notebook: Path,
    output: Path,
    given: dict[str, Any],
    progress: bool = False,
    made_of: str | None = None,
) -> None:
    """Executes a notebook with parameters and writes the page, which notes `made_of`; raises
    `UserError` for unknown parameters and `CellFailed` for a cell that fails."""
    known = known_parameters(notebook)
    if unknown := given.keys() - known:
        raise UserError(
            f"{notebook.name} has no parameter {', '.join(sorted(unknown))}; it has: "
            f"{', '.join(sorted(known))}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    # papermill saves as it goes: a page with an error in it must not be taken for a page.
    partial = output.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(partial),
            parameters=given,
            cwd=str(ROOT),
            progress_bar=progress,
            kernel_name="python3",
            # Each page would warn that it uses TCP, and call the interrupt that ends it an error.
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except PapermillExecutionError as error:
        raise CellFailed(f"{error.ename}: {error.evalue} (in {partial})") from error
    _write_page(partial, output, notebook.name, given.get("dataset"), made_of)
    partial.unlink()


def _write_page(
    executed: Path, output: Path, name: str, dataset: str | None, made_of: str | None
) -> None:
    """Writes an executed notebook as a page: the dataset in its heading, its parameters once, and
    nothing of the machine that executed it. Raises `UserError` as `gate` does."""
    page = nbformat.read(executed, as_version=4)
    for cell in page.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    if dataset is not None:
        heading, *rest = page.cells[0].source.split("\n")
        official = dataset in facts() or dataset in catalogue.VIEWS
        title = catalogue.dataset(dataset).title if official else dataset
        page.cells[0].source = "\n".join([f"{heading} ({escaped(title)})", *rest])
    page.cells = _with_parameters_once(page.cells)
    # Its absolute paths and times would differ from machine to machine.
    page.metadata.pop("papermill", None)
    page.metadata["made_of"] = made_of
    gate(page, name)
    records.write(output, nbformat.writes(page).encode())


def _with_parameters_once(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The cells of an executed page with one cell of parameters, those that it was made with,
    instead of the defaults followed by what papermill injected."""
    kept, values = [], {}
    for cell in cells:
        if {"parameters", "injected-parameters"} & {*cell.metadata.get("tags", [])}:
            for line in ast.parse(cell.source).body:
                values[line.targets[0].id] = ast.unparse(line)
        if "injected-parameters" not in cell.metadata.get("tags", []):
            kept.append(cell)
    for cell in kept:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(values.values())
    return kept


def gate(page: nbformat.NotebookNode, name: str) -> None:
    """Raises `UserError` if a page has an error in it or a cell that was not executed, which the
    book build would not notice."""
    for number, cell in enumerate(page.cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            raise UserError(f"{name}: cell {number} was not executed; run the notebook and save it")
        if any(output.output_type == "error" for output in cell.outputs):
            raise UserError(f"{name}: cell {number} ended in an error")


def ingredients() -> str:
    """A digest of all that an executed page is made of beside its notebook: the library, the pinned
    versions, the papers' numbers, the tuning grids, the published records, the benchmarks; and by
    size and time of change the user's own records and images."""
    code, data = ("dnrlib/**/*.py", "dnrlib/**/*.toml"), ("data/paper/*", "data/tuning/*")
    others = ("benchmarks/results/*", "data/records/manifest.json", "requirements.txt")
    content = [
        [str(path.relative_to(ROOT)), hashlib.sha256(path.read_bytes()).hexdigest()]
        for pattern in (*code, *data, *others)
        for path in sorted(ROOT.glob(pattern))
    ]
    own = [*records.runs_root().glob("*/*.json"), *decoded.root().glob("decoded/*/manifest.json")]
    looks = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(own)]
    return digest([sys.version, content, looks])


def build_book() -> Path:
    """Makes every page and the book of them; returns its first file. Trains nothing.

    A page is the committed notebook, which nbval keeps true, if it has no dataset; and if it has
    the notebook's own and there are no runs of the user to show. Every other page is executed, and
    kept as long as nothing changes that it is made of (`ingredients`). Warnings are errors.
    """
    PAGES.mkdir(parents=True, exist_ok=True)
    wanted, common = contents(), ingredients()
    own = any(records.runs_root().glob("*/*.json"))
    for old in PAGES.glob("*.ipynb"):
        if old.stem not in wanted:
            old.unlink()
    calls = []
    for page in wanted:
        (notebook, dataset), output = source(page), PAGES / f"{page}.ipynb"
        made_of = digest([common, page, notebook.read_text("utf-8")])
        if output.exists() and nbformat.read(output, 4).metadata.get("made_of") == made_of:
            continue
        if dataset is None or (not own and known_parameters(notebook)["dataset"] == dataset):
            _write_page(notebook, output, notebook.name, dataset, made_of)
        else:
            calls.append((notebook, output, {"dataset": dataset, "train": False}, False, made_of))
    print(f"pages: {len(calls)} of {len(wanted)} to execute", flush=True)
    workers = min(cpu_count(), 4)
    pages = parallel.finished(execute, calls, workers)
    with tqdm(total=len(calls), unit="page", smoothing=0, leave=False, disable=None) as bar:
        bar.initial = -workers / 2  # For the time that is left, pages in work are half done.
        for _ in pages:
            bar.update()
    print(f"book: being made of {len(wanted)} notebooks and the chapters", flush=True)
    program = str(Path(sys.executable).with_name("jupyter-book"))
    options = ["--config", "_config.yml", "--path-output", ".", "-W", "-n", "--keep-going", "-q"]
    index = ROOT / "_build" / "html" / "index.html"
    # Jupyter Book keeps one that is there, which may lead to what was the first page once.
    index.unlink(missing_ok=True)
    done = subprocess.run(
        [program, "build", "book", *options], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    if done.returncode or not index.exists():
        raise UserError(f"the book was not built; its warnings are errors:\n{done.stderr}")
    return index
