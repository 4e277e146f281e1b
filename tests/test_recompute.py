"""The verdict of every claim once more, from the published JSON lines and scipy alone.

A second implementation: it shares no code with `dnrlib.claims`, `dnrlib.stats` and `dnrlib.study`.
"""

import csv
import functools
import gzip
import itertools
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from scipy import stats

from dnrlib.paper.exhibits import PLANNED

GOLDEN = Path(__file__).parent / "golden" / "ledger-digits.csv"
DATA = Path(__file__).parent.parent / "data"
MARGIN, ALPHA = 0.5, 0.05
ON = {
    "embedded": {"": "digits", "fig5": "digits-colour", "fig6": "digits-colour"}
    | {"fig7": "digits-imbalanced", "table8": "digits-binary", "ke_table4": "digits-metric"},
    "photographs": dict.fromkeys(("table2", "fig5", "fig6", "when"), "cifar10-few")
    | {"": "flower102-64 cifar10-few", "fig7": "cifar10-few-imbalanced"}
    | {"ke_table4": "flower102-64-metric"},
}
"""The datasets that a claim is judged on by column and exhibit; those of "" for all others."""
SETTINGS = {"per_class": 0, "smoothing": 0.1, "precision": "fp32", "noise": 0.0}
SETTINGS |= {"weight_decay": 1e-4, "lr": 0.1, "augment": "shift", "width": 8, "model": "resnet18"}
"""What the records of a file differ in, apart from their stages."""
RATES = {"digits-colour": 0.2, "flower102-64": 0.256}
RATES |= dict.fromkeys(("cifar10-few", "cifar10-few-imbalanced"), 0.03)
RATES |= dict.fromkeys(("digits-metric", "flower102-64-metric"), 0.0256)
SIZES = {"digits": 10, "digits-colour": 10, "digits-metric": 20, "cifar10-few": 50}
SIZES |= {"flower102-64-metric": 10}
GENERATIONS = dict.fromkeys(("digits", "digits-imbalanced", "digits-metric"), 10)
GENERATIONS |= {"digits-binary": 3}


def text(*things):
    return json.dumps(things, sort_keys=True)


@functools.cache
def read(folder):
    """By seed: generations by settings, number and stage, and what was made of each, by its key."""
    found = {}
    for path in sorted(folder.glob("seed-*")):
        trained, made, by_weights = {}, defaultdict(list), {}
        for record in map(json.loads, gzip.decompress(path.read_bytes()).splitlines()):
            if record["kind"] == "generation":
                settings = {name: record["config"].get(name, SETTINGS[name]) for name in SETTINGS}
                # Half of ten images per class, and five from the start, give the same weights.
                own = text(settings)
                by_weights[own, record["result"].get("weights")] = record
                first, stage, held = record, record["stage"]["Generation"], False
                # Records are in the order of their generations; the first published ones do not
                # say what they descend from, which is an ordinary first generation.
                while first["generation"] > 1 and "parents" in first:
                    first = by_weights[own, first["parents"][0]]
                    held |= "hold" in first["stage"]["Generation"]
                begun = first["stage"]["Generation"] if first["generation"] == 1 else {}
                # An ordinary generation after one with weights held at zero is KE + DSD's.
                begun = {"held": True} if held and not stage else begun
                at = text(settings, record["generation"], stage, begun)
                assert at not in trained
                trained[at] = record
            else:
                made[record["of"]].append(record)
        found[int(path.name[5:9])] = trained, made
    return found


def settings_of(dataset):
    """The settings of a dataset's recipe."""
    known = SETTINGS | {"per_class": SIZES.get(dataset, 0), "lr": RATES.get(dataset, 0.1)}
    return known | ({} if dataset.startswith("digits") else {"augment": "crop-flip", "width": 16})


def tuned(method, dataset):
    """Weight decay and learning rate of the cell that was best on the tuning images."""
    with (DATA / "tuning" / f"{dataset}.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == method]
    cells, by_seed = defaultdict(list), Counter(row["seed"] for row in rows)
    for row in rows:
        # Some seeds have the recipe alone.
        if by_seed[row["seed"]] == max(by_seed.values()):
            cells[row["weight_decay"], row["lr"]].append(float(row["accuracy"]))
    return map(float, max(cells, key=lambda cell: mean(cells[cell])))


def stages(arm, dataset):
    """(settings, number of the last generation, its stage, the first stage) of an arm."""
    method, *given = arm.split("+")
    known = settings_of(dataset) | {"keep": 0.8, "probe": 0.2, "split_rate": 0.8, "members": 3}
    known |= {"generations": GENERATIONS.get(dataset, 5), "criterion": "snip", "average": 0.0}
    known |= {"mix": "", "parts": 1, "loss": "triplet" if dataset.endswith("-metric") else ""}
    if "tuned" in given:
        given.remove("tuned")
        known["weight_decay"], known["lr"] = tuned(method, dataset)
    for name, value in (setting.split("=") for setting in given):
        known[name] = type(known[name])(value)
    n, probe, rate = known["generations"], {"probe": known["probe"]}, known["split_rate"]
    score = {"snip": {"Snip": probe}, "fisher": {"Fisher": probe}}
    score |= {"magnitude": {"Magnitude": {}}, "random": {"Chance": {}}}
    top = {"score": score[known["criterion"]], "share": known["keep"]}
    new = {"keep": {"Below": {"first": "conv1", "what": "state"}}, "fill": {"Birth": {}}}
    taught = new | {"task": {"Distilled": {}}}
    block = {"keep": {"Below": {"first": "layer4.1", "what": "parameters"}}, "fill": {"Birth": {}}}
    one = {"epochs": n / known["members"]} if n != known["members"] else {}
    last = {
        "plain": (1, {}),
        "long": (1, {"epochs": float(n)}),
        "repr": (1, {"dropping": {"RePr": {}}}),
        "dsd": (3, {"epochs": 0.5, "peak": 0.1}),
        "ban": (n, taught),
        "ban-lineage": (n, taught | {"task": {"Distilled": {"reduction": "mean"}}}),
        "lw": (8, block | {"inherit": {"Rescaled": {"after": "layer4.0"}}}),
        "llf": (n, {"keep": {"Below": {"first": "layer4"}}}),
        "tune": (n, {}),
        "ke": (n, {"keep": {"Kels": {"split_rate": rate}}}),
        "ke-wels": (n, {"keep": {"Wels": {"share": rate}}}),
        "ke-wels-rand": (n, {"keep": {"Wels": {"share": rate, "redraw": True}}}),
        "shrink-perturb": (
            n,
            {"keep": {"Below": {"first": "conv1"}}, "fill": {"ShrinkPerturb": {}}},
        ),
        "ensemble": (known["members"], new | one),
        "dnr": (n, {"keep": {"Top": top}}),
    }
    number, stage = last[method]
    every = {"average": known["average"]} if known["average"] else {}
    every |= {"mix": True} if known["mix"] else {}
    losses = {"cs-kd": "SelfDistilled", "adacos": "AdaCos"}
    task = losses.get(known["loss"], known["loss"].capitalize())
    every |= {"task": {task: {}}} if task else {}
    first = every | (one if method == "ensemble" else {})
    first |= {"images": 1 / known["parts"]} if known["parts"] > 1 < number else {}
    first = stage | every if number == 1 else first
    return {name: known[name] for name in SETTINGS}, number, stage | every, first


def measure(column, record, made, rule):
    """The value of a column after a generation, in % or points; None if it has none."""
    if column == "test_accuracy":
        return record["result"][column]
    for other in made:
        found, ((kind, how),) = other["result"], other.get("evaluation", {"": {}}).items()
        if other["kind"] == "mask" and other["keep"] == rule:
            to, *stage = column.removeprefix("overlap_").split("_")
            if column == "masked_accuracy":
                return found[column]
            if f"with_{to}" in found:
                inside = [name for name in found["kept"] if name.startswith("".join(stage))]
                shared, kept = (sum(map(found[of].get, inside)) for of in (f"with_{to}", "kept"))
                return 100 * shared / kept
        if (kind, column) == ("Corruptions", "mca") and how.get("normalised", True):
            return mean(map(mean, found["accuracy"].values()))
        if (kind, column) == ("Attack", "pgd") and not {"steps", "restarts"} & how.keys():
            under = zip(how["epsilons"], found["accuracy"], strict=True)
            return mean(accuracy for epsilon, accuracy in under if 0 < epsilon <= 6)
        if kind == "Retrieval" and column in found["dense"]:
            return found["dense"][column]
        if (kind, column) == ("AveragedAccuracy", "averaged"):
            return found["accuracy"]
        if kind == "Predictions" and column in ("balanced_accuracy", "sensitivity"):
            hits = defaultdict(list)
            for label, named in zip(found["labels"], found["predicted"], strict=True):
                hits[label].append(100 * (label == named))
            return mean(hits[1]) if column == "sensitivity" else mean(map(mean, hits.values()))
    return None


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def outcomes(term, dataset, every=False):
    """By seed, the value of `arm@column` after the last generation, or those after `every` one."""
    arm, column = (*term.split("@"), "test_accuracy")[:2]
    settings, last, stage, first = stages(arm, dataset)
    found = {}
    for seed, (trained, made) in read(DATA / "records" / dataset).items():
        numbers = range(1 if every else last, last + 1)
        listed = [(settings, n, first if n == 1 else stage, first) for n in numbers]
        links = [trained.get(text(*at)) for at in listed]
        if None not in links:
            rows = [measure(column, link, made[link["key"]], stage.get("keep")) for link in links]
            found[seed] = [value for value in rows if value is not None]
    return {seed: row if every else row[0] for seed, row in found.items() if row}


def together(columns):
    """By seed, the values of all columns, for the seeds that all have."""
    seeds = [seed for seed in columns[0] if all(seed in column for column in columns)]
    return {seed: [column[seed] for column in columns] for seed in seeds}


def samples(statement, dataset):
    """Of each part: whether it claims equality, a number per seed, and the arms it speaks of."""

    def value(side):
        columns = together([outcomes(term, dataset) for term in side.split(" - ")])
        return {seed: first - sum(other) for seed, (first, *other) in columns.items()}

    def arms(sides):
        return [term.partition("@")[0] for side in sides for term in side.split(" - ")]

    for part in statement.split(" & "):
        word, _, rest = part.partition(" ")
        if word in ("rise", "fall"):
            sides = rest.removesuffix(" by generation").split(", ")
            rows = together([value(side) for side in sides])
            rows = outcomes(*sides, dataset, every=True) if len(sides) == 1 else rows
            sign = 1 if word == "rise" else -1
            slopes = [sign * stats.linregress(range(len(y)), y).slope for y in rows.values()]
            gains = [a * (len(y) - 1) for a, y in zip(slopes, rows.values(), strict=True)]
            yield False, gains, arms(sides)
        else:
            sides = part.replace(" = ", " > ").split(" > ")
            for pair in itertools.pairwise(sides):
                both = together([value(side) for side in pair])
                yield " = " in part, [a - b for a, b in both.values()], arms(pair)


def p_values(equal, values):
    """(support, refute) of one part."""
    if len(values) < 2 or max(values) - min(values) < 1e-9:
        return 1.0, 1.0

    def p(bound, direction):
        return float(stats.ttest_1samp(values, bound, alternative=direction).pvalue)

    if equal:
        beyond = min(p(MARGIN, "greater"), p(-MARGIN, "less"))
        return max(p(-MARGIN, "greater"), p(MARGIN, "less")), min(1.0, 2 * beyond)
    return min(1.0, 2 * p(0, "greater")), p(MARGIN, "less")


def holm(ps):
    """Holm's adjustment of p-values by name."""
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(ps, key=ps.get)):
        adjusted[name] = least = max(least, min(1.0, (len(ps) - place) * ps[name]))
    return adjusted


def verdicts(column):
    """By id of each claim with a statement in `column`: (verdict, n, value, support, refute)."""
    with (DATA / "paper" / "claims.csv").open(newline="", encoding="utf-8") as file:
        claims = {claim["id"]: claim for claim in csv.DictReader(file) if claim[column]}
    found, supports, refutes = {}, defaultdict(dict), defaultdict(dict)
    for name, claim in claims.items():
        verdict, parts = "", []
        for dataset in ON[column].get(claim["exhibit"], ON[column][""]).split():
            for equal, values, arms in samples(claim[column], dataset):
                parts.append((*p_values(equal, values), values))
                if len(values) < min(PLANNED.get(dataset, {}).get(arm, 0) for arm in arms):
                    verdict = "not finished"
        there = [bool(values) for _, _, values in parts]
        if not any(there) or not (verdict or all(there)):
            verdict = "not run"
        support, refute = max(s for s, _, _ in parts), min(r for _, r, _ in parts)
        supports[claim["rank"]][name] = 1.0 if verdict else support
        refutes[claim["rank"]][name] = 1.0 if verdict else min(1.0, len(parts) * refute)
        if not verdict and column == "embedded" and claim["note"].startswith("Not testable"):
            verdict = "not testable here"
        found[name] = verdict, parts
    supports, refutes = ({rank: holm(ps) for rank, ps in of.items()} for of in (supports, refutes))
    for name, (verdict, parts) in found.items():
        support, refute = (of[claims[name]["rank"]][name] for of in (supports, refutes))
        decided = "holds" if support < ALPHA else "fails" if refute < ALPHA else "undecided"
        verdict = verdict or decided
        fewest = min(len(values) for _, _, values in parts)
        alone = len(parts) * min(refute for _, refute, _ in parts)
        parts = [of for of in parts if of[2]] or parts
        weakest, clearest = max(parts, key=lambda of: of[0]), min(parts, key=lambda of: of[1])
        against = verdict in ("fails", "undecided") and alone < ALPHA
        values = (clearest if against else weakest)[2]
        values = [] if verdict in ("not run", "not testable here") else values
        n = fewest if verdict == "not finished" else len(values)
        numbers = n, mean(values) if values else math.nan
        found[name] = verdict, *numbers, support, refute
    return found


def test_the_verdicts_on_digits_are_those_of_dnrlib():
    with GOLDEN.open(newline="", encoding="utf-8") as file:
        golden = {line["id"]: line for line in csv.DictReader(file)}
    found = verdicts("embedded")
    assert list(found) == list(golden)
    for name, (verdict, n, *numbers) in found.items():
        line = golden[name]
        assert (verdict, n) == (line["verdict"], int(line["n"])), name
        theirs = [float(line[column] or "nan") for column in ("value", "support", "refute")]
        assert numbers == pytest.approx(theirs, abs=1e-6, nan_ok=True), name


def test_photographs_are_judged_when_all_planned_seeds_of_all_sets_are_there(tmp_path, monkeypatch):
    """LB minus plain training is 4, 5, 6: t is 5 sqrt 3, its two-sided p 1 - sqrt(75 / 77)."""
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "claims.csv").write_text(
        "id,rank,exhibit,photographs\na,one,table1,long > plain\nb,one,fig5,plain > long\n"
    )
    monkeypatch.setattr(f"{__name__}.DATA", tmp_path)
    for dataset, size in (("cifar10-few", 50), ("flower102-64", 0)):
        before = ("not finished", 0, 5) if read(tmp_path / "records" / "cifar10-few") else None
        expected = (*(before or ("not run", 0, math.nan)), 1, 1)
        assert verdicts("photographs")["a"] == pytest.approx(expected, nan_ok=True)
        monkeypatch.setitem(PLANNED, dataset, {"long": 3, "plain": 4})
        folder = tmp_path / "records" / dataset
        folder.mkdir(parents=True)
        read.cache_clear()
        for seed in range(3):
            common = {
                "kind": "generation",
                "generation": 1,
                "config": settings_of(dataset) | {"per_class": size},
            }
            lines = [
                {
                    **common,
                    "key": key,
                    "stage": {"Generation": stage},
                    "result": {"test_accuracy": value},
                }
                for key, stage, value in (("p", {}, 80), ("l", {"epochs": 5.0}, 84 + seed))
            ]
            path = folder / f"seed-{seed:04d}.jsonl.gz"
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    p = 1 - math.sqrt(75 / 77)
    found = verdicts("photographs")
    assert found["a"] == pytest.approx(("holds", 3, 5, 2 * p, 1))
    assert found["b"][:3] == ("fails", 3, -5)
    monkeypatch.setitem(PLANNED, "flower102-64", {"long": 4, "plain": 4})
    found = verdicts("photographs")
    assert found["a"] == pytest.approx(("not finished", 3, 5, 1, 1))
    assert found["b"][0] == "fails", "of the other set alone"
