"""Only what is valid runs: for anything else, one line that says what is wrong."""

import contextlib
import copy
import dataclasses
import functools
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnrlib import UserError, cli, config, records, run, study
from dnrlib.book.pages import Parameters
from dnrlib.config import Config
from dnrlib.methods import METHODS, plan
from dnrlib.recipes import RECIPES, arm_of, configure, grid, parse_arm

# The same examples each time: a test that fails now and then helps nobody.
few = settings(max_examples=60, derandomize=True, database=None, deadline=None)
fewer = settings(few, max_examples=20)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**40, -1, 0, 1, 2**63])
    | st.floats()
    | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside),
    max_leaves=5,
)
ANYTHING = JSON | st.binary(max_size=5) | st.just(...)
BUNDLED = [name for name in RECIPES if name.startswith("digits")]
NAMES = st.sampled_from([spec.name for spec in dataclasses.fields(Config)])
SLIPS = ["", "+", "=", ",", "0", "1", "0.5", "1_0", "٣", "nan", "inf", "-1", "1e999", "\x00", "\n"]
SLIPS += ["~x", "folder:", "folder:~x", "tuned", "auto", "smoke"]
WORDS = st.sampled_from([*METHODS, *BUNDLED, *config.meanings(), *SLIPS])


@contextlib.contextmanager
def one_line():
    """Lets a `UserError` of one line pass, and nothing else."""
    said = "what is wrong"
    try:
        yield
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) == 1, said


@pytest.mark.fault(
    "anything as a setting, an arm or a parameter",
    "one line that says what is wrong",
)
@few
@given(st.dictionaries(NAMES, ANYTHING | WORDS, max_size=3))
def test_a_config_is_valid_or_refused(chosen):
    with one_line():
        made = configure(**{"dataset": "digits"} | chosen)
        # It is plain JSON, and one can say what it is.
        assert Config(**json.loads(json.dumps(vars(made)))) == made
        if made.generations * made.members * made.parts < 100:
            assert plan(made)
            assert configure(made.dataset, seed=made.seed, **parse_arm(arm_of(made))) == made


@pytest.mark.fault(
    "anything as a setting, an arm or a parameter",
    "one line that says what is wrong",
)
@few
@given(st.lists(WORDS | st.text(max_size=5), max_size=6), st.sampled_from(BUNDLED))
def test_an_arm_is_valid_or_refused(words, dataset):
    with one_line():
        (made,) = grid(dataset, ["".join(words)], 1)
        assert configure(dataset, **parse_arm(arm_of(made))) == made


@pytest.mark.fault(
    "anything as a setting, an arm or a parameter",
    "one line that says what is wrong",
)
@few
@given(
    st.fixed_dictionaries(
        {"dataset": ANYTHING | WORDS},
        optional=dict.fromkeys(("budget", "seeds", "methods", "train", "seed"), ANYTHING | WORDS),
    )
)
def test_parameters_of_a_page_are_valid_or_refused(chosen):
    with one_line():
        page = Parameters(**chosen)
        assert page.config() in [*grid(page.dataset, [page.config().method], [page.seed])]


@functools.cache
def made(folder):
    """The records of a run, by their paths."""
    chain = configure("digits", method="dnr", width=4, epochs=1, generations=2, per_class=4)
    run.run(chain, folder)
    return chain, {path: json.loads(path.read_text()) for path in folder.glob("*/*.json")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.fault(
    "anything in a sealed record",
    "named, with what to delete or fetch; nothing of it is used",
)
@few
@given(data=st.data(), sealed=st.booleans())
def test_a_changed_record_is_read_or_named(folder, data, sealed):
    """With a seal that fits, too: it proves nothing of who wrote it."""
    chain, whole = made(folder)
    path = data.draw(st.sampled_from(sorted(whole)))
    record = inside = copy.deepcopy(whole[path])
    while True:
        name = data.draw(st.sampled_from(sorted(inside)))
        if not (isinstance(inside[name], dict) and inside[name] and data.draw(st.booleans())):
            break
        inside = inside[name]
    if data.draw(st.booleans()):
        del inside[name]
    else:
        inside[name] = data.draw(JSON)
    try:
        with contextlib.suppress(ValueError):
            path.write_text(json.dumps(records.seal(record) if sealed else record))
        with one_line():
            study.Archive(published=False, runs=folder).find(chain)
    finally:
        path.write_text(json.dumps(whole[path]))


OPTIONS = ["--method", "--seeds", "--seed", "--dataset", "--budget", "--exhibit", "--evaluate"]
OPTIONS += ["--workers", "--device", "--plan", "--output", "--profile", "--lr", "--epochs", "-p"]
OPTIONS += ["--hours", "--size", "--root", "--download", "notebooks/table1.ipynb", "tests"]
ACTS = ["run.run", "run.profile", "study.study", "study.planned", "check.check", "records.write"]
ACTS += ["compare.choice.compared", "compare.export.run", "compare.export.export"]
ACTS += ["book.build.execute", "book.build.build_book"]
ACTS += ["datasets.folder.prepare", "datasets.official.prepare", "datasets.official.overview"]


@pytest.mark.fault("anything on the command line", "one line that says what is wrong")
@fewer
@given(
    st.sampled_from([*cli.COMMANDS, "data prepare", "data list", "records check"]),
    st.lists(st.sampled_from(OPTIONS) | WORDS | st.text(max_size=5), max_size=6),
)
def test_a_command_line_is_understood_or_refused(command, words):
    """What would train, fetch or write stops there."""
    stopped, said = UserError("it would act"), io.StringIO()

    def stop(*given, **named):
        raise stopped

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        for name in ACTS:
            patch.setattr(f"dnrlib.{name}", stop)
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                code = cli.main([*command.split(), *words])
            except SystemExit as error:
                code = error.code
    assert code in (0, 1, 2)
    if code == 1:
        assert said.getvalue().startswith("dnr: ")
        assert said.getvalue().count("\n") == 1
