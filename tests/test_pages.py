"""Parameters, papermill, nbval and the command line, as a user meets them."""

import gzip
import hashlib
import html
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown
from IPython.utils.capture import capture_output

import dnrlib.book
from dnrlib import UserError, cli, records
from dnrlib.book import build, pages
from dnrlib.book.build import gate
from dnrlib.book.pages import Parameters, parameters, reproduce, scope_verdicts, verdicts
from dnrlib.config import ONE_OF
from dnrlib.methods import MAIN, METHODS
from dnrlib.recipes import NAMES, configure
from dnrlib.records import ROOT
from dnrlib.run import run
from dnrlib.study import Archive, Run
from tests import POSIX
from tests.test_folder import build as folder_of

BIN = Path(sys.executable).parent


def test_parameters_as_papermill_passes_them():
    page = parameters(
        dataset="digits", budget="smoke", seeds=2, methods="dnr, tune,dnr", train="false"
    )
    assert page.arms() == ["dnr", "tune"]
    assert page.train is False
    assert [(c.method, c.seed, c.epochs) for c in page.configs()] == [
        ("dnr", 0, 2),
        ("tune", 0, 2),
        ("dnr", 1, 2),
        ("tune", 1, 2),
    ]


def test_automatic_seeds_are_exactly_what_is_published(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PUBLISHED", tmp_path)
    page = Parameters("digits", budget="smoke", methods="plain,tune")
    assert len(page.configs()) == 10
    for config in (page.configs()[0], page.configs()[1], page.configs()[2]):
        records.publish("digits", config.seed, run(config))
    assert [(c.seed, c.method) for c in page.configs()] == [(0, "plain"), (0, "tune"), (1, "plain")]
    # An arm of which nothing is published has five seeds all the same.
    assert len(page.configs(["plain", "long"])) == 2 + 5
    monkeypatch.setattr(pages, "PLANNED", {"digits": {"plain": 3, "long": 7}})
    assert len(page.configs(["plain", "long"])) == 2 + 7, "or those that are planned"
    assert len(Parameters("digits", seeds=8, methods="plain,tune").configs()) == 16


def test_automatic_methods_are_those_of_the_exhibit():
    page = parameters("table5", dataset="digits", methods="auto", seeds=1)
    assert [config.keep for config in page.configs()] == [0.8, 0.95, 0.9, 0.8, 0.7, 0.6]
    assert page.also("table6") == ["ke", "dnr"]
    assert parameters("table5", dataset="digits", methods="dnr", seeds=1).also("table6") == []
    page = parameters("table1", dataset="digits", methods="dnr+keep=0.5", seeds=1)
    assert page.configs()[0].keep == 0.5


def test_methods_given_by_hand_are_named_as_in_the_frames():
    page = Parameters("digits", methods="dnr+generations=10, dnr+per_class=5+generations=3")
    assert page.arms() == ["dnr", "dnr+generations=3+per_class=5"]


def test_on_photographs_a_page_says_how_many_seeds_are_still_to_come():
    cells = nbformat.read(pages.NOTEBOOKS / "table1.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if "still to come" in cell.source]
    published = []

    def said(page):
        plan = {"plain": 2, "dnr": 1, "ke": 5}
        names = {"page": page, "PLANNED": {"cifar10-few": plan}, "Counter": Counter}
        names |= {"Markdown": Markdown, "published_runs": lambda dataset: published}
        exec(source, names)
        return names["words"]

    page = Parameters("cifar10-few", methods="plain,dnr")
    assert said(Parameters("digits")) == ""
    assert "3 runs in all on this page. **3 of them are still to come.**" in said(page)
    published += [Run(config, [], "published") for config in page.configs() if config.seed == 0]
    assert "**1 of them" in said(page)
    published.append(Run(page.config(method="plain"), [], "published"))
    assert said(page).endswith("All of them are published.")


def shown(page):
    """The texts among the outputs of a notebook, in Markdown."""
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    return "".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


def test_the_first_page_shows_every_set_of_each_claim_with_all_planned_seeds():
    page = nbformat.read(pages.NOTEBOOKS / "start.ipynb", as_version=4)
    rows = re.findall(r"<claim-([\w-]+)>` \|(.*)\|", shown(page))
    assert {"beats-lb", "cutmix-helps"} <= {claim for claim, _ in rows}
    of_photographs = scope_verdicts("photographs")
    for claim, cells in rows:
        assert of_photographs.loc[claim, "verdict"] not in ("not finished", "not run"), claim
        assert len(re.findall(r"\| [+−][\d.]+ \[", f"|{cells}|")) == 3, claim


def test_verdicts_are_of_all_published_seeds_and_never_of_a_smoke_budget():
    assert verdicts(Parameters("digits", seeds=1)).loc["beats-lb", "n"] >= 40
    smoke = verdicts(Parameters("digits", budget="smoke"))
    assert set(smoke["verdict"]) == {"not run"}


@POSIX
def test_commands_to_reproduce_a_page_by_number_of_seeds(tiny):
    page = Parameters("digits", methods="dnr,dnr+probe=2")
    text = reproduce(page, "table7", []).data
    found = [run for run in map(Archive().find, page.configs()) if run is not None]
    assert f"{len(found)} of its runs are not on disk. To run them:" in text
    assert "dnr study --dataset digits --method dnr --method dnr+probe=2 --seeds 68" in text
    page = Parameters("digits", methods="dnr,dnr+probe=2,dnr+probe=3")
    text = reproduce(page, "table7", found).data
    assert "5 of its runs are not on disk. To run them:" in text
    assert "dnr study --dataset digits --method dnr+probe=3 --seeds 5" in text
    assert "those shown are published" in text
    assert "dnr study --dataset digits --method dnr --seeds 68" in text
    assert "dnr study --dataset digits --method dnr+probe=2 --seeds" in text


def test_commands_on_a_folder_of_any_name_can_be_typed(tmp_path):
    name = folder_of(tmp_path / "my 'photos'; touch PWN\n```\n", {"cat": 8, "dog": 8})
    page = Parameters(name, methods="plain, tune", seeds=1)
    said = reproduce(page, "table1", [Run(page.config(method="tune"), [], "runs")]).data
    papermill, *studies = re.findall(r"(?s)(`{4,})sh\n(.*?)\n\1", said)
    assert f"-p dataset {shlex.quote(name)} \\\n" in papermill[1]
    assert shlex.split(papermill[1])[-1] == "plain, tune"
    untrained = reproduce(replace(page, train="False"), "table1", []).data
    assert "-p methods 'plain, tune' -p train False\n" in untrained
    for (_, study), arm in zip(studies, ("plain", "tune"), strict=True):
        typed = ["dnr", "study", "--dataset", name, "--method", arm]
        assert shlex.split(study)[:6] == typed


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("folder:/<img src=x>", "folder:/<img src=x>"),
        ("digits", "digits"),
        ("flower102-64", "Flowers-102 at 64 pixels"),
        ("cifar10-few-imbalanced", "CIFAR-10, from 200 to 10 images per class"),
    ],
)
def test_the_heading_of_a_page_names_its_images_and_any_name_is_text(tmp_path, name, shown):
    cells = [nbformat.v4.new_markdown_cell("# A page"), nbformat.v4.new_code_cell("dataset = 1")]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, tmp_path / "a.ipynb")
    build.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {"dataset": name})
    heading = nbformat.read(tmp_path / "b.ipynb", as_version=4).cells[0].source
    assert "<" not in heading
    assert html.unescape(heading) == f"# A page ({shown})"


def test_a_page_has_one_cell_of_parameters_with_what_it_was_made_with(tmp_path):
    """The defaults that were not given still stand there, so that the page can be run again."""
    cells = [nbformat.v4.new_markdown_cell("# A page")]
    cells.append(nbformat.v4.new_code_cell('dataset = "digits"\nseeds = "auto"'))
    cells[1].metadata["tags"] = ["parameters", "hide-input"]
    cells.append(nbformat.v4.new_code_cell("print(dataset, seeds)"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "a.ipynb")
    build.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {"dataset": "digits-hard"})
    made = nbformat.read(tmp_path / "b.ipynb", as_version=4).cells
    assert [cell.cell_type for cell in made] == ["markdown", "code", "code"]
    assert made[1].source == "dataset = 'digits-hard'\nseeds = 'auto'"
    assert made[1].metadata["tags"] == ["parameters", "hide-input"]
    assert made[2].outputs[0].text == "digits-hard auto\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "digit"}, "choose one of: flower102, flower102-64"),
        ({"dataset": "digits", "budget": "big"}, "choose one of: auto, smoke"),
        ({"dataset": "digits", "seeds": "[0,1]"}, "must be auto or a whole number of at least 1"),
        ({"dataset": "digits", "seeds": 0}, "must be auto or a whole number of at least 1"),
        ({"dataset": "digits", "methods": "dnr,sgd"}, f"'sgd' is unknown; .*{', '.join(METHODS)}"),
        ({"dataset": "digits", "methods": "dnr+kep=1"}, "'kep' is no setting of an arm"),
        ({"dataset": "digits", "methods": "dnr+keep=x"}, "keep='x' is not of type float"),
        ({"dataset": "digits", "methods": "dnr+keep=2"}, "must lie between 0 and 1"),
        ({"dataset": "digits", "train": "maybe"}, "must be true or false"),
        (
            {"dataset": "flower102"},
            "not on this machine; to get it: dnr data prepare flower102",
        ),
        (
            {"dataset": "digits", "methods": "plain+epochs=2+generations=2"},
            "trains as long as the smoke budget does",
        ),
        ({"dataset": "cub200"}, "dnr data prepare cub200"),
    ],
)
def test_bad_parameters_are_refused_with_the_valid_ones(given, message):
    with pytest.raises(UserError, match=message):
        parameters(**given)


def test_unknown_injected_parameters_are_refused_before_all_else_is_imported(monkeypatch):
    cells = ["", "import x", 'dataset = "digits"\nseeds = 2\n', '# Parameters\ndatset = "a"\n']
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    message = "unknown parameter datset; this notebook has: dataset, seeds"
    with pytest.raises(UserError, match=message):
        parameters(dataset="digits", seeds=2)
    with pytest.raises(UserError, match=message):
        importlib.reload(dnrlib.book)
    cells.append("# Parameters\nseeds = 1\n")
    assert parameters(dataset="digits", seeds=1).seeds == 1, "the cell was mended"


def test_gate_refuses_unexecuted_and_failed_cells():
    cell = nbformat.v4.new_code_cell("1 + 1")
    page = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(UserError, match="page: cell 1 was not executed"):
        gate(page, "page")
    cell.execution_count = 1
    gate(page, "page")
    cell.outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]
    with pytest.raises(UserError, match="page: cell 1 ended in an error"):
        gate(page, "page")


# --------------------------------------------------------------------------------------------------
# The command line


def test_help_has_examples(capsys):
    for arguments in (["--help"], ["run", "--help"], ["study", "--help"], ["page", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "dnr run --dataset digits --method dnr --seed 0" in said
    assert "share of weights that DNR keeps, 0..1" in said


@pytest.mark.parametrize("command", ["run", "export"])
def test_help_names_the_choices_of_every_setting(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for setting, names in (NAMES | ONE_OF).items():
        _, text = said.rsplit(f" --{setting} ", 1)
        for name in names:
            assert re.search(rf"[ (]{name}[,) ]", text.partition(" --")[0] + " "), setting
    assert "METHODS" not in said


def test_a_run_begins_with_its_settings(capsys):
    given = ["--dataset", "digits-hard", "--width", "4", "--lr", "0.25", "--method", "plain"]
    assert cli.main(["run", "--budget", "smoke", *given]) == 0
    said = " ".join(capsys.readouterr().out.split("generation ")[0].split())
    config = configure("digits-hard", "smoke", width=4, lr=0.25, method="plain")
    assert ", ".join(f"{name}={value}" for name, value in vars(config).items()) in said


def test_run_prints_a_line_per_generation_and_the_record(capsys):
    assert cli.main(["run", "--budget", "smoke", "--width", "4", "--method", "dnr"]) == 0
    said = capsys.readouterr().out
    assert said.count("generation ") == 2
    assert "its mask keeps 80.0%" in said
    assert Path(said.split("record: ")[1].strip()).exists()


def test_study_summarises(capsys):
    words = "study --budget smoke --method plain --seeds 2 --workers 1"
    assert cli.main(words.split()) == 0
    said = capsys.readouterr().out
    assert "2 runs to train" in said
    assert "\ndigits: test_accuracy in %\n" in said
    assert said.endswith("no published ones of their kind compare with them.\n")
    assert cli.main(words.split()) == 0
    assert "nothing to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--dataset", "flower102"], "to get it: dnr data prepare flower102"),
        (["study", "--method", "sgd"], "method='sgd' is unknown"),
        (["study", "--method", "ke+keep=0.5"], "keep=0.5 changes nothing in ke"),
        (["study", "--method", "dnr+keep=0.5+keep=0.6"], "keep is given twice"),
        (["run", "--method", "lw+keep"], "keep='' is not of type float"),
        (["run", "--method", "dnr+keep=0.5", "--keep", "0.6"], "keep: given in 'dnr+keep=0.5' and"),
        (["run", "--method", "ke", "--keep", "0.5"], "keep=0.5 changes nothing in ke"),
        (["run", "--augment", "resized-crop"], "leaves 8 of the 10 pixels"),
        (["run", "--dataset", "digits-metric", "--noise", "0.2"], "noise is of the labels of all"),
        (["data", "prepare", "flower102", "--skip-corrupt"], "is for folders of your own"),
        (["data", "prepare", "folder:mine", "--download"], "are for the papers' datasets"),
        (["run", "--keep", "2"], "keep=2.0 must lie between 0 and 1"),
        (["run", "--device", "tpu"], "device='tpu' is not available here"),
        (["study", "--seeds", "0"], "seeds=0 must be at least 1"),
        (
            ["page", "nothing.ipynb", "--dataset", "digits"],
            "nothing.ipynb is not a notebook that exists",
        ),
        (
            [
                "page",
                str(ROOT / "notebooks" / "table1.ipynb"),
                "--dataset",
                "digits",
                "-p",
                "sed",
                "1",
            ],
            "table1.ipynb has no parameter sed; it has: budget, dataset, methods, seeds, train",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_1(arguments, message, capsys):
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xfe", b"[]", b"{}", b'{"cells": 3}'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path, capsys, content):
    notebook = tmp_path / "x.ipynb"
    notebook.write_bytes(content)
    assert cli.main(["page", str(notebook), "--dataset", "digits"]) == 1
    said = capsys.readouterr().err
    assert f"{notebook} cannot be read as a notebook" in said
    assert said.count("\n") == 1


# --------------------------------------------------------------------------------------------------
# Through papermill and nbval, in processes of their own


def papermill(*arguments, **environment):
    return subprocess.run(
        [BIN / "papermill", "--no-progress-bar", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_papermill_refuses_an_unknown_parameter(tmp_path):
    done = papermill("notebooks/table1.ipynb", tmp_path / "out.ipynb", "-p", "datset", "digits")
    assert done.returncode == 1
    assert "unknown parameter datset; this notebook has: dataset, budget, seeds" in done.stderr


@pytest.mark.slow
def test_from_nothing_to_a_page(tmp_path):
    """A smoke study is trained, tabulated and drawn by the papermill command of the README."""
    given = ("-p", "dataset", "digits-hard", "-p", "seeds", 2, "-p", "budget", "smoke")
    given += ("-p", "methods", ",".join(MAIN))
    output = tmp_path / "out.ipynb"
    done = papermill("notebooks/table1.ipynb", output, *given, DNRLIB_RUNS=str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    assert "12 runs to train" in text
    assert "| DNR | 2 |" in text
    assert "DNR − fine-tuning" in text


def test_a_folder_is_found_from_where_its_page_was_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(build, "execute", lambda *given: asked.append(given[2]["dataset"]))
    monkeypatch.chdir(tmp_path)
    notebook = str(ROOT / "notebooks" / "table1.ipynb")
    assert cli.main(["page", notebook, "--dataset", "folder:mine", "--dataset", "digits"]) == 0
    assert asked == [f"folder:{tmp_path / 'mine'}", "digits"]


@pytest.mark.slow
def test_dnr_page_makes_a_page_per_dataset_and_summarises_failures(tmp_path, capsys):
    notebook = str(ROOT / "notebooks" / "convergence.ipynb")
    given = ["--output", str(tmp_path), "-p", "budget", "smoke", "-p", "seeds", "1"]
    arguments = ["page", notebook, "--dataset", "digits", "--dataset", "flower102", *given]
    assert cli.main(arguments) == 1
    done = capsys.readouterr()
    assert "1 of 2 pages failed:\n  flower102: UserError: dataset='flower102' is not" in done.err
    assert "partial.ipynb)" in done.err, "where the whole error stands"
    page = nbformat.read(tmp_path / "convergence-digits.ipynb", as_version=4)
    assert page.cells[0].source.startswith("# Fig. 3: accuracy by generation (digits)")
    assert "papermill" not in page.metadata
    assert [file.name for file in tmp_path.glob("*.ipynb") if "partial" not in file.name] == [
        "convergence-digits.ipynb"
    ]


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package, the published digits and one notebook."""
    for name in ("dnrlib", "data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "convergence.ipynb", tmp_path / "notebooks")
    return tmp_path


def nbval(checkout):
    """The nbval command of `make test`, in a copy."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "notebooks"),
            *("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(checkout)),
        ],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "DNRLIB_RUNS": str(checkout / "runs")},
        capture_output=True,
        text=True,
    )


def change(path, edit):
    page = nbformat.read(path, as_version=4)
    edit(page)
    nbformat.write(page, path)


@pytest.mark.slow
def test_nbval_is_green_on_an_unchanged_copy(checkout):
    done = nbval(checkout)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_nbval_is_red_when_a_record_changes(checkout):
    """One seed's DNR gains a point, under a new and valid seal and in a new manifest."""
    path = checkout / "data" / "records" / "digits" / "seed-0000.jsonl.gz"
    found = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for record in found:
        if "Top" in json.dumps(record.get("stage", {})):
            record["result"]["test_accuracy"] += 1
    lines = "".join(json.dumps(records.seal(record)) + "\n" for record in found)
    path.write_bytes(gzip.compress(lines.encode()))
    listed = checkout / "data" / "records" / "manifest.json"
    digest = {"digits/seed-0000.jsonl.gz": hashlib.sha256(path.read_bytes()).hexdigest()}
    listed.write_text(json.dumps(json.loads(listed.read_text()) | digest))
    done = nbval(checkout)
    assert done.returncode == 1, done.stdout


@pytest.mark.slow
def test_nbval_is_red_when_an_output_is_removed(checkout):
    def remove(page):
        cell = next(
            c for c in page.cells if c.cell_type == "code" and "tbl-by-generation" in c.source
        )
        cell.outputs = []

    change(checkout / "notebooks" / "convergence.ipynb", remove)
    assert nbval(checkout).returncode == 1


def test_an_unexecuted_cell_is_red(tmp_path):
    """nbval would pass over it; the gate of the tests and of the book does not."""
    path = Path(shutil.copy(ROOT / "notebooks" / "convergence.ipynb", tmp_path))

    def reset(page):
        page.cells[-1].execution_count, page.cells[-1].outputs = None, []

    change(path, reset)
    with pytest.raises(UserError, match="was not executed"):
        gate(nbformat.read(path, as_version=4), path.name)


def test_help_imports_nothing_of_what_commands_need():
    code = (
        "import sys; from dnrlib import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "numpy", "pandas", "IPython"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "notebook",
    [
        path
        for path in sorted(pages.NOTEBOOKS.glob("*.ipynb"))
        if "train = True" in path.read_text()
    ],
    ids=lambda path: path.stem,
)
def test_a_page_without_runs_says_so(notebook, monkeypatch):
    """In this process: a kernel would spend most of its time on imports."""
    monkeypatch.chdir(pages.ROOT)
    shell, said = InteractiveShell(), ""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                shell.run_cell(cell.source).raise_error()
            said += captured.stdout
            assert not captured.stderr
            if "parameters" in cell.metadata.get("tags", []):
                shell.push({"budget": "smoke", "train": False})
    plt.close("all")
    assert "not run: " in said


def test_what_pages_are_made_of_changes_with_everything_that_they_show(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    files = ("dnrlib/run.py", "data/paper/a.csv", "data/records/manifest.json", "requirements.txt")
    seen = set()
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for content in ("one", "two"):
            path.write_text(content)
            assert build.ingredients() not in seen
            assert build.ingredients() == build.ingredients()
            seen.add(build.ingredients())
    run(tiny(method="plain"))
    assert build.ingredients() not in seen


def test_a_page_is_executed_when_it_must_be(tiny, tmp_path, monkeypatch, capsys):
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("dataset = 'digits'")]
    cells[1].update(metadata={"tags": ["parameters"]}, execution_count=1)
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    made, notebook = [], nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    for name in ("one", "two"):
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")

    def execute(notebook, output, given, progress, made_of):
        made.append(output.stem)
        page = nbformat.read(notebook, 4)
        page.metadata["made_of"] = made_of
        nbformat.write(page, output)

    index = tmp_path / "_build" / "html" / "index.html"
    index.parent.mkdir(parents=True)
    index.write_text("what was the first page")

    failed = 0

    def built(program, cwd, **_):
        assert not index.exists()
        index.touch()
        return SimpleNamespace(returncode=failed, stderr="a.md:3: WARNING: no such page")

    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(build, "PAGES", tmp_path / "pages")
    monkeypatch.setattr(
        build, "contents", lambda: ["one-digits", "two-digits", "two-digits-hard", "two"]
    )
    monkeypatch.setattr(build, "execute", execute)
    at_once = SimpleNamespace(
        finished=lambda function, calls, workers: [function(*c) for c in calls]
    )
    monkeypatch.setattr(build, "parallel", at_once)
    monkeypatch.setattr(build, "subprocess", SimpleNamespace(run=built))
    build.build_book()
    assert made == ["two-digits-hard"], "the others are the committed notebooks"
    as_committed = nbformat.read(tmp_path / "pages" / "two-digits.ipynb", 4)
    assert as_committed.cells[0].source == "# A (digits)"
    unchanged = (tmp_path / "pages" / "two.ipynb").stat().st_mtime_ns
    build.build_book()
    assert len(made) == 1
    said = capsys.readouterr()
    book = "book: being made of 4 notebooks and the chapters"
    assert said.out.splitlines() == [
        *("pages: 1 of 4 to execute", book),
        *("pages: 0 of 4 to execute", book),
    ]
    assert said.err == "", "no bar outside of a terminal"
    assert (tmp_path / "pages" / "two.ipynb").stat().st_mtime_ns == unchanged
    notebook.cells[0].source = "# B"
    nbformat.write(notebook, tmp_path / "two.ipynb")
    build.build_book()
    assert made[1:] == ["two-digits-hard"]
    for page in ("two", "two-digits"):
        assert "# B" in (tmp_path / "pages" / f"{page}.ipynb").read_text()
    (tmp_path / "requirements.txt").write_text("torch==3")
    build.build_book()
    assert made[2:] == ["two-digits-hard"]
    run(tiny(method="plain"))
    build.build_book()
    assert sorted(made[3:]) == ["one-digits", "two-digits", "two-digits-hard"], "with own runs"
    failed = 1
    with pytest.raises(UserError, match=r"not built; its warnings are errors:\na.md:3: WARNING"):
        build.build_book()
