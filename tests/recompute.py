"""The verdicts of the ledger once more, by a second implementation that shares no code with dnrlib.

It reads `data/paper/claims.csv` and the published records, and follows the rules as they are
written here, top to bottom: what a record is and how records form runs; which runs an arm stands
for; what the value of a term is; how a sample becomes two p-values, and p-values a verdict; and on
which dataset a claim is judged.

    python tests/recompute.py digits
"""

import argparse
import csv
import gzip
import hashlib
import json
import math
import sys
from pathlib import Path

from scipy import stats

DATA = Path(__file__).resolve().parent.parent / "data"
MARGIN = 0.5
"""Points of accuracy (or of overlap) below which a difference does not matter."""
LEVEL = 0.05
SPREADLESS = 1e-9
"""A sample whose standard deviation is no more than this proves nothing."""

# --------------------------------------------------------------------------------------------------
# Records. One file per seed, one record per line: the generations of all runs with this seed, the
# masks computed after them, and the evaluations of the last ones. A run is a chain: the key of a
# generation is the digest of the key of its parent, of its stage and of the training settings. The
# parent of a first generation is the digest of the version of the results, of the images'
# fingerprint and of the root settings.

ROOT = ("dataset", "seed", "per_class", "pool", "model", "width", "stem")
"""Settings that the first link holds; all the others are training settings."""
FINGERPRINTS = {
    **{"digits": "fc60c9b0a567c399", "digits-hard": "7737f619766fb053"},
    **{"digits-colour": "411abe82ce39ac78", "digits-imbalanced": "fc60c9b0a567c399"},
    "digits-binary": "eb7bb40212bf9cbc",
}


DEPENDENT = {"mask": "keep", "evaluation": "evaluation"}
"""Kinds of records that belong to a generation: their key is the digest of its key and of this."""


def canonical(thing):
    """`thing` as JSON in the one form that is hashed and compared."""
    return json.dumps(thing, sort_keys=True, separators=(",", ":"))


def digest(thing):
    return hashlib.sha256(canonical(thing).encode()).hexdigest()[:20]


def root_of(config):
    """What takes the place of a parent's key in a first generation."""
    settings = {name: config[name] for name in ROOT}
    return digest({"results": 1, "fingerprint": FINGERPRINTS[config["dataset"]], **settings})


def read(path):
    """The records of one seed as three dicts: generations by what was done up to them, (config,
    stages), masks by (key of the generation, rule), and by the key of a generation the dict of its
    evaluations by their own keys. Raises `ValueError` for a generation that does not descend from
    exactly one other, and for a mask or an evaluation of none."""
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    trained = [record for record in records if record["kind"] == "generation"]
    generations, masks, evaluations, history = {}, {}, {}, {}
    for record in sorted(trained, key=lambda record: record["generation"]):
        config, number, key = record["config"], record["generation"], record["key"]
        training = {name: value for name, value in config.items() if name not in ROOT}
        before = (config, number - 1)  # a run has one config from its first link to its last
        known = [parent for parent, (of, stages) in history.items() if (of, len(stages)) == before]
        candidates = [root_of(config)] if number == 1 else known
        parents = [p for p in candidates if digest([p, record["stage"], training]) == key]
        if len(parents) != 1 or key in history:
            raise ValueError(f"{path.name}: generation {key} has {len(parents)} parents, or a twin")
        stages = [*history.get(parents[0], (config, []))[1], record["stage"]]
        history[key] = config, stages
        generations[canonical([config, stages])] = record
    for record in records:
        kind = record["kind"]
        if kind in DEPENDENT:
            of, what = record["of"], record[DEPENDENT[kind]]
            if of not in history or digest([of, what]) != record["key"]:
                raise ValueError(f"{path.name}: {kind} {record['key']} is not of generation {of}")
            if kind == "mask":
                masks[canonical([of, what])] = record
            else:
                evaluations.setdefault(of, {})[record["key"]] = record
    return generations, masks, evaluations


# --------------------------------------------------------------------------------------------------
# Arms. METHOD+setting=value+...: which settings and which stages a run has to have.

RECIPE = {
    **{"model": "resnet18", "width": 8, "stem": "3x3", "pool": "test", "per_class": 10},
    **{"epochs": 30, "batch": 50, "lr": 0.1, "schedule": "cosine", "warmup": 0, "momentum": 0.9},
    **{"weight_decay": 1e-4, "smoothing": 0.1, "augment": "shift", "precision": "fp32"},
    **{"threads": 1},
}
RECIPES = {
    "digits": RECIPE,
    "digits-hard": RECIPE | {"per_class": 20, "epochs": 20},
    "digits-colour": RECIPE | {"lr": 0.2, "epochs": 20},
    "digits-imbalanced": RECIPE | {"per_class": 0},
    "digits-binary": RECIPE | {"per_class": 0},
}
GENERATIONS = {"digits-colour": 5, "digits-binary": 3}
"""How many generations a run has unless its arm says so, where these are not 10."""

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
PRUNED = {"Top": {"score": {"Magnitude": {}}, "share": 0.7, "scope": "layer"}}
REBORN = {"Below": {"first": "conv1", "what": "state"}}


def saliency(criterion, probe):
    """What DNR ranks the weights by. Two of the four look at a probe of the training images."""
    return {
        "snip": {"Snip": {"probe": probe}},
        "fisher": {"Fisher": {"probe": probe}},
        "magnitude": {"Magnitude": {}},
        "random": {"Chance": {}},
    }[criterion]


def stages_of(method, generations, keep, criterion, probe):
    """The stages of a run, each as the settings that differ from an ordinary training."""
    if method == "plain":
        return [{}]
    if method == "long":
        return [{"epochs": float(generations)} if generations > 1 else {}]
    if method == "dsd":
        sparse = {"keep": PRUNED, "fill": {"Zeros": {}}, "hold": True, "epochs": 0.5, "peak": 0.1}
        return [{}, sparse, {"epochs": 0.5, "peak": 0.1}]
    if method == "lw":
        rounds = [
            {
                "keep": {"Below": {"first": first, "what": "parameters"}},
                "fill": {"Birth": {}},
                "inherit": {"Rescaled": {"after": BLOCKS[number - 1]}},
            }
            for number, first in enumerate(BLOCKS[1:], 1)
        ]
        return [{}, *rounds][:generations]
    child = {
        "tune": {},
        "llf": {"keep": {"Below": {"first": "layer4"}}},
        "ban": {"keep": REBORN, "fill": {"Birth": {}}, "task": {"Distilled": {}}},
        "ke": {"keep": {"Kels": {"split_rate": 0.8}}},
        "ke-wels": {"keep": {"Wels": {"share": 0.8}}},
        "ke-wels-rand": {"keep": {"Wels": {"share": 0.8, "redraw": True}}},
        "dnr": {"keep": {"Top": {"score": saliency(criterion, probe), "share": keep}}},
    }[method]
    return [{}] + [child] * (generations - 1)


# --------------------------------------------------------------------------------------------------
# Evaluations. What a finished network was asked, {NAME: settings}; not all of them are in a column.

DEFAULTS = {
    "Corruptions": {"per_class": 0, "normalised": True, "official": False},
    "Attack": {"steps": 10, "restarts": 1, "per_class": 0},
    "Predictions": {},
}
"""What the settings are that an evaluation does not name."""
NO_BENCHMARK = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
"""Corruptions that `mca` counts, but not `mca_15`."""
STRONGEST = 6
"""The largest epsilon that `pgd` counts."""


def average(values):
    values = list(values)
    return math.fsum(values) / len(values)


def columns_of_corruptions(settings, result):
    """Every corruption counts the same, as do its severities."""
    if not settings["normalised"]:
        return {}
    means = {name: average(severities) for name, severities in result["accuracy"].items()}
    benchmark = [mean for name, mean in means.items() if name not in NO_BENCHMARK]
    return {"mca": average(means.values()), "mca_15": average(benchmark)}


def columns_of_attack(settings, result):
    if any(settings[name] != DEFAULTS["Attack"][name] for name in ("steps", "restarts")):
        return {}
    measured = zip(settings["epsilons"], result["accuracy"], strict=True)
    counted = [accuracy for epsilon, accuracy in measured if 0 < epsilon <= STRONGEST]
    return {"pgd": average(counted)} if counted else {}


def columns_of_predictions(_, result):
    """Of two classes 1 is the one to be found: sensitivity is how much of it is found, specificity
    how much of the other is left alone. Of more than two each is the one to be found in turn."""
    pairs = list(zip(result["labels"], result["predicted"], strict=True))
    classes = sorted(set(result["labels"]))
    found, spared = {}, {}
    for k in classes:
        found[k] = 100 * average(named == k for label, named in pairs if label == k)
        spared[k] = 100 * average(named != k for label, named in pairs if label != k)
    row = {"balanced_accuracy": average(found.values())}
    if len(classes) == 2:
        return row | {"sensitivity": found[1], "specificity": found[0]}
    return row | {"sensitivity": row["balanced_accuracy"], "specificity": average(spared.values())}


COLUMNS = {
    "Corruptions": columns_of_corruptions,
    "Attack": columns_of_attack,
    "Predictions": columns_of_predictions,
}


def columns_of(evaluations):
    """All columns of the evaluations of one network, as a dict of column to value. Raises
    `ValueError` if two evaluations have the same one."""
    row = {}
    for record in evaluations:
        ((name, given),) = record["evaluation"].items()
        columns = COLUMNS[name](DEFAULTS[name] | given, record["result"])
        if row.keys() & columns:
            raise ValueError(f"generation {record['of']} has {min(columns)} from two evaluations")
        row |= columns
    return row


# --------------------------------------------------------------------------------------------------
# Values. What the runs of an arm say, seed by seed.


class Records:
    """The published records of a dataset, asked by arm. Without a folder there are none."""

    def __init__(self, folder, dataset):
        files = sorted(folder.glob("seed-*.jsonl.gz"))
        self.seeds = {int(path.name[5:].removesuffix(".jsonl.gz")): read(path) for path in files}
        self.dataset = dataset
        self.known = {}

    def outcomes(self, arm):
        """By seed, the outcomes after each generation as dicts of column to value; only of seeds
        whose whole run is there."""
        if arm not in self.known:
            found = {seed: self.run(arm, seed) for seed in self.seeds}
            self.known[arm] = {seed: run for seed, run in found.items() if run}
        return self.known[arm]

    def run(self, arm, seed):
        """The outcomes of one run, or None where it is not whole: where a generation is missing,
        or, if the method has masks, the one computed after the last generation."""
        method, *given = arm.split("+")
        config = RECIPES[self.dataset] | {"dataset": self.dataset, "seed": seed}
        plan = {"generations": GENERATIONS.get(self.dataset, 10)}
        plan |= {"keep": 0.8, "criterion": "snip", "probe": 0.2}
        for name, text in (setting.split("=") for setting in given):
            part = plan if name in plan else config
            part[name] = type(part[name])(text)
        stages = [{"Generation": stage} for stage in stages_of(method, **plan)]
        # The mask after a generation follows the rule of the next stage; the last has no next one,
        # and its mask, which is never applied, follows its own.
        rules = [stage["Generation"].get("keep") for stage in stages[1:] + stages[-1:]]
        generations, masks, evaluations = self.seeds[seed]
        rows = []
        for number, rule in enumerate(rules, 1):
            record = generations.get(canonical([config, stages[:number]]))
            if record is None:
                return None
            mask = masks.get(canonical([record["key"], rule]))
            if number == len(stages) and rule is not None and mask is None:
                return None
            row = {"test_accuracy": record["result"]["test_accuracy"]}
            if mask is not None:
                result = mask["result"]
                row["masked_accuracy"] = result["masked_accuracy"]
                for other in ("previous", "first"):
                    kept = sum(result["kept"].values())
                    if f"with_{other}" in result and kept > 0:
                        shared = sum(result[f"with_{other}"].values())
                        row[f"overlap_{other}"] = 100 * shared / kept
                        for stage in ("layer1", "layer4"):
                            inside = [n for n in result["kept"] if n.startswith(f"{stage}.")]
                            shared = sum(result[f"with_{other}"][name] for name in inside)
                            kept_here = sum(result["kept"][name] for name in inside)
                            if kept_here:
                                row[f"overlap_{other}_{stage}"] = 100 * shared / kept_here
            rows.append(row)
        # A run that is longer goes on from the last network of a shorter one; only the last of its
        # own counts as evaluated.
        return [*rows[:-1], rows[-1] | columns_of(evaluations.get(record["key"], {}).values())]

    def histories(self, term):
        """By seed, the values of a term `arm@column` after each generation, None where the column
        does not exist (there is no overlap after the first generation, and what evaluations say is
        there after the last one alone)."""
        arm, _, column = term.partition("@")
        runs = self.outcomes(arm).items()
        return {seed: [row.get(column or "test_accuracy") for row in rows] for seed, rows in runs}

    def values(self, side):
        """By seed, the value of a term after the last generation, or `A - B` of two terms."""
        terms = [self.histories(term) for term in side.split(" - ")]
        last = {seed: [rows[-1] for rows in runs] for seed, runs in together(terms).items()}
        return {seed: v[0] - sum(v[1:]) for seed, v in last.items() if None not in v}


# --------------------------------------------------------------------------------------------------
# Statements. Parts joined by ` & `, all of which have to hold; each part asks about one sample, a
# number per seed.


def climb(values):
    """What the least-squares line through the values gains from the first of them to the last."""
    k = len(values)
    mean, middle = math.fsum(values) / k, (k - 1) / 2
    across = math.fsum((x - middle) * (y - mean) for x, y in enumerate(values))
    return (k - 1) * across / math.fsum((x - middle) ** 2 for x in range(k))


def together(columns):
    """By seed, the list of its values, for the seeds that all columns have."""
    common = [seed for seed in columns[0] if all(seed in column for column in columns)]
    return {seed: [column[seed] for column in columns] for seed in common}


def samples(statement, records):
    """Per part of a statement whether it claims equality, and its sample by seed."""
    for text in statement.split(" & "):
        word, _, rest = text.partition(" ")
        if word in ("rise", "fall"):
            if rest.endswith(" by generation"):
                found = records.histories(rest.removesuffix(" by generation")).items()
                rows = {seed: [v for v in row if v is not None] for seed, row in found}
            else:
                rows = together([records.values(term) for term in rest.split(", ")])
            sign = 1 if word == "rise" else -1
            yield False, {seed: sign * climb(row) for seed, row in rows.items() if len(row) > 1}
        else:
            equal = " = " in text
            sides = [records.values(side) for side in text.split(" = " if equal else " > ")]
            for place in range(1, len(sides)):
                pair = together(sides[place - 1 : place + 1])
                yield equal, {seed: a - b for seed, (a, b) in pair.items()}


# --------------------------------------------------------------------------------------------------
# Tests. Student's t, with n - 1 degrees of freedom.


def judge_part(equal, sample):
    """(support, refute, n, mean) of one part.

    An order or a trend is supported if the mean lies above 0, two-sided; it is refuted if the mean
    lies below the margin, one-sided. Equality is supported if the mean lies above -margin and below
    +margin, one-sided each; it is refuted if the mean lies beyond one of them, two-sided.
    """
    values = [sample[seed] for seed in sorted(sample)]
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else 0.0
    if spread <= SPREADLESS:
        return 1.0, 1.0, n, mean

    def above(bound):
        """The p-value of `the mean lies above bound`."""
        return float(stats.t.sf((mean - bound) / (spread / math.sqrt(n)), n - 1))

    def below(bound):
        return float(stats.t.cdf((mean - bound) / (spread / math.sqrt(n)), n - 1))

    if equal:
        support = max(above(-MARGIN), below(MARGIN))
        refute = min(1.0, 2 * min(above(MARGIN), below(-MARGIN)))
    else:
        support = min(1.0, 2 * above(0.0))
        refute = below(MARGIN)
    return support, refute, n, mean


def judge_claim(statement, records):
    """(support, refute, weakest, clearest) of a statement; None if it has not been run, that is, if
    no seed has all the runs of one of its parts.

    All parts have to hold, so the weakest decides the support. One part that fails is enough, so
    the strongest refutation counts, times the number of parts. (n, value) are given of both.
    """
    parts = list(samples(statement, records))
    if not all(sample for _, sample in parts):
        return None
    tested = [judge_part(equal, sample) for equal, sample in parts]
    weakest = max(tested, key=lambda part: part[0])  # the first one on ties
    clearest = min(tested, key=lambda part: part[1])
    return weakest[0], min(1.0, len(tested) * clearest[1]), weakest[2:], clearest[2:]


def holm(ps):
    """Holm's adjustment: the smallest of m p-values times m, the next times m - 1, and so on, none
    smaller than the one before it."""
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(ps, key=ps.get)):
        least = max(least, min(1.0, (len(ps) - place) * ps[name]))
        adjusted[name] = least
    return adjusted


# --------------------------------------------------------------------------------------------------
# The ledger. Some exhibits have a dataset of their own, on which their claims are judged whatever
# dataset is asked for; and of such a dataset no other claim is made.

OWN = {
    **{"fig5": "digits-colour", "fig6": "digits-colour"},
    **{"fig7": "digits-imbalanced", "table8": "digits-binary"},
}
"""By exhibit, the dataset of its statements in the column `embedded`."""


def dataset_of(claim, dataset, column):
    """The dataset that a claim is judged on if the ledger of `dataset` is asked for, or None."""
    if column == "embedded" and claim["exhibit"] in OWN:
        return OWN[claim["exhibit"]]
    return None if dataset in OWN.values() else dataset


def verdicts(dataset="digits", column="embedded", data=DATA):
    """By id of each claim with a statement in `column`: verdict, n, value, support and refute, the
    p-values adjusted for all such claims of the same rank. A claim that has not been run counts
    among them with p-values of 1."""
    with (data / "paper" / "claims.csv").open(newline="", encoding="utf-8") as file:
        claims = [claim for claim in csv.DictReader(file) if claim[column]]
    needed = {dataset_of(claim, dataset, column) for claim in claims} - {None}
    records = {name: Records(data / "records" / name, name) for name in needed}
    tested = {}
    for claim in claims:
        own = records.get(dataset_of(claim, dataset, column))
        tested[claim["id"]] = judge_claim(claim[column], own) if own else None
    found = {}
    for rank in dict.fromkeys(claim["rank"] for claim in claims):
        of_rank = [claim["id"] for claim in claims if claim["rank"] == rank]
        supports = holm({name: tested[name][0] if tested[name] else 1.0 for name in of_rank})
        refutes = holm({name: tested[name][1] if tested[name] else 1.0 for name in of_rank})
        for name in of_rank:
            support, refute = supports[name], refutes[name]
            verdict = "holds" if support < LEVEL else "fails" if refute < LEVEL else "undecided"
            n, value = 0, math.nan
            if tested[name] is None:
                verdict = "not run"
            else:  # what decides: the refuted part of a claim that fails, else the weakest
                n, value = tested[name][3 if verdict == "fails" else 2]
            numbers = {"n": n, "value": value, "support": support, "refute": refute}
            found[name] = {"verdict": verdict, **numbers}
    return {claim["id"]: found[claim["id"]] for claim in claims}


def main(arguments):
    parser = argparse.ArgumentParser(description="The verdicts of the ledger, computed anew.")
    parser.add_argument("dataset", nargs="?", default="digits", choices=RECIPES)
    parser.add_argument("--column", default="embedded", choices=("embedded", "full"))
    chosen = parser.parse_args(arguments)
    print(f"{'claim':24}{'n':>4}{'value':>10}{'support':>12}{'refute':>12}  verdict")
    for name, row in verdicts(chosen.dataset, chosen.column).items():
        numbers = f"{row['n']:4}{row['value']:10.4f}{row['support']:12.3g}{row['refute']:12.3g}"
        print(f"{name:24}{numbers}  {row['verdict']}")


if __name__ == "__main__":
    main(sys.argv[1:])
