"""Notebooks to pages: checked parameters, papermill, and the book made of the pages."""

import ast
import hashlib
import itertools
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from IPython.core.getipython import get_ipython
from IPython.display import Markdown
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from .. import UserError, records
from ..config import Config, digest
from ..datasets import decoded
from ..evaluate.evaluations import Evaluation
from ..frames import generations
from ..paper.claims import arms as stated_arms
from ..paper.claims import claims, ledger
from ..paper.exhibits import (
    ALL_EXHIBITS,
    ANALOGUE,
    EXHIBITS,
    PLANNED,
    ROWS,
    arms,
    evaluations_of,
    made_for,
)
from ..recipes import BUDGETS, RECIPES, arm_of, configure, grid, parse_arm, scope
from ..records import ROOT
from ..study import Archive, Run, agreement, command
from .tables import escaped, fenced, table, titled

NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "book"
PAGES = BOOK / "pages"


# --------------------------------------------------------------------------------------------------
# Inside a notebook


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of a notebook; the defaults stand for those that it does not have."""

    dataset: str
    exhibit: str = "table1"
    budget: str = "auto"
    seeds: int | str = "auto"
    methods: str = "auto"
    train: bool | str = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget not in ("auto", *BUDGETS):
            raise UserError(
                f"budget={self.budget!r} is unknown; choose one of: auto, {', '.join(BUDGETS)}"
            )
        if self.seeds != "auto" and (type(self.seeds) is not int or self.seeds < 1):
            raise UserError(f"seeds={self.seeds!r} must be auto or a whole number of at least 1")
        if str(self.train).lower() not in ("true", "false"):
            raise UserError(f"train={self.train!r} must be true or false")
        # papermill's command line passes strings.
        object.__setattr__(self, "train", str(self.train).lower() == "true")
        self.config()
        try:
            self.arms()
        except UserError as error:
            raise UserError(f"methods={self.methods!r}: {error}") from None

    def arms(self) -> list[str]:
        """The arms that the page compares, each once, in order; `auto` means those of its
        exhibit."""
        if self.methods == "auto":
            return arms(self.exhibit, self.dataset)
        named = {}
        for text in str(self.methods).split(","):
            config = self.config(**parse_arm(text))
            arm = arm_of(config)
            # A name leaves out what the smoke budget sets, so it may stand for another run here.
            if self.config(**parse_arm(arm)) != config:
                raise UserError(
                    f"{text.strip()!r} trains as long as the smoke budget does; use budget=smoke, "
                    "or another number of epochs"
                )
            named[arm] = config
        return list(named)

    def also(self, exhibit: str) -> list[str]:
        """The arms of another exhibit on the same page; none if methods were chosen by hand."""
        return arms(exhibit, self.dataset) if self.methods == "auto" else []

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """What the exhibit measures of its networks beyond their test accuracy."""
        return evaluations_of(self.exhibit, self.dataset)

    def config(self, **settings: Any) -> Config:
        """One run of `seed` on the dataset."""
        budget = None if self.budget == "auto" else self.budget
        return configure(self.dataset, budget, seed=self.seed, **settings)

    def configs(self, chosen: Iterable[str] | None = None) -> list[Config]:
        """The runs of the notebook: its arms (or `chosen` ones) on its dataset, one per seed, seeds
        outermost; with `auto`, of each arm exactly those that are published, or five seeds if none
        is."""
        budget = None if self.budget == "auto" else self.budget
        wanted = self.arms() if chosen is None else chosen
        if self.seeds != "auto":
            return grid(self.dataset, wanted, self.seeds, budget)
        files, archive = records.published_seeds(self.dataset), Archive(own=False)
        listed = []
        for arm in wanted:
            most = grid(self.dataset, [arm], max(files, 5), budget)
            listed += [config for config in most if archive.find(config)] or most[:5]
        return sorted(listed, key=lambda config: config.seed)


def parameters(exhibit: str = "table1", **given: Any) -> Parameters:
    """The parameters of a notebook, as they come from its own cell or from papermill, checked.

    Called with the exhibit, and all of them by name. Raises `UserError` that lists the valid values
    for a bad value, and the valid names for a name that papermill injected and the notebook does
    not have.
    """
    unknown = _injected() - given.keys()
    if unknown:
        raise UserError(
            f"unknown parameter {', '.join(sorted(unknown))}; this notebook has: {', '.join(given)}"
        )
    return Parameters(exhibit=exhibit, **given)


def _injected() -> set[str]:
    """The names that papermill's injected cell assigns; papermill itself only warns of unknown
    ones."""
    shell = get_ipython()
    cells = [] if shell is None else shell.user_ns.get("In", [])
    names = set()
    for source in cells:
        if source.startswith("# Parameters\n"):
            for statement in ast.parse(source).body:
                if isinstance(statement, ast.Assign):
                    names |= {target.id for target in statement.targets}
    return names


def control(page: Parameters, arm: str) -> Parameters:
    """The parameters of a page for one arm on the 32-pixel control of its dataset; on that of the
    digits where there is none."""
    own = f"{page.dataset}-32"
    budget = page.budget if page.budget == "smoke" else "auto"
    return Parameters(
        own if own in RECIPES else "digits-32",
        budget=budget,
        seeds=page.seeds,
        methods=arm,
        train=page.train,
    )


def reproduce(page: Parameters, notebook: str, found: list[Run]) -> Markdown:
    """The end of every page: the commands that make it, and where its runs came from."""
    dataset, methods = shlex.quote(page.dataset), shlex.quote(str(page.methods))
    given = (
        f"papermill notebooks/{notebook}.ipynb out.ipynb -p dataset {dataset} \\\n"
        f"  -p budget {page.budget} -p seeds {page.seeds} \\\n"
        f"  -p methods {methods}"
    )
    lines = [fenced(given, "sh"), ""]
    if not found:
        return Markdown("\n".join([*lines, "None of its runs is on disk."]))
    made = Counter(
        (
            run.source,
            *(
                str(record["provenance"][name])
                for name in ("package", "commit", "results", "torch", "device", "processor")
            ),
        )
        for run in found
        for record in run.records
    )
    seconds = sum(
        record["timing"]["seconds"]
        for record in {
            record["key"]: record for run in found for record in run.records if "timing" in record
        }.values()
    )
    of_arm: dict[tuple, list[Config]] = {}
    for run in found:
        of = (run.config.dataset, run.evaluations, run.arm)
        of_arm.setdefault(of, []).append(run.config)
    by_seeds: dict[tuple, list[Config]] = {}
    for (dataset, evaluations, _), configs in of_arm.items():
        last = max(config.seed for config in configs)
        by_seeds.setdefault((dataset, evaluations, last), []).extend(configs)
    work = "training and evaluation" if any(run.evaluations for run in found) else "training"
    lines += [
        f"This page shows {len(found)} runs; their {work} took {seconds / 60:.0f} minutes in "
        "all, one after the other. To train them yourself, from nothing and whatever is published:",
        "",
        fenced("\n".join(command(of, each[1]) for each, of in by_seeds.items()), "sh"),
        "",
        "Their records:",
        "",
    ]
    for (source, package, commit, results, torch, device, processor), number in made.items():
        whose = "records of your own runs" if source == "runs" else "published records"
        lines.append(
            f"- {number} {whose}: dnrlib {package} at commit {commit}, results version {results}, "
            f"torch {torch}, on {device} ({processor})"
        )
    return Markdown("\n".join([*lines, "", agreement(found)]))


def verdicts(page: Parameters) -> pd.DataFrame:
    """The ledger of claims (`claims.ledger`) on a page's dataset, and on the analogues of exhibits
    that have their own, from all runs of the recipe that are published or on this machine, whatever
    the page shows; trains nothing. On photographs and on a dataset of the paper it is that of all
    of them (`scope_verdicts`)."""
    if scope(page.dataset) != "embedded":
        return scope_verdicts(scope(page.dataset))
    datasets = dict.fromkeys([page.dataset, *ANALOGUE.values()])
    smoke = page.budget == "smoke"
    return ledger({name: generations([] if smoke else _claimed_runs(name)) for name in datasets})


def scope_verdicts(of: str) -> pd.DataFrame:
    """The ledger of claims on `photographs`, or in the paper's own setting (`full`), from runs that
    are published or on this machine; trains nothing."""
    frames = {}
    for dataset in filter(lambda name: scope(name) == of, RECIPES):
        try:
            frames[dataset] = generations(_claimed_runs(dataset))
        except records.DamagedFile:
            raise
        except UserError:
            continue  # Its images are not on disk, so nothing of it was run here.
    return ledger(frames, of)


def _claimed_runs(dataset: str) -> Iterator[Run]:
    """The runs of every arm that a claim speaks of, with their evaluations: the seeds that have
    published records, and those of the user from there on without a gap."""
    files, archive = records.published_seeds(dataset), Archive()
    for arm in claimed_arms(dataset):
        for seed in itertools.count():
            run = find_evaluated(configure(dataset, seed=seed, **parse_arm(arm)), archive)
            if run is not None:
                yield run
            elif seed >= files:
                break


def find_evaluated(config: Config, archive: Archive) -> Run | None:
    """The finished run of a config with those evaluations of its dataset's exhibits that were made
    of it."""
    wanted = {
        each: None
        for exhibit in made_for(config.dataset)
        for each in evaluations_of(exhibit, config.dataset)
    }
    return archive.richest(config, wanted)


def status() -> Markdown:
    """Every exhibit of the DNR paper: how many of its arms were run, by the published records."""
    datasets = sorted(path.name for path in records.PUBLISHED.iterdir() if path.is_dir())
    found = {name: published_runs(name) for name in datasets}
    there = {name: {run.arm for run in runs} for name, runs in found.items()}
    rows = []
    for exhibit in ALL_EXHIBITS:
        notebook = EXHIBITS.get(exhibit)
        pages = [page for page in contents() if page.partition("-")[0] == notebook]
        counts: dict[str, list[str]] = {"embedded": [], "photographs": [], "full": []}
        for page in pages:
            dataset = page.partition("-")[2]
            if dataset in there and exhibit in ROWS:
                wanted = arms(exhibit, dataset)
                number = sum(arm in there[dataset] for arm in wanted)
                text = f"{dataset}: {number} of {len(wanted)} methods"
                counts[scope(dataset)].append(text)
        nothing = "nothing to train" if pages and exhibit not in ROWS else "not run"
        rows.append(
            [
                titled(exhibit),
                ", ".join(f"{{doc}}`{page.partition('-')[2] or page} <{page}>`" for page in pages)
                or "not in this book yet",
                *("; ".join(counted) or nothing for counted in counts.values()),
            ]
        )
    header = ["exhibit", "page", "embedded analogue", "photographs", "the paper's setting"]
    caption = "Exhibits of the DNR paper, and what of them was run, by the published records."
    listed = table(header, rows, caption, "tbl-status", words=True).data
    counted = "; ".join(f"{len(runs)} runs on {name}" for name, runs in found.items())
    return Markdown(f"{listed}\n\nPublished are {counted or 'no runs'}.")


def to_come(page: Parameters) -> Markdown:
    """On photographs, how many of the planned seeds of the page's arms are published; nothing to
    say of other datasets."""
    planned = PLANNED.get(page.dataset, {})
    wanted = {arm: seeds for arm, seeds in planned.items() if arm in page.arms()}
    if not wanted:
        return Markdown("")
    done = Counter(run.arm for run in published_runs(page.dataset))
    missing = sum(seeds - done[arm] for arm, seeds in wanted.items())
    text = (
        "The number of seeds of each method was fixed before any was looked at: "
        f"{sum(wanted.values())} runs in all on this page. "
    )
    if not missing:
        return Markdown(text + "All of them are published.")
    return Markdown(
        text
        + f"**{missing} of them are still to come.** Until then means may change, and no claim "
        "is judged."
    )


def claimed_arms(dataset: str) -> list[str]:
    """Every arm that a claim speaks of on a dataset, each once."""
    listed = claims()
    if dataset in ANALOGUE.values() or scope(dataset) == "photographs":
        listed = listed[listed["exhibit"].isin(made_for(dataset))]
    stated = [stated_arms(text, dataset) for text in listed[scope(dataset)] if text]
    return list(dict.fromkeys(arm for listed in stated for arm in listed))


def published_runs(dataset: str) -> list[Run]:
    """The published runs of a dataset: of every exhibit and claim, all seeds."""
    files = records.published_seeds(dataset)
    exhibits = made_for(dataset) if dataset in ANALOGUE.values() else ROWS
    listed = [arm for exhibit in exhibits for arm in arms(exhibit, dataset)]
    listed += claimed_arms(dataset)
    configs = grid(dataset, dict.fromkeys(listed), files) if files else []
    return [run for run in map(Archive(own=False).find, configs) if run]


# --------------------------------------------------------------------------------------------------
# From notebook to page


def known_parameters(notebook: Path) -> set[str]:
    """The parameters that a notebook has; empty if it has no cell tagged `parameters`."""
    import papermill

    return set(papermill.inspect_notebook(str(notebook)))


def execute(notebook: Path, output: Path, given: dict[str, Any], progress: bool = False) -> None:
    """Executes a notebook with parameters and writes the page; raises `UserError` for unknown
    parameters and papermill's error for a cell that fails."""
    import papermill

    unknown = given.keys() - known_parameters(notebook)
    if unknown:
        raise UserError(
            f"{notebook.name} has no parameter {', '.join(sorted(unknown))}; it has: "
            f"{', '.join(sorted(known_parameters(notebook)))}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    # papermill saves as it goes: a page with an error in it must not be taken for a page.
    partial = output.with_suffix(".partial.ipynb")
    papermill.execute_notebook(
        str(notebook),
        str(partial),
        parameters=given,
        cwd=str(ROOT),
        progress_bar=progress,
        kernel_name="python3",
    )
    page = nbformat.read(partial, as_version=4)
    for cell in page.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            # Shown, for it says what this page was made with.
            cell.metadata["tags"] = ["injected-parameters"]
    if "dataset" in given:
        heading, *rest = page.cells[0].source.split("\n")
        page.cells[0].source = "\n".join([f"{heading} ({escaped(given['dataset'])})", *rest])
    # Its absolute paths and times would differ from machine to machine.
    page.metadata.pop("papermill", None)
    gate(page, notebook.name)
    nbformat.write(page, output)
    partial.unlink()


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


def contents() -> list[str]:
    """The generated pages that the table of contents names, in order."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    named = [toc["root"]]
    for part in toc["parts"]:
        named += [chapter["file"] for chapter in part["chapters"]]
    return [name.removeprefix("pages/") for name in named if name.startswith("pages/")]


def source(page: str) -> tuple[Path, str | None]:
    """The notebook of a page, and its dataset: `table1-digits-hard` is `table1.ipynb` on
    `digits-hard`, `quickstart` is `quickstart.ipynb` as it is."""
    if (NOTEBOOKS / f"{page}.ipynb").exists():
        return NOTEBOOKS / f"{page}.ipynb", None
    name, _, dataset = page.partition("-")
    notebook = NOTEBOOKS / f"{name}.ipynb"
    if not notebook.exists() or dataset not in RECIPES:
        raise UserError(f"book/_toc.yml names pages/{page}, which no notebook and dataset make")
    return notebook, dataset


def ingredients() -> str:
    """A digest of all that an executed page is made of beside its notebook: the library, the pinned
    versions, the papers' numbers, the published records, the benchmarks; and by size and time of
    change the user's own records and images."""
    patterns = ("dnrlib/**/*.py", "dnrlib/**/*.toml", "data/paper/*", "benchmarks/results/*")
    content = [
        [str(path.relative_to(ROOT)), hashlib.sha256(path.read_bytes()).hexdigest()]
        for pattern in (*patterns, "data/records/manifest.json", "requirements.txt")
        for path in sorted(ROOT.glob(pattern))
    ]
    own = [*records.runs_root().glob("*/*.json"), *decoded.root().glob("**/manifest.json")]
    looks = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(own)]
    return digest([sys.version, content, looks])


def _made(notebook: Path, output: Path, given: dict[str, Any], made_of: str) -> None:
    """Executes a page, and notes in it what it was made of."""
    execute(notebook, output, given)
    page = nbformat.read(output, as_version=4)
    page.metadata["made_of"] = made_of
    nbformat.write(page, output)


def build_book() -> Path:
    """Makes every page and the book of them; returns its first file. Trains nothing.

    A page of a notebook and a dataset is executed, so that it sees the user's own runs too; it is
    kept if nothing has changed that a page is made of (`ingredients`). A page without a dataset is
    the committed notebook as it is, which nbval keeps true. Warnings are errors.
    """
    PAGES.mkdir(parents=True, exist_ok=True)
    wanted, common = contents(), ingredients()
    for old in PAGES.glob("*.ipynb"):
        if old.stem not in wanted:
            old.unlink()
    tasks, kept = [], 0
    for page in wanted:
        (notebook, dataset), output = source(page), PAGES / f"{page}.ipynb"
        if dataset is None:
            gate(nbformat.read(notebook, as_version=4), notebook.name)
            if not output.exists() or output.read_bytes() != notebook.read_bytes():
                records.write(output, notebook.read_bytes())
        else:
            made_of = digest([common, page, notebook.read_text()])
            if output.exists() and nbformat.read(output, 4).metadata.get("made_of") == made_of:
                kept += 1
                continue
            given = {"dataset": dataset, "train": False}
            tasks.append(delayed(_made)(notebook, output, given, made_of))
    if kept:
        print(f"{kept} of {kept + len(tasks)} executed pages are kept: nothing they show changed")
    pages = Parallel(n_jobs=min(os.cpu_count() or 1, 4), return_as="generator_unordered")(tasks)
    for _ in tqdm(pages, total=len(tasks), unit="page", desc="executing"):
        pass
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("jupyter-book")), "build", "book"),
            *("--config", "_config.yml", "--path-output", ".", "-W", "-n", "--keep-going"),
        ],
        cwd=ROOT,
    )
    index = ROOT / "_build" / "html" / "index.html"
    if done.returncode or not index.exists():
        raise UserError("the book was not built; the warnings above are errors")
    return index
