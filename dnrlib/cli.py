"""The console command `dnr`.

What a command needs is imported when it is chosen: `dnr --help` imports nothing of it.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import textwrap
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from . import UserError, __version__

EXAMPLES = """examples:
  dnr run --dataset digits --method dnr --seed 0        one run, a line per generation
  dnr run --method ke --generations 3 --lr 0.05         any setting can be changed
  dnr study --dataset digits --seeds 5                  the main methods, five seeds, in parallel
  dnr study --exhibit table5 --seeds 3                  everything that Table 5 compares
  dnr study --method dnr+keep=0.6 --method tune         any setting can be part of a method
  dnr page notebooks/table1.ipynb --dataset digits --dataset flower102-64
                                                        one executed page per dataset
  dnr data prepare flower102 --download                 one of the papers' datasets
  dnr compare ~/photos --hours 2                        which method is best on your own images?
  dnr book                                              pages and book, without training

A dataset is a bundled or official one (dnr data list) or folder:PATH, a folder of your own images.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser(next((word for word in given if word in COMMANDS), "")).parse_args(given)
    from .records import REFUSED, located

    if os.name == "nt":
        # A file that output goes to may have no minus sign there.
        sys.stdout.reconfigure(errors="replace")
    # As from the keyboard: a cluster ends a job so, at its time limit too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Pages are executed from the root of the checkout, wherever this command was called.
        for folder in ("DNRLIB_RUNS", "DNRLIB_DATA"):
            if os.environ.get(folder):
                os.environ[folder] = str(located(os.environ[folder]))
        options.do(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain again as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        mend = "; check that you may read and write there, or name another folder"
        refused = isinstance(error, OSError) and error.errno in REFUSED
        print(f"dnr: {error}{mend * refused}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndnr: stopped; what is finished is on disk, run it again to go on", file=sys.stderr)
        return 130
    return 0


MANY = {"action": "append", "default": []}
"""An option that may be repeated."""


def run(command: argparse.ArgumentParser) -> None:
    """one run, from its longest prefix on disk"""
    command.set_defaults(do=_run)
    _settings(command)
    said = "instead: write a Chrome trace of two short generations (.json or .json.gz)"
    command.add_argument("--profile", type=Path, metavar="FILE", help=said)


def study(command: argparse.ArgumentParser) -> None:
    """many runs in parallel, into your own runs folder"""
    _many(command)
    command.set_defaults(do=_study)
    add = command.add_argument
    add("--plan", type=Path, metavar="FILE", help="instead: the runs of a plan (see: dnr plan)")
    said = "runs at once (default: 0, one per core, one per GPU)"
    add("--workers", type=int, default=0, help=said)


def plan(command: argparse.ArgumentParser) -> None:
    """what a study would train: runs, epochs, hours, disk; nothing is trained"""
    _many(command)
    command.set_defaults(do=_plan)
    said = "write it, a JSON line per seed, for: dnr study --plan FILE --seed SEED"
    command.add_argument("--output", type=Path, metavar="FILE", help=said)


def _many(command: argparse.ArgumentParser) -> None:
    """The options that name many runs."""
    from .methods import MAIN, METHODS
    from .paper.exhibits import ANALOGUE, EVALUATING, EXHIBITS

    _common(command, many=True)
    add = command.add_argument
    said = f"may be repeated (default: {', '.join(MAIN)}); one of: {', '.join(METHODS)}"
    add("--method", **MANY, metavar="METHOD[+SETTING=VALUE...]", help=said)
    said = "all that an exhibit compares and evaluates; may be repeated (without --dataset: "
    said += ", ".join(f"{name} on {of}" for name, of in ANALOGUE.items())
    add(
        "--exhibit",
        **MANY,
        choices=[n for n, each in EXHIBITS.items() if each.arms],
        help=f"{said}, all others on digits)",
    )
    said = f"evaluate the networks as an exhibit does: {', '.join(EVALUATING)}; may be repeated"
    add("--evaluate", **MANY, choices=EVALUATING, metavar="EXHIBIT", help=said)
    seeds = command.add_mutually_exclusive_group().add_argument
    seeds("--seeds", type=int, help="seeds 0..SEEDS-1 (default: 5)")
    said = "instead: this seed, or these (0-11); may be repeated"
    seeds("--seed", type=_seeds, action="extend", metavar="SEED", help=said)


def page(command: argparse.ArgumentParser) -> None:
    """execute a notebook, one page per dataset"""
    command.set_defaults(do=_page)
    add = command.add_argument
    add("notebook", type=Path)
    add("--dataset", action="append", required=True, help="a dataset; may be repeated")
    said = "another parameter of the notebook; may be repeated"
    add("-p", "--parameter", **MANY, nargs=2, metavar=("NAME", "VALUE"), help=said)
    add("--output", type=Path, help="folder for the pages (default: _build/pages)")


def data(command: argparse.ArgumentParser) -> None:
    """datasets: what there is, and how to get it"""
    actions = command.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="every dataset, its size, terms, and state here")
    listed.set_defaults(do=_data_list)
    said = "find, check, extract and decode the files of a dataset, once"
    prepare = actions.add_parser("prepare", help=said, formatter_class=_Formatter)
    prepare.set_defaults(do=_data_prepare)
    add = prepare.add_argument
    add("name", metavar="DATASET")
    add("--root", type=Path, help="folder of its files (default: data/images/DATASET)")
    add("--download", action="store_true", help="fetch what is missing, where the source allows it")
    add("--skip-corrupt", action="store_true", help="folder:PATH: leave out unreadable images")


def records(command: argparse.ArgumentParser) -> None:
    """trained runs: whether they are whole"""
    actions = command.add_subparsers(required=True, metavar="ACTION")
    said = "check every record, weight and mask of a folder of runs; name what is wrong"
    checked = actions.add_parser("check", help=said)
    checked.set_defaults(do=_records_check)
    said = "the folder (default: $DNRLIB_RUNS, or runs/)"
    checked.add_argument("folder", metavar="DIR", nargs="?", help=said)


def compare(command: argparse.ArgumentParser) -> None:
    """which method to use on a folder of your own images"""
    command.set_defaults(do=_compare)
    add = command.add_argument
    add("path", metavar="PATH", help="folder with a subfolder of images per class")
    add("--hours", type=float, default=2.0, help="time; one seed is always trained (default: 2)")
    add("--size", type=int, help="pixels per side, a multiple of 8 (default: by images, device)")
    add("--epochs", type=_count, help="epochs per generation (default: by size)")
    add("--seeds", type=int, default=5, help="most runs per method, at least 3 (default: 5)")
    add("--skip-corrupt", action="store_true", help="leave out unreadable images")
    add("--no-flip", action="store_true", help="do not mirror images (text, digits)")
    add("--output", type=Path, help="folder of the report (default: PATH-compared)")
    add("--workers", type=int, default=0, help="processes (default: 0, one per core, one per GPU)")
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def export(command: argparse.ArgumentParser) -> None:
    """train one network and write it to a file that says how to use it"""
    command.set_defaults(do=_export)
    _settings(command)
    said = "the file (default: model.pt)"
    command.add_argument("--output", type=Path, default=Path("model.pt"), help=said)
    said = "of KE: the small dense network that KELS keeps; also for torch.export and ONNX"
    command.add_argument("--slim", action="store_true", help=said)


def book(command: argparse.ArgumentParser) -> None:
    """all pages and the book, without training"""
    command.set_defaults(do=_book)


COMMANDS = {
    one.__name__: one for one in (run, study, plan, records, page, data, compare, export, book)
}
"""By name, what gives a command its options; its docstring is the help."""


def parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of the one that is chosen (None: of all)."""
    top = argparse.ArgumentParser(
        prog="dnr",
        description="Dynamic Neural Regeneration and Knowledge Evolution, made checkable.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"dnrlib {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, options in COMMANDS.items():
        one = commands.add_parser(name, help=options.__doc__, formatter_class=_Formatter)
        if chosen in (name, None):
            options(one)
    return top


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of a text, with names whole, which have hyphens."""
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class _Formatter(argparse.HelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(text, width)


def _common(command: argparse.ArgumentParser, many: bool = False) -> None:
    from .recipes import BUDGETS

    add = command.add_argument
    said = "see: dnr data list; or folder:PATH (default: digits)"
    if many:
        # An exhibit may have a bundled dataset of its own.
        add("--dataset", **MANY, help=f"{said}; may be repeated")
    else:
        add("--dataset", default="digits", help=said)
    add("--budget", choices=BUDGETS, help="two generations of two epochs, for a trial of seconds")
    add("--device", default="auto", help="auto (default: the best there is), cpu, cuda or mps")


def _settings(command: argparse.ArgumentParser) -> None:
    """The options of a command about one run: every setting of `Config`."""
    from .config import ONE_OF, Config
    from .recipes import NAMES

    _common(command)
    command.description = (
        "Settings that are not given are those of the dataset's recipe; all are printed first."
    )
    for spec in fields(Config):
        if spec.name == "dataset":
            continue
        option, said = f"--{spec.name.replace('_', '-')}", spec.metadata["meaning"]
        names = (NAMES | ONE_OF).get(spec.name, ())
        # Some meanings explain each choice.
        said += "" if all(name in said for name in names) else f": {', '.join(names)}"
        command.add_argument(option, type=spec.type, metavar=spec.type.__name__.upper(), help=said)


def _config(options: argparse.Namespace) -> Any:
    """The `Config` of the run that these options name; says so, with all its settings."""
    from .config import Config
    from .recipes import configure, parse_arm, refuse_idle
    from .run import chain
    from .train import device_named, has_bf16

    settings = {
        spec.name: getattr(options, spec.name) for spec in fields(Config) if spec.name != "dataset"
    }
    if options.method is not None:
        arm = parse_arm(options.method)
        if twice := [name for name in arm if name != "method" and settings.get(name) is not None]:
            raise UserError(f"{', '.join(twice)}: given in {options.method!r} and as an option too")
        settings |= arm
    config = configure(options.dataset, options.budget, **settings)
    refuse_idle(config, {name: each for name, each in settings.items() if each is not None})
    many = len(chain(config))
    print(f"{config.method} on {config.dataset}, seed {config.seed}: {many} generations")
    listed = (f"{name}={value}" for name, value in vars(config).items())
    print(textwrap.indent("\n".join(_wrapped(", ".join(listed), 98)), "  "))
    if config.precision == "bf16" and not has_bf16(device_named(options.device)):
        print("this device imitates bf16, which takes longer than fp32")
    return config


def _run(options: argparse.Namespace) -> None:
    from .records import runs_root
    from .run import chain, profile, run

    config = _config(options)
    if options.profile is not None:
        profile(config, options.profile, options.device)
        print(f"trace: {options.profile}; open it in chrome://tracing or ui.perfetto.dev")
        return
    found = run(config, device=options.device, report=_line)
    spent: Counter[str] = Counter()
    for record in found:
        spent.update(record["timing"]["parts"])
    shares = [f"{name} {seconds / spent.total():.1%}" for name, seconds in spent.most_common()]
    print(f"when they were made, {spent.total():.1f} s: {', '.join(shares)}")
    print(f"record: {runs_root() / chain(config)[-1].key / 'record.json'}")


def _line(record: dict[str, Any]) -> None:
    result = record["result"]
    if record["kind"] == "generation":
        print(
            f"generation {record['generation']:3d}   test {result['test_accuracy']:6.2f} %   "
            f"train {result['train_accuracy']:6.2f} %   loss {result['train_loss']:.4f}   "
            f"{record['timing']['seconds']:6.1f} s",
            flush=True,
        )
    else:
        kept = sum(result["kept"].values()) / sum(result["size"].values())
        print(f"   its mask keeps {kept:.1%}; without the rest, {result['masked_accuracy']:.2f} %")


def _count(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def _seeds(text: str) -> list[int]:
    """The seeds that `7` or `0-11` names."""
    from .recipes import MOST_SEEDS

    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no seed, and no range such as 0-11")
    found = range(int(first), int(last or first) + 1)
    if not 1 <= len(found) <= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} must name 1 to {MOST_SEEDS} seeds")
    return list(found)


def _asked(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the options of a study name, by dataset: arms, seeds, a budget, and the exhibits whose
    evaluations are made."""
    from .methods import MAIN
    from .paper.exhibits import ANALOGUE, arms

    exhibits = options.exhibit + options.evaluate
    datasets = options.dataset
    if not datasets:
        analogues = {ANALOGUE.get(exhibit, "digits") for exhibit in exhibits} or {"digits"}
        if len(analogues) > 1:
            raise UserError(
                f"{', '.join(exhibits)} have different datasets ({', '.join(sorted(analogues))}); "
                "study them one after the other, or give one with --dataset"
            )
        datasets = list(analogues)
    asked = []
    for dataset in datasets:
        chosen = options.method + [arm for name in options.exhibit for arm in arms(name, dataset)]
        asked.append(
            {
                "dataset": dataset,
                "arms": list(dict.fromkeys(chosen or MAIN)),
                "seeds": options.seed or (5 if options.seeds is None else options.seeds),
                "budget": options.budget,
                "evaluate": exhibits,
            }
        )
    return asked


def _runs_of(asked: dict[str, Any]) -> tuple[list[Any], tuple[Any, ...]]:
    """The runs that were asked for, and what is measured of them."""
    from .paper.exhibits import evaluations_of
    from .recipes import grid

    names = ("dataset", "arms", "seeds", "budget")
    measured = [e for name in asked["evaluate"] for e in evaluations_of(name, asked["dataset"])]
    return grid(*(asked[name] for name in names)), tuple(dict.fromkeys(measured))


def _study(options: argparse.Namespace) -> None:
    from .book.agreement import agreement
    from .evaluate.evaluations import EVALUATED
    from .frames import generations
    from .stats import summary
    from .study import StudyFailed, study

    failures = []
    for asked in _asked(options) if options.plan is None else _of_plan(options):
        configs, evaluations = _runs_of(asked)
        how = {"workers": options.workers, "device": options.device, "evaluations": evaluations}
        try:
            runs = study(configs, published=False, **how)
        except StudyFailed as error:
            failures.append(str(error))
            continue
        frame = generations(runs)
        for column in ("test_accuracy", *EVALUATED):
            if frame[column].notna().any():
                print(f"\n{asked['dataset']}: {column} in %")
                print(summary(frame, column).round(2).to_string())
        print(f"\n{agreement(runs)}")
    if failures:
        raise UserError("\n".join(failures))


def _of_plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a plan asks for, of the seeds that are named; lines that differ in their seeds alone are
    one, for seeds can be trained side by side. Raises `UserError`."""
    for name in ("dataset", "method", "exhibit", "evaluate", "budget", "seeds"):
        if getattr(options, name):
            raise UserError(f"--{name} is settled by the plan; only --seed chooses among its lines")
    try:
        lines = [json.loads(line) for line in options.plan.read_text().splitlines() if line.strip()]
        there = {seed for asked in lines for seed in asked["seeds"]}
        wanted = there if options.seed is None else {*options.seed}
        chosen = [a | {"seeds": [s for s in a["seeds"] if s in wanted]} for a in lines]
        merged: dict[str, dict[str, Any]] = {}
        for asked in chosen:
            own = merged.setdefault(json.dumps(asked | {"seeds": []}), asked | {"seeds": []})
            own["seeds"] += [seed for seed in asked["seeds"] if seed not in own["seeds"]]
        chosen = [asked for asked in merged.values() if asked["seeds"]]
        if not all(_runs_of(asked)[0] for asked in chosen):
            raise ValueError("a line without arms")
    except OSError as error:
        said = "cannot be read; a plan is written by: dnr plan --output FILE"
        raise UserError(f"{options.plan} {said}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{options.plan} is not a plan that dnr plan wrote") from error
    if not lines:
        raise UserError(f"{options.plan} is empty; is there such a line in the plan?")
    if missing := sorted(wanted - there):
        raise UserError(f"{options.plan} has no seed {', '.join(map(str, missing))}")
    return chosen


def _plan(options: argparse.Namespace) -> None:
    from .records import write
    from .study import planned

    asked = [(each, _runs_of(each)[0]) for each in _asked(options)]
    every = [config for _, configs in asked for config in configs]
    frame = planned(every, device=options.device)
    jobs, frame["seed"] = len(frame), frame["seed"].astype(str)
    numbers = ["runs", "generations", "shared", "epochs", "hours", "megabytes"]
    frame.loc[jobs, ["dataset", *numbers]] = ["all", *frame[numbers].sum(skipna=False)]
    shown = dict.fromkeys(numbers, "{:.0f}".format) | {"hours": _hours}
    print(frame.to_string(index=False, na_rep="", formatters=shown))
    print(
        f"{jobs} jobs, a dataset and a seed each; shared: trainings saved, for runs have them in "
        "common; hours: on one worker, without evaluations, timed by published records or by a few "
        "steps here"
    )
    if options.output is not None:
        lines = [
            json.dumps(each | {"seeds": [seed]}) + "\n"
            for each, configs in asked
            for seed in dict.fromkeys(config.seed for config in configs)
        ]
        write(options.output, "".join(lines).encode())
        print(f"a line per job; to run it: dnr study --plan {shlex.quote(str(options.output))}")


def _hours(hours: float) -> str:
    return "<0.01" if 0 < hours < 0.005 else f"{hours:.2f}"


def _page(options: argparse.Namespace) -> None:
    from .book.build import CellFailed, execute
    from .datasets.decoded import slug
    from .datasets.folder import full_name
    from .records import ROOT

    if options.notebook.suffix != ".ipynb" or not options.notebook.is_file():
        raise UserError(f"{options.notebook} is not a notebook that exists")
    given = {name: _typed(value) for name, value in options.parameter}
    if "dataset" in given:
        raise UserError("give datasets with --dataset, once for each page")
    failures = {}
    for dataset in map(full_name, options.dataset):
        folder = options.output or ROOT / "_build" / "pages"
        output = folder / f"{options.notebook.stem}-{slug(dataset)}.ipynb"
        try:
            execute(options.notebook, output, given | {"dataset": dataset}, sys.stderr.isatty())
            print(f"{dataset}: {output}", flush=True)
        except CellFailed as error:
            failures[dataset] = str(error)
    if failures:
        listed = "\n".join(f"  {dataset}: {error}" for dataset, error in failures.items())
        raise UserError(f"{len(failures)} of {len(options.dataset)} pages failed:\n{listed}")


def _typed(value: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _data_list(options: argparse.Namespace) -> None:
    from .datasets.catalogue import VIEWS
    from .datasets.digits import DATASETS
    from .datasets.official import overview

    print(overview().to_string(index=False, na_rep="-"))
    made = ", ".join(f"{name} (of {of})" for name, (of, _) in VIEWS.items())
    print(f"\nmade of them: {made}\nbundled: {', '.join(DATASETS)}")
    print("your own images: folder:PATH, or folder:PATH@PIXELS")


def _data_prepare(options: argparse.Namespace) -> None:
    from .datasets import folder, official

    own = options.name.startswith(folder.PREFIX)
    if own and (options.root or options.download):
        raise UserError("--root and --download are for the papers' datasets")
    if not own and options.skip_corrupt:
        raise UserError(f"--skip-corrupt is for folders of your own ({folder.PREFIX}PATH)")
    if own:
        _prepare_folder(options.name, options.skip_corrupt)
    else:
        known = official.prepare(options.name, options.root, options.download)
        counted = ", ".join(f"{number} {pool}" for pool, number in known["counts"])
        print(f"{options.name}: {len(known['classes'])} classes, {counted} images")
        for same in known.get("notes", {}).get("copies", []):
            print(f"in the original too, these are the same image: {' = '.join(same)}")


def _prepare_folder(name: str, skip_corrupt: bool) -> None:
    """Decodes a folder of the user's own images, and says what is in it."""
    from .datasets import folder

    folder.prepare(name, skip_corrupt)
    counts, problems = folder.report(name)
    print(counts.to_string(), *problems, sep="\n", flush=True)


def _records_check(options: argparse.Namespace) -> None:
    from .check import check
    from .records import located, runs_root

    runs = runs_root() if options.folder is None else located(options.folder)
    whole, faults, unfinished = check(runs)
    for fault in faults:
        print(fault)
    if faults:
        raise UserError(f"faults in {runs}: {len(faults)}")
    if unfinished:
        said = "have weights and no record: not finished, or not copied whole; a study trains them"
        print(f"{len(unfinished)} generations {said}")
    listed = ", ".join(f"{number} of kind {kind}" for kind, number in whole.items())
    print(f"{whole.total()} records are whole ({listed})")


def _compare(options: argparse.Namespace) -> None:
    from .compare.choice import compared, refuse
    from .compare.export import export
    from .compare.report import answer, write
    from .datasets import folder
    from .datasets.augment import UNFLIPPED
    from .recipes import recipe
    from .records import located
    from .train import device_named

    # Decoding many images takes minutes.
    refuse(options.hours, options.seeds)
    path = located(options.path)
    name, native = f"{folder.PREFIX}{path}", folder.native(path)
    # A CPU has no time for photographs at 224 pixels.
    on_cpu = device_named(options.device).type == "cpu"
    size = min(native, 64) if on_cpu else native
    if options.size is not None:
        size = options.size
    if size != native:
        name = f"{name}@{size}"
    _prepare_folder(name, options.skip_corrupt)
    settings, usual = {}, recipe(name)
    if options.no_flip:
        settings["augment"] = UNFLIPPED[usual["augment"]]
    if options.epochs is not None:
        # The usual warm-up is meant for longer generations.
        warmup = min(usual.get("warmup", 0), options.epochs // 10)
        settings |= {"epochs": options.epochs, "warmup": warmup}
    output = options.output or path.with_name(f"{path.name}-compared")
    found = compared(
        name,
        output,
        hours=options.hours,
        seeds=options.seeds,
        device=options.device,
        workers=options.workers,
        settings=settings,
    )
    # The lowest seed: the best on the test images would look better than it is.
    export(found.config(found.choice.method), output / "model.pt", options.device)
    page = write(output)
    said = answer(found).replace("**", "")
    print(f"\n{said}\n\nreport: {page}\nmodel: {output / 'model.pt'}")


def _export(options: argparse.Namespace) -> None:
    from .compare.export import compared_costs, export, usage

    config = _config(options)
    export(config, options.output, options.device, options.slim)
    if options.slim:
        shares = compared_costs(config).items()
        print("of the dense network:", ", ".join(f"{share:.0%} of the {n}" for n, share in shares))
        print(f"for torch alone: {options.output.with_suffix('.pt2')}")
    print(f"network: {options.output}, and how to use it: {usage(options.output)}")


def _book(options: argparse.Namespace) -> None:
    from .book.build import build_book

    print(f"the book: {build_book()}")


if __name__ == "__main__":
    sys.exit(main())
