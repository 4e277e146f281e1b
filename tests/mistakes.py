"""Scientific mistakes that could well have been made, and the tests that notice them.

    python -m tests.mistakes                  all of them, minutes
    python -m tests.mistakes mask-inverted    some, by name

Each is a change to the source of one function, a line of `mistakes.tsv`. It is made in memory, in a
process of its own in which the tests run that should fail. First of all these tests must pass
without any mistake.
"""

import ast
import csv
import functools
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def test(name: str | None, chosen: list[str]) -> subprocess.CompletedProcess:
    """Runs tests in a process with a mistake, or without any."""
    environment = os.environ | ({VARIABLE: name} if name else {})
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *options, *chosen]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


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
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sound = pool.map(lambda item: test(None, [item[0], "-k", item[1]]), selected(names).items())
        for done in sound:
            if done.returncode:
                sys.exit(f"without any mistake the tests do not pass:\n{done.stdout}{done.stderr}")
        tried = [(name, *next(iter(selected([name]).items()))) for name in names]
        results = list(pool.map(lambda each: test(each[0], [each[1], "-k", each[2]]), tried))
    survived = [n for n, done in zip(names, results, strict=True) if done.returncode != 1]
    print(f"{len(names) - len(survived)} of {len(names)} mistakes were noticed")
    for name in survived:
        print(f"NOT noticed: {name}")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
