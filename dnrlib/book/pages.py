"""What notebooks share: checked parameters, verdicts, how to reproduce a page; and the contents."""

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from IPython.display import Markdown

from .. import UserError, records
from ..config import Config, not_one_of
from ..datasets.catalogue import dataset as named_dataset
from ..evaluate.evaluations import Evaluation
from ..frames import generations
from ..paper.claims import arms as stated_arms
from ..paper.claims import claims, ledger
from ..paper.exhibits import (
    ANALOGUE,
    EXHIBITS,
    PLANNED,
    Exhibit,
    arms,
    evaluations_of,
    made_for,
    run_on,
)
from ..recipes import BUDGETS, RECIPES, arm_of, configure, grid, parse_arm, scope
from ..records import ROOT
from ..study import Archive, Run, command
from . import refuse_unknown
from .agreement import agreement
from .tables import fenced, findings

NOTEBOOKS = ROOT / "notebooks"
BOOK = ROOT / "book"
PAGES = BOOK / "pages"


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
        if self.budget not in (known := ("auto", *BUDGETS)):
            raise UserError(not_one_of("budget", self.budget, known))
        if self.seeds != "auto" and (type(self.seeds) is not int or self.seeds < 1):
            raise UserError(f"seeds={self.seeds!r} must be auto or a whole number of at least 1")
        if type(self.seed) is not int:
            raise UserError(f"seed={self.seed!r} must be a whole number")
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
        outermost; with `auto`, of each arm exactly those that are published, or as many as are
        planned if none is (five where nothing is planned)."""
        budget = None if self.budget == "auto" else self.budget
        wanted = self.arms() if chosen is None else chosen
        if self.seeds != "auto":
            return grid(self.dataset, wanted, self.seeds, budget)
        files, archive = records.published_seeds(self.dataset), Archive(own=False)
        listed = []
        for arm in wanted:
            planned = PLANNED.get(self.dataset, {}).get(arm, 5)
            most = grid(self.dataset, [arm], max(files, planned), budget)
            listed += [config for config in most if archive.find(config)] or most[:planned]
        return sorted(listed, key=lambda config: config.seed)


def parameters(exhibit: str = "table1", **given: Any) -> Parameters:
    """The parameters of a notebook, as they come from its own cell or from papermill, checked.

    Called with the exhibit, and all of them by name. Raises `UserError` that lists the valid values
    for a bad value, and the valid names for an unknown one (`refuse_unknown`).
    """
    refuse_unknown()
    return Parameters(exhibit=exhibit, **given)


def reproduce(page: Parameters, notebook: str, found: list[Run]) -> Markdown:
    """The end of every page, folded: the commands that make it, and where its runs came from; and
    which of its exhibit's runs are not on disk."""
    dataset, methods = shlex.quote(page.dataset), shlex.quote(str(page.methods))
    given = (
        f"papermill notebooks/{notebook}.ipynb out.ipynb -p dataset {dataset} \\\n"
        f"  -p budget {page.budget} -p seeds {page.seeds} \\\n"
        f"  -p methods {methods}"
    )
    given += "" if page.train else " -p train False"
    found = [*{(run.config, run.evaluations): run for run in found}.values()]
    title = "The commands that make this page, its parameters, and where its runs came from"
    lines = [f"::::{{admonition}} {title}", ":class: dropdown", "", fenced(given, "sh"), ""]
    lines += ["{doc}`/parameters` says what the parameters mean.", ""]
    there = {run.config for run in found}
    if missing := [config for config in page.configs() if config not in there]:
        said = f"{len(missing)} of its runs are not on disk. To run them:"
        lines += [said, "", fenced(command(missing, page.evaluations), "sh"), ""]
    if not found:
        return Markdown("\n".join([*lines, "::::"]))
    shown = [(run, record) for run in found for record in run.records]
    whence = ("package", "commit", "results", "torch", "device", "processor")
    made = Counter(
        (run.source, *(str(record["provenance"][name]) for name in whence)) for run, record in shown
    )
    # Runs share records.
    timed = {record["key"]: record for _, record in shown if "timing" in record}
    seconds = sum(record["timing"]["seconds"] for record in timed.values())
    # One command for the arms that have as many seeds.
    by_arm: dict[tuple, list[Config]] = {}
    for run in found:
        of = run.config.dataset, run.evaluations, run.arm
        by_arm.setdefault(of, []).append(run.config)
    alike: dict[tuple, list[Config]] = {}
    for (of, evaluations, _), configs in by_arm.items():
        last = max(config.seed for config in configs)
        alike.setdefault((of, evaluations, last), []).extend(configs)
    commands = [command(configs, evaluations) for (_, evaluations, _), configs in alike.items()]
    work = "training and evaluation" if any(run.evaluations for run in found) else "training"
    lines += [
        f"This page shows {len(found)} runs; their {work} took {seconds / 60:.0f} minutes in "
        "all, one after the other. To train them yourself, from nothing and whatever is published:",
        "",
        fenced("\n".join(commands), "sh"),
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
    return Markdown("\n".join([*lines, "", agreement(found), "::::"]))


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
            named_dataset(dataset)
        except records.DamagedFile:
            raise
        except UserError:
            continue  # Its images are not on disk, so nothing of it was run here.
        frames[dataset] = generations(_claimed_runs(dataset))
    return ledger(frames, of)


def answers(page: Parameters, exhibits: str = "") -> Markdown:
    """What was found: the sentences about the exhibits of a page (its own unless named), with
    verdicts (`tables.findings`)."""
    return findings(verdicts(page), exhibits or page.exhibit, page.dataset)


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
    of = config.dataset
    wanted = [each for exhibit in made_for(of) for each in evaluations_of(exhibit, of)]
    return archive.richest(config, dict.fromkeys(wanted))


def claimed_arms(dataset: str) -> list[str]:
    """Every arm that a claim speaks of on a dataset, each once."""
    listed = claims()
    listed = listed[listed["exhibit"].isin(run_on(dataset))]
    said = [text for text in listed[scope(dataset)] if text]
    return list(dict.fromkeys(arm for text in said for arm in stated_arms(text, dataset)))


def published_runs(dataset: str) -> list[Run]:
    """The published runs of a dataset: of every exhibit and claim, all seeds."""
    files = records.published_seeds(dataset)
    listed = [arm for exhibit in run_on(dataset) for arm in arms(exhibit, dataset)]
    listed += claimed_arms(dataset)
    configs = grid(dataset, dict.fromkeys(listed), files) if files else []
    return [run for run in map(Archive(own=False).find, configs) if run]


def contents() -> list[str]:
    """The generated pages that the table of contents names, in order."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    listed = [page for chapter in chapters for page in (chapter, *chapter.get("sections", ()))]
    names = [toc["root"], *(page["file"] for page in listed)]
    return [name.removeprefix("pages/") for name in names if name.startswith("pages/")]


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


def pages_of(exhibit: str) -> list[str]:
    """The pages of the table of contents that show an exhibit, in order."""
    notebook = EXHIBITS.get(exhibit, Exhibit()).notebook or exhibit
    return [page for page in contents() if source(page)[0].stem == notebook]
