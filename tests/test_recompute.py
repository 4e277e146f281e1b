"""The second implementation of the verdicts: that it is one, cases by hand, and the golden ledger.

Samples by hand have three seeds. With two degrees of freedom Student's t has a closed form: the
two-sided p-value is 1 - |t| / sqrt(t^2 + 2). The sample 4, 5, 6 has t = 5 / (1 / sqrt 3), t^2 = 75.
"""

import ast
import csv
import gzip
import hashlib
import json
import math
from pathlib import Path

import pytest

from tests import recompute

GOLDEN = Path(__file__).parent / "golden" / "ledger-digits.csv"
ALLOWED = {"argparse", "csv", "gzip", "hashlib", "json", "math", "pathlib", "scipy", "sys"}
ROOT = {
    **{"dataset": "digits", "per_class": 10, "pool": "test", "model": "resnet18", "width": 8},
    "stem": "3x3",
}
TRAINING = {
    **{"epochs": 30, "batch": 50, "lr": 0.1, "schedule": "cosine", "warmup": 0, "momentum": 0.9},
    **{"weight_decay": 0.0001, "smoothing": 0.1, "augment": "shift", "precision": "fp32"},
    **{"threads": 1},
}
RECIPES = {
    "digits": {},
    "digits-colour": {"lr": 0.2, "epochs": 20},
    "digits-imbalanced": {"per_class": 0},
    "digits-binary": {"per_class": 0},
}
"""What differs from the settings above."""
FINGERPRINTS = {
    **{"digits": "fc60c9b0a567c399", "digits-colour": "411abe82ce39ac78"},
    **{"digits-imbalanced": "fc60c9b0a567c399", "digits-binary": "eb7bb40212bf9cbc"},
}
KELS = {"Kels": {"split_rate": 0.8}}
SNIP = {"Top": {"score": {"Snip": {"probe": 0.2}}, "share": 0.8}}
P_75 = 1 - math.sqrt(75 / 77)
"""Two-sided p-value of 4, 5, 6 against 0: 0.0131."""


def test_it_imports_nothing_of_dnrlib():
    """Nor anything but scipy outside the standard library, and no module by way of its name."""
    tree = ast.parse(Path(recompute.__file__).read_text(encoding="utf-8"))
    imported, called = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or "").split(".")[0])
        elif isinstance(node, ast.Name):
            called.add(node.id)
    assert imported <= ALLOWED
    assert not called & {"__import__", "exec", "eval", "compile"}


# --------------------------------------------------------------------------------------------------
# Records by hand


def key_of(thing):
    text = json.dumps(thing, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def chain(seed, stages, accuracies, masks=(), dataset="digits"):
    """The records of one run; `masks` holds a rule and a result per generation."""
    config = ROOT | TRAINING | RECIPES[dataset] | {"dataset": dataset, "seed": seed}
    root = {name: config[name] for name in [*ROOT, "seed"]}
    training = {name: config[name] for name in TRAINING}
    parent = key_of({"results": 1, "fingerprint": FINGERPRINTS[dataset], **root})
    records = []
    for number, (fields, accuracy) in enumerate(zip(stages, accuracies, strict=True), 1):
        stage = {"Generation": fields}
        parent = key_of([parent, stage, training])
        generation = {"kind": "generation", "key": parent, "generation": number, "stage": stage}
        generation |= {"config": config, "result": {"test_accuracy": accuracy}}
        records.append(generation)
        if number <= len(masks):
            rule, result = masks[number - 1]
            mask = {"kind": "mask", "key": key_of([parent, rule]), "of": parent, "keep": rule}
            records.append(mask | {"generation": number, "result": result})
    return records


def evaluation(name, result, generation, **settings):
    """The record of what the network of this record of a generation was asked."""
    asked = {name: settings}
    record = {"kind": "evaluation", "of": generation["key"], "evaluation": asked}
    record |= {"key": key_of([generation["key"], asked]), "generation": generation["generation"]}
    return record | {"result": result}


def publish(folder, *runs, dataset="digits"):
    """One file per seed, each record once: runs share what they have in common."""
    seeds = {}
    for records in runs:
        for record in records:
            if record["kind"] == "generation":
                seed = record["config"]["seed"]
            seeds.setdefault(seed, {})[record["key"]] = record
    for seed, by_key in seeds.items():
        path = folder / "records" / dataset / f"seed-{seed:04d}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The last first: a chain does not depend on the order of the lines.
        lines = [json.dumps(record) + "\n" for record in reversed(by_key.values())]
        path.write_bytes(gzip.compress("".join(lines).encode()))


def judge(folder, *statements, rank=None, exhibit="table1", dataset="digits", column="embedded"):
    """The rows of these statements, each of a rank of its own unless `rank` is given. They are in
    the column `column` of the claims on `exhibit`, which is the one that is judged."""
    path = folder / "paper" / "claims.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "rank", "exhibit", column])
        for number, statement in enumerate(statements):
            writer.writerow([f"claim-{number}", rank or f"rank-{number}", exhibit, statement])
    found = recompute.verdicts(dataset, column, data=folder)
    return [found.get(f"claim-{number}") for number in range(len(statements))]


def longer(generations, *accuracies):
    """LB over so many generations' epochs, one accuracy per seed."""
    stage = {"epochs": float(generations)}
    return [chain(seed, [stage], [accuracy]) for seed, accuracy in enumerate(accuracies)]


@pytest.fixture
def known(tmp_path):
    """Records in `tmp_path`. Minus `plain`, which has 80 for each of three seeds, LB has 4, 5, 6
    over ten generations, -0.1, 0, 0.1 over two, and -1, 1, 3 over three."""
    runs = [chain(seed, [{}], [80.0]) for seed in range(3)]
    runs += longer(10, 84.0, 85.0, 86.0) + longer(2, 79.9, 80.0, 80.1) + longer(3, 79.0, 81.0, 83.0)
    publish(tmp_path, *runs)
    return tmp_path


def row(verdict, n, value, support, refute):
    numbers = {"n": n, "value": value, "support": support, "refute": refute}
    return {"verdict": verdict} | {
        name: pytest.approx(number, abs=1e-9, nan_ok=True) for name, number in numbers.items()
    }


NOT_RUN = row("not run", 0, math.nan, 1, 1)


def test_a_difference_that_holds(known):
    """4, 5, 6 against the margin: t = 4.5 sqrt 3, t^2 = 60.75."""
    (found,) = judge(known, "long > plain")
    assert found == row("holds", 3, 5, P_75, 1 - (1 - math.sqrt(60.75 / 62.75)) / 2)


def test_a_difference_that_fails(known):
    """-4, -5, -6 against the margin: t = -5.5 sqrt 3, t^2 = 90.75."""
    (found,) = judge(known, "plain > long")
    assert found == row("fails", 3, -5, 1, (1 - math.sqrt(90.75 / 92.75)) / 2)


def test_an_undecided_difference(known):
    """-1, 1, 3 has standard error 2 / sqrt 3: t^2 is 0.75 against 0, 0.1875 against the margin."""
    (found,) = judge(known, "long+generations=3 > plain")
    support, refute = 1 - math.sqrt(0.75 / 2.75), (1 + math.sqrt(0.1875 / 2.1875)) / 2
    assert found == row("undecided", 3, 1, support, refute)


def test_an_arm_without_records_is_not_run(known):
    """And an empty statement is no claim."""
    assert judge(known, "dnr > plain", "") == [NOT_RUN, None]


def test_a_run_that_is_not_whole_does_not_count(tmp_path):
    """Fine-tuning has no third generation here, KE no mask after its second. One seed alone has a
    value, and decides nothing."""
    first = (KELS, {"kept": {"a": 64}, "masked_accuracy": 70.0})
    half = chain(0, [{}, {}], [80.0, 81.0])
    publish(tmp_path, half, chain(0, [{}, {"keep": KELS}], [80.0, 81.0], [first]))
    arms = ("tune+generations=3", "ke+generations=2", "tune+generations=2")
    *missing, there = judge(tmp_path, *(f"{arm} > plain" for arm in arms))
    assert missing == [NOT_RUN] * 2
    assert there == row("undecided", 1, 1, 1, 1)


def test_a_claim_is_not_run_if_one_part_is_not(known):
    assert judge(known, "long > plain & dnr > plain") == [NOT_RUN]


def test_equivalence(known):
    """-0.1, 0, 0.1 lies within the margin, t^2 = 75 to both sides; 4, 5, 6 beyond it."""
    same, other = judge(known, "long+generations=2 = plain", "long = plain")
    assert same == row("holds", 3, 0, P_75 / 2, 1)
    # Against +0.5 t^2 is 60.75; the support is the p-value of lying below that.
    beyond = 1 - math.sqrt(60.75 / 62.75)
    assert other == row("fails", 3, 5, 1 - beyond / 2, beyond)


def test_no_spread_proves_nothing(known):
    same, above = judge(known, "plain = plain", "plain > plain")
    assert same == above == row("undecided", 3, 0, 1, 1)


def test_a_trend_over_arms(known):
    """The line through three values gains the last minus the first: 4, 5, 6."""
    rise, fall = judge(
        known, *(f"{way} plain, long+generations=2, long" for way in ("rise", "fall"))
    )
    assert (rise["verdict"], rise["n"]) == ("holds", 3)
    assert (rise["value"], rise["support"]) == (pytest.approx(5), pytest.approx(P_75))
    assert (fall["verdict"], fall["value"]) == ("fails", pytest.approx(-5))


def test_a_trend_by_generation(tmp_path):
    """The line through 80, 80, 80, 80 + d gains 0.9 d: the slope is 1.5 d / 5, and there are three
    steps. Here 0.9 d is 4, 5, 6."""
    gains = enumerate((4, 5, 6))
    publish(tmp_path, *(chain(s, [{}] * 4, [80, 80, 80, 80 + d / 0.9]) for s, d in gains))
    (found,) = judge(tmp_path, "rise tune+generations=4 by generation")
    assert found["verdict"] == "holds"
    assert (found["value"], found["support"]) == (pytest.approx(5), pytest.approx(P_75))


def test_all_parts_have_to_hold(known):
    """The weakest part decides the support, the strongest refutation counts twice."""
    weak, bad = judge(
        known,
        "long > plain & long+generations=3 > plain",
        "plain > long & plain > long+generations=3",
    )
    assert weak == row("undecided", 3, 1, 1 - math.sqrt(0.75 / 2.75), 1)
    # Both parts have support 1; the first of them is shown.
    assert bad == row("fails", 3, -5, 1, 1 - math.sqrt(90.75 / 92.75))


def test_a_chain_is_its_neighbouring_pairs(known):
    """LB over ten minus over three generations is 5, 4, 3: t^2 = 48."""
    (found,) = judge(known, "long > long+generations=3 > plain")
    assert (found["verdict"], found["value"]) == ("undecided", pytest.approx(1))
    (pair,) = judge(known, "long > long+generations=3")
    assert (pair["value"], pair["support"]) == (
        pytest.approx(4),
        pytest.approx(1 - 48**0.5 / 50**0.5),
    )


def test_a_difference_of_differences(known):
    """(4, 5, 6) - (-1, 1, 3) is 5, 4, 3."""
    (found,) = judge(known, "long - plain > long+generations=3 - plain")
    assert (found["verdict"], found["n"], found["value"]) == ("holds", 3, pytest.approx(4))


def test_columns_of_masks(tmp_path):
    """Overlap is counted over all layers; after the first generation there is none."""
    runs = []
    for seed in range(3):
        results = [{"kept": {"a": 900, "b": 100}, "masked_accuracy": 70.0} for _ in range(3)]
        for result, first in ((results[1], 90), (results[2], 86 - seed)):
            result["with_first"] = {"a": 800, "b": 10 * first - 800}
            result["with_previous"] = {"a": 450, "b": 50}
        results[2]["masked_accuracy"] = 74.0 + seed
        masks = [(SNIP, result) for result in results]
        runs.append(chain(seed, [{}, *[{"keep": SNIP}] * 2], [80.0, 70.0, 70.0], masks))
    publish(tmp_path, *runs)
    arm = "dnr+generations=3"
    masked, first, previous = judge(
        tmp_path,
        f"{arm}@masked_accuracy > {arm}",
        f"fall {arm}@overlap_first by generation",
        f"{arm}@overlap_first > {arm}@overlap_previous",
    )
    for found in (masked, first):
        assert (found["verdict"], found["n"]) == ("holds", 3)
        assert (found["value"], found["support"]) == (pytest.approx(5), pytest.approx(P_75))
    assert previous["value"] == pytest.approx(85 - 50)


def test_verdicts_are_adjusted_within_their_rank(known):
    """0.0131 stays below 0.05 three times, but not four times. What has not been run counts; what
    has no statement does not. No adjusted value is smaller than one before it."""
    *three, none = judge(known, *["long > plain"] * 3, "", rank="one")
    assert ([found["verdict"] for found in three], none) == (["holds"] * 3, None)
    four = judge(known, *["long > plain"] * 3, "dnr > plain", rank="one")
    assert [found["verdict"] for found in four] == ["undecided"] * 3 + ["not run"]
    assert [found["support"] for found in four[:3]] == pytest.approx([4 * P_75] * 3)


def test_a_run_has_one_config(tmp_path):
    """The key of a later link does not hold the root settings; they have to be its parent's."""
    first, second = chain(0, [{}, {}], [80.0, 81.0])
    publish(tmp_path, [first, second | {"config": second["config"] | {"per_class": 5}}])
    with pytest.raises(ValueError, match="0 parents"):
        judge(tmp_path, "plain > plain")


@pytest.mark.parametrize(
    ("name", "value"),
    [("stage", {"Generation": {"hold": True}}), ("generation", 2), ("key", "0" * 20)],
)
def test_records_that_form_no_chain_are_refused(tmp_path, name, value):
    publish(tmp_path, [chain(0, [{}, {}], [80.0, 81.0])[0] | {name: value}])
    with pytest.raises(ValueError, match="0 parents"):
        judge(tmp_path, "plain > plain")


# --------------------------------------------------------------------------------------------------
# Evaluations, and datasets of exhibits. Where three seeds have 4, 5, 6 the verdict is known.

OTHERS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
EPSILONS = [0, 0.5, 2, 6, 8]


def corrupted(level):
    """Of 15 corruptions the five severities have the mean `level`, of the four others 19 more: the
    mean over all is 4 more than `level`."""
    known = {f"benchmark-{number}": [level + d for d in (9, 1, 0, -3, -7)] for number in range(15)}
    return {
        "clean": 90.0,
        "images": 10,
        "accuracy": known | dict.fromkeys(OTHERS, [level + 19] * 5),
    }


def evaluated(dataset, stages, evaluate):
    """The runs of three seeds, with the records that `evaluate(seed, last generation)` gives."""
    runs = [chain(s, stages, [90.0] * len(stages), dataset=dataset) for s in range(3)]
    return [run + evaluate(seed, run[-1]) for seed, run in enumerate(runs)]


def levels(folder, exhibit, *terms):
    """The mean of each of these terms over the seeds."""
    found = judge(folder, *(f"{term} > long - long" for term in terms), exhibit=exhibit)
    return [each["value"] for each in found]


def test_mean_accuracy_on_corrupted_images(tmp_path):
    """`mca` is 50 of LB and 54, 55, 56 of fine-tuning; `mca_15` is 4 less. Images that are not
    normalised are in no column."""

    def of_long(_, last):
        return [evaluation("Corruptions", corrupted(46.0), last)]

    def of_tuned(seed, last):
        raw = evaluation("Corruptions", corrupted(1.0), last, normalised=False)
        return [evaluation("Corruptions", corrupted(50.0 + seed), last), raw]

    runs = evaluated("digits-colour", [{"epochs": 5.0}], of_long)
    runs += evaluated("digits-colour", [{}] * 5, of_tuned)
    publish(tmp_path, *runs, dataset="digits-colour")
    statements = [f"tune@{column} > long@{column}" for column in ("mca", "mca_15")]
    for found in judge(tmp_path, *statements, exhibit="fig5"):
        assert (found["verdict"], found["n"]) == ("holds", 3)
        assert (found["value"], found["support"]) == (pytest.approx(5), pytest.approx(P_75))
    assert levels(tmp_path, "fig5", "long@mca", "long@mca_15") == pytest.approx([50, 46])


def test_accuracy_under_attack(tmp_path):
    """Of epsilons 0, 0.5, 2, 6, 8 the middle three count: 60, 40, 20 of LB have the mean 40, and
    fine-tuning has 44, 45, 46. Only ten steps and one restart are in the column."""

    def of_long(_, last):
        steps, restarts = ({"epsilons": EPSILONS, name: 5} for name in ("steps", "restarts"))
        return [
            evaluation("Attack", {"accuracy": [90, 60, 40, 20, 0]}, last, epsilons=EPSILONS),
            evaluation("Attack", {"accuracy": [9] * 5}, last, **steps),
            evaluation("Attack", {"accuracy": [8] * 5}, last, **restarts),
        ]

    def of_tuned(seed, last):
        result = {"accuracy": [80, 44 + seed]}
        return [evaluation("Attack", result, last, epsilons=[0, 1], per_class=7)]

    runs = evaluated("digits-colour", [{"epochs": 5.0}], of_long)
    runs += evaluated("digits-colour", [{}] * 5, of_tuned)
    publish(tmp_path, *runs, dataset="digits-colour")
    (found,) = judge(tmp_path, "tune@pgd > long@pgd", exhibit="fig6")
    assert (found["verdict"], found["n"], found["value"]) == ("holds", 3, pytest.approx(5))
    assert levels(tmp_path, "fig6", "long@pgd") == pytest.approx([40])


OF_CLASSES = ("long@balanced_accuracy", "long@sensitivity", "long@specificity")


def test_predictions_of_two_classes(tmp_path):
    """Of four images of class 1 three are found; of two of class 0 one is left alone."""
    result = {"labels": [0, 0, 1, 1, 1, 1], "predicted": [0, 1, 1, 1, 1, 0]}
    runs = evaluated(
        "digits-binary", [{"epochs": 3.0}], lambda _, of: [evaluation("Predictions", result, of)]
    )
    publish(tmp_path, *runs, dataset="digits-binary")
    assert levels(tmp_path, "table8", *OF_CLASSES) == pytest.approx([62.5, 75, 50])


def test_predictions_of_three_classes(tmp_path):
    """Found are 3 of 4, 1 of 2, 0 of 1: recall 75, 50, 0. Of the images of other classes 1 of 3 is
    named 0, 1 of 5 is named 1 and 1 of 6 is named 2, so that 2/3, 4/5 and 5/6 are not."""
    result = {"labels": [0, 0, 0, 0, 1, 1, 2], "predicted": [0, 0, 0, 1, 1, 2, 0]}
    runs = evaluated(
        "digits-imbalanced",
        [{"epochs": 10.0}],
        lambda _, of: [evaluation("Predictions", result, of)],
    )
    publish(tmp_path, *runs, dataset="digits-imbalanced")
    expected = [125 / 3, 125 / 3, 100 * (2 / 3 + 4 / 5 + 5 / 6) / 3]
    assert levels(tmp_path, "fig7", *OF_CLASSES) == pytest.approx(expected)


def named(seed, last):
    """One image of either of two classes; the first seed names both 1, all others are right."""
    result = {"labels": [0, 1], "predicted": [0 if seed else 1, 1]}
    return [evaluation("Predictions", result, last)]


def test_a_run_without_the_evaluation_does_not_count(tmp_path):
    """Seed 2 has none here. In a term without one of the columns it counts."""

    def of_two(seed, last):
        return named(seed, last) if seed < 2 else []

    runs = evaluated("digits-binary", [{}] * 3, of_two)
    runs += evaluated("digits-binary", [{"epochs": 3.0}], lambda *_: [])
    publish(tmp_path, *runs, dataset="digits-binary")
    has, needs_none, *missing = judge(
        tmp_path,
        "tune@specificity > tune@sensitivity",
        "tune > long",
        "tune@mca > tune",
        "tune@specificity > long@specificity",
        exhibit="table8",
    )
    assert (has["n"], has["value"], needs_none["n"]) == (2, pytest.approx(-50), 3)
    assert missing == [NOT_RUN] * 2


def test_a_run_without_its_last_mask_does_not_count_though_evaluated(tmp_path):
    """KE of two generations, first with the mask after the first alone, then with both."""
    mask = (KELS, {"kept": {"a": 64}, "masked_accuracy": 70.0})
    for masks, n in (([mask], 0), ([mask] * 2, 1)):
        run = chain(0, [{}, {"keep": KELS}], [80.0, 81.0], masks, "digits-binary")
        (last,) = (record for record in run if record.get("stage") and record["generation"] == 2)
        publish(tmp_path, run + named(0, last), dataset="digits-binary")
        statement = "ke+generations=2@sensitivity > ke+generations=2@specificity"
        (found,) = judge(tmp_path, statement, exhibit="table8")
        assert found["n"] == n


def test_evaluations_are_of_the_last_generation_alone(tmp_path):
    """Of three generations the second was evaluated, the last of a run of two; then the third also.
    Either way there is one value, and no trend."""
    runs = [chain(seed, [{}] * 3, [80.0] * 3, dataset="digits-binary") for seed in range(3)]
    runs = [run + named(seed, run[1]) for seed, run in enumerate(runs)]
    publish(tmp_path, *runs, dataset="digits-binary")
    statements = [
        "tune+generations=2@sensitivity > tune+generations=2@specificity",
        "tune@sensitivity > tune@specificity",
        "rise tune@sensitivity by generation",
    ]
    two, three, trend = judge(tmp_path, *statements, exhibit="table8")
    assert (two["n"], two["value"]) == (3, pytest.approx(100 / 3))
    assert three == trend == NOT_RUN
    runs = [run + named(seed, run[2]) for seed, run in enumerate(runs)]
    publish(tmp_path, *runs, dataset="digits-binary")
    *both, trend = judge(tmp_path, *statements, exhibit="table8")
    assert both == [two, two]
    assert trend == NOT_RUN


def test_two_evaluations_for_one_column_are_refused(tmp_path):
    def twice(_, last):
        result = corrupted(46.0)
        return [evaluation("Corruptions", result, last, **more) for more in ({}, {"per_class": 5})]

    publish(tmp_path, *evaluated("digits-colour", [{}] * 5, twice), dataset="digits-colour")
    with pytest.raises(ValueError, match="mca from two evaluations"):
        judge(tmp_path, "tune@mca > tune", exhibit="fig5")


@pytest.mark.parametrize(
    ("name", "value"),
    [("of", "0" * 20), ("key", "0" * 20), ("evaluation", {"Predictions": {"per_class": 1}})],
)
def test_an_evaluation_of_no_generation_is_refused(tmp_path, name, value):
    def damaged(seed, last):
        return [record | {name: value} for record in named(seed, last)]

    publish(tmp_path, *evaluated("digits-binary", [{}] * 3, damaged), dataset="digits-binary")
    with pytest.raises(ValueError, match="is not of generation"):
        judge(tmp_path, "tune > tune", exhibit="table8")


OWN = {
    **{"fig5": ("digits-colour", 5), "fig6": ("digits-colour", 5)},
    **{"fig7": ("digits-imbalanced", 10), "table8": ("digits-binary", 3)},
}


@pytest.mark.parametrize("exhibit", OWN)
def test_an_exhibit_may_have_a_dataset_of_its_own(known, exhibit):
    """With its own number of generations, and whatever dataset is asked for: `known` has LB and
    plain training on `digits`, but not this. In the column `full` it has not."""
    own, generations = OWN[exhibit]
    assert judge(known, "long > plain", exhibit=exhibit) == [NOT_RUN]
    for seed in range(3):
        long = chain(seed, [{"epochs": float(generations)}], [75.0 + seed], dataset=own)
        publish(known, chain(seed, [{}], [80.0], dataset=own) + long, dataset=own)
    for dataset in ("digits", "digits-colour", "digits-imbalanced", "digits-binary"):
        (found,) = judge(known, "plain > long", exhibit=exhibit, dataset=dataset)
        assert (found["verdict"], found["n"], found["value"]) == ("holds", 3, pytest.approx(4))
    (found,) = judge(known, "long > plain", exhibit=exhibit, column="full")
    assert (found["verdict"], found["value"]) == ("holds", pytest.approx(5))


@pytest.mark.parametrize("dataset", ["digits-colour", "digits-imbalanced", "digits-binary"])
def test_other_claims_are_not_run_on_the_dataset_of_an_exhibit(known, dataset):
    """Although their arms are there."""
    runs = [chain(s, [{}] * 3, [80.0, 81, 84.0 + s], dataset=dataset) for s in range(3)]
    publish(known, *runs, dataset=dataset)
    assert judge(known, "tune+generations=3 > plain", dataset=dataset) == [NOT_RUN]


def test_claims_on_different_datasets_are_adjusted_together(known):
    """Those of one rank, wherever they were judged: 0.0131 times 2 of two exhibits."""
    for own in ("digits-colour", "digits-binary"):
        runs = [chain(s, [{}, {}], [80.0, 84.0 + s], dataset=own) for s in range(3)]
        publish(known, *runs, dataset=own)
    path = known / "paper" / "claims.csv"
    path.parent.mkdir()
    lines = ["id,rank,exhibit,embedded"]
    lines += [f"{name},one,{name},tune+generations=2 > plain" for name in ("fig5", "table8")]
    path.write_text("\n".join(lines))
    found = recompute.verdicts("digits", data=known)
    assert [each["support"] for each in found.values()] == pytest.approx([2 * P_75] * 2)


# --------------------------------------------------------------------------------------------------
# The published records


def test_the_published_verdicts_are_those_of_dnrlib():
    """Both implementations, on all published records of `digits`."""
    assert GOLDEN.is_file(), (
        f"{GOLDEN} is missing: write it with dnrlib's own ledger of the published records of digits"
    )
    with GOLDEN.open(newline="", encoding="utf-8") as file:
        golden = {line["id"]: line for line in csv.DictReader(file)}
    found = recompute.verdicts("digits")
    assert list(found) == list(golden)
    for column, read in (("verdict", str), ("n", int)):
        theirs = {name: read(line[column]) for name, line in golden.items()}
        assert {name: ours[column] for name, ours in found.items()} == theirs
    for name, ours in found.items():
        for column in ("value", "support", "refute"):
            theirs = float(golden[name][column] or "nan")
            assert ours[column] == pytest.approx(theirs, abs=1e-6, nan_ok=True), (name, column)
