"""Scientific mistakes that could well have been made, and the tests that notice them.

    python -m tests.mistakes                  all of them, minutes
    python -m tests.mistakes mask-inverted    some, by name

Each is a change to the source of one function, a line of `mistakes.tsv`. It is made in memory, in a
process of its own in which the tests run that should fail. First of all these tests must pass
without any mistake.
"""

import ast
import contextlib
import csv
import functools
import importlib
import inspect
import io
import multiprocessing
import os
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
VARIABLE = "DNRLIB_MISTAKE"
"""The environment variable that names the mistake of a process; see `conftest.py`."""

MISTAKES = {
    name: rest
    for name, *rest in csv.reader(
        (ROOT / "tests" / "mistakes.tsv").read_text().splitlines()[1:],
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
    )
}
"""Per name: the function, what stands in it, what is put in its place, and the test file and the
words that select the tests."""


def found(path: str) -> object:
    """The function of this name in `dnrlib`, without decorators."""
    module, _, rest = path.partition(".")
    while not (ROOT / "dnrlib" / f"{module.replace('.', '/')}.py").exists():
        word, _, rest = rest.partition(".")
        module += f".{word}"
    start = importlib.import_module(f"dnrlib.{module}")
    return inspect.unwrap(functools.reduce(getattr, rest.split("."), start))


def mistaken(name: str) -> tuple[object, object]:
    """The function of a mistake and its code with the mistake in it; raises `ValueError` unless
    what is to be changed stands there exactly once."""
    path, old, new, *_ = MISTAKES[name]
    function = found(path)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise ValueError(f"{name}: {old!r} stands {source.count(old)} times in {path}")
    tree = ast.parse(source.replace(old, new))
    (definition,) = tree.body
    definition.decorator_list, definition.returns = [], None
    for argument in (*definition.args.args, *definition.args.kwonlyargs):
        argument.annotation = None
    space: dict = {}
    exec(compile(tree, name, "exec"), vars(sys.modules[function.__module__]), space)
    return function, space[definition.name].__code__


def make(name: str) -> None:
    """Makes a mistake in this process."""
    function, code = mistaken(name)
    function.__code__ = code


def test(task: tuple[str | None, str, str]) -> tuple[int, str]:
    """The exit status of pytest with a mistake, or without any, on the tests of a file that words
    select; and what it printed. Each is called in a process of its own."""
    name, file, words = task
    if name:
        os.environ[VARIABLE] = name
    unused = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = pytest.main(["-q", "-x", *unused, str(ROOT / file), "-k", words])
    return int(status), printed.getvalue()


def selected(names: list[str]) -> dict[str, str]:
    """The words that select the tests of these mistakes, by test file."""
    words: dict[str, list[str]] = {}
    for name in names:
        *_, file, word = MISTAKES[name]
        words.setdefault(f"tests/{file}.py", []).append(word)
    return {file: " or ".join(dict.fromkeys(each)) for file, each in words.items()}


def main() -> int:
    names = sys.argv[1:] or list(MISTAKES)
    if unknown := [name for name in names if name not in MISTAKES]:
        sys.exit(f"no mistake {', '.join(unknown)}; there are: {', '.join(MISTAKES)}")
    # What takes long to import is imported once: each process is a fork of this one.
    import nbformat  # noqa: F401, for the plugin nbval
    import torchvision  # noqa: F401

    for path, *_ in MISTAKES.values():
        found(path)
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool:
        sound = [(None, *item) for item in selected(names).items()]
        for status, printed in pool.imap(test, sound, chunksize=1):
            if status:
                sys.exit(f"without any mistake the tests do not pass:\n{printed}")
        tried = [(name, *next(iter(selected([name]).items()))) for name in names]
        results = pool.map(test, tried, chunksize=1)
    survived = [n for n, (status, _) in zip(names, results, strict=True) if status != 1]
    print(f"{len(names) - len(survived)} of {len(names)} mistakes were noticed")
    for name in survived:
        print(f"NOT noticed: {name}")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
