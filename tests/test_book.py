"""What the extensions of the book make of a page."""

import importlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from matplotlib import pyplot as plt

from dnrlib.book import figures
from dnrlib.records import ROOT

SITE = "https://example.org/name"


def test_a_description_is_made_of_whole_sentences(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "extensions")
    described = importlib.import_module("sharing").described
    long = f"A {'very ' * 60}long one."
    assert (
        described(f"Is it\nas Fig. 5 [3, 4] says? It is. {long}") == "Is it as Fig. 5 says? It is."
    )
    assert described(f"{long} Another.") == long, "never cut"


@pytest.mark.slow
def test_a_page_has_its_figures_its_description_and_once_there_is_a_source_its_buttons(tmp_path):
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("pages"))
    toc = {
        "format": "jb-book",
        "root": "bibliography",
        "chapters": [
            {"file": "pages/table1-digits", "sections": [{"file": "pages/table1-digits-hard"}]}
        ],
    }
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = "https://github.com/owner/name"
    config["html"]["baseurl"] = SITE
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    figures.not_run(plt.subplots()[1])
    drawing = io.BytesIO()
    plt.savefig(drawing, format="svg")
    shown = nbformat.v4.new_output("display_data", {"image/svg+xml": drawing.getvalue().decode()})
    shows = {"figure": {"name": "fig-a", "caption": "A caption."}, "image": {"alt": "Two <words>"}}
    cells = [
        nbformat.v4.new_markdown_cell(
            '# A page (digits)\n\nIt says "a" {cite}`taha2021ke` & more (D18).'
        ),
        nbformat.v4.new_markdown_cell(
            "| a | b |\n|---|---|\n| DNR, highest reset − KE (KELS), f3 | DNR |\n| DNR is D2 | – |"
        ),
        *(
            nbformat.v4.new_code_cell("1", outputs=[shown], metadata={"mystnb": shows | more})
            for more in ({}, {"figure": {"name": "fig-b", "caption": "Again."}})
        ),
    ]
    (tmp_path / "book" / "pages").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, tmp_path / "book" / "pages" / "table1-digits.ipynb")
    notebook.cells = [nbformat.v4.new_markdown_cell("# A page (hard)\n\nIt says.")]
    nbformat.write(notebook, tmp_path / "book" / "pages" / "table1-digits-hard.ipynb")
    program = Path(sys.executable).with_name("jupyter-book")
    options = ["--config", "_config.yml", "--path-output", ".", "-W", "-n"]
    subprocess.run([program, "build", "book", *options], cwd=tmp_path, check=True)
    built = tmp_path / "_build" / "html"
    text = (built / "pages" / "table1-digits.html").read_text()
    assert text.count('<svg class="drawing" role="img" aria-label="Two &lt;words&gt;"') == 2
    assert text.count(">not run</text>") == 2
    assert '<strong>digits</strong> · <a class="reference' in text
    assert ' href="table1-digits-hard.html">hard</a>' in text
    assert '<summary aria-label="the same of other images">' in text
    assert "<details><summary>" not in text
    ids = re.findall(r'\bid="([^"]+)"', text[text.index("<article") : text.index("</article")])
    assert len(ids) == len({*ids}) > 4
    assert '<meta name="description" content="It says “a” &amp; more (D18).">' in text
    leads = re.findall(r'href="(methods.html#tbl-plan-.*?|discrepancies.html#.*?)">(.*?)</a>', text)
    cards = [f"methods.html#tbl-plan-{method}" for method in ("dnr-highest", "ke")]
    rows = [f"discrepancies.html#{number}" for number in ("D18", "D2")]
    named = ("D18", "DNR, highest reset", "KE (KELS)", "D2")
    assert leads == list(zip((rows[0], *cards, rows[1]), named, strict=True))
    assert f'content="{SITE}/_static/card.png"' in text
    assert (built / "_static" / "card.png").stat().st_size > 1000
    binder = "https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/table1.ipynb"
    assert binder in text
    listed = (built / "bibliography.html").read_text()
    assert "mybinder" not in listed
    assert 'role="listitem"' in listed
    assert "doc-biblioentry" not in listed
