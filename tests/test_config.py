"""Configs, recipes, schedules, keys and plans, against hand values."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from dnrlib import UserError, recipes
from dnrlib.config import AT_MOST, PRETRAINED, Config, canonical, meanings
from dnrlib.datasets.digits import DATASETS
from dnrlib.filters import RePr
from dnrlib.losses import LOSSES, AdaCos, Cosine, Distilled, Labels, SelfDistilled, Triplet
from dnrlib.methods import MAIN, METHODS, Generation, label, plan
from dnrlib.recipes import OF_CLASSES, RECIPES, arm_of, configure, grid, parse_arm
from dnrlib.released import ReleasedMagnitude, ReleasedSnip
from dnrlib.rules import (
    Birth,
    Chance,
    Everything,
    Fisher,
    Fresh,
    Kels,
    Magnitude,
    Matched,
    Rescaled,
    ResetFrom,
    ShrinkPerturb,
    Snip,
    Top,
    Wels,
    Zeros,
)
from dnrlib.run import _chain, chain
from dnrlib.train import learning_rate
from tests import tune


def schedule(name, **settings):
    """A config with the schedule of a recipe, for a dataset that need not be readable here."""
    recipe = RECIPES[name]
    names = ("lr", "schedule", "warmup", "epochs")
    return Config(**{field: recipe[field] for field in names} | settings)


def test_cosine_of_the_small_sets_by_hand():
    """0.256 with 5 warm-up epochs of 200: e < 5: 0.256 (e + 1) / 5, then a half cosine over 195
    (values by awk)."""
    config = schedule("flower102")
    rates = {epoch: learning_rate(epoch, 200, config) for epoch in (0, 4, 5, 79, 80, 119, 120, 199)}
    expected = {
        0: 0.0512,
        4: 0.256,
        5: 0.256,
        79: 0.1753116176,
        80: 0.1733894255,
        119: 0.09437345559,
        120: 0.09238816462,
        199: 1.661120366e-05,
    }
    assert rates == pytest.approx(expected, rel=1e-5)


def test_step_of_cifar_by_hand():
    config = schedule("cifar10")
    rates = [learning_rate(epoch, 160, config) for epoch in (0, 4, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_step_of_tiny_imagenet_warms_up_for_20_epochs():
    config = schedule("tinyimagenet")
    rates = [learning_rate(epoch, 160, config) for epoch in (0, 4, 19, 20, 79, 80, 119, 120, 159)]
    assert rates == pytest.approx([0.005, 0.025, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_step_of_the_long_baseline_scales_its_boundaries():
    config = schedule("cifar10")
    rates = [learning_rate(epoch, 1600, config) for epoch in (0, 799, 800, 1199, 1200, 1599)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_papila_uses_a_small_constant_peak():
    config = schedule("papila")
    assert learning_rate(0, 200, config) == pytest.approx(0.001)
    assert learning_rate(100, 200, config) == pytest.approx(0.0005)
    assert learning_rate(199, 200, config) == pytest.approx(6.168375917e-08, rel=1e-6)


def test_recipes_say_what_the_paper_says():
    """DNR section 4, Table 2's caption and appendix A.12."""
    for name in ("flower102", "cub200", "aircraft", "mit67", "dogs"):
        recipe = RECIPES[name]
        assert (recipe["model"], recipe["epochs"], recipe["batch"]) == ("resnet18", 200, 32)
        assert (recipe["schedule"], recipe["weight_decay"]) == ("cosine", 1e-4)
        assert recipe["smoothing"] == 0.1
    for name, batch in (("cifar10", 64), ("cifar100", 64), ("tinyimagenet", 32)):
        recipe = RECIPES[name]
        assert (recipe["model"], recipe["epochs"], recipe["batch"]) == ("resnet50", 160, batch)
        assert (recipe["schedule"], recipe["weight_decay"]) == ("step", 5e-4)
        assert recipe["warmup"] == (20 if name == "tinyimagenet" else 0)
    assert (RECIPES["papila"]["lr"], RECIPES["papila"]["generations"]) == (0.001, 3)


def test_every_setting_enters_the_key_in_exactly_one_way():
    late = Config(noise=0.5, start=PRETRAINED)
    parts = [late.part(name) for name in ("root", "training", "plan")]
    assert sum(len(part) for part in parts) == len(dataclasses.fields(Config))
    ordinary = Config().part("root").keys()
    assert not {"noise", "start"} & ordinary, "what was added late is left out at its default"
    assert all(meanings().values())


ARMS = (
    *("plain+smoothing=0", "tune+per_class=0", "dnr+generations=30", "dnr+keep=0.6"),
    *("dnr+criterion=random", "dnr+criterion=fisher", "dnr+criterion=magnitude"),
    *("dnr+scope=layer", "dnr+probe=128"),
)


def last_keys():
    configs = {
        f"{dataset} {method} {seed}": configure(dataset, method=method, seed=seed)
        for dataset in DATASETS
        for method in METHODS
        for seed in (0, 7)
        if not (DATASETS[dataset].unseen and method in OF_CLASSES)
    }
    configs |= {f"digits {arm} 0": grid("digits", [arm], 1)[0] for arm in ARMS}
    return {name: [chain(config)[0].key, chain(config)[-1].key] for name, config in configs.items()}


def test_keys_are_those_that_the_published_records_are_filed_under():
    """Golden. If a number changes on purpose, raise RESULTS_VERSION, retrain, and write the file
    anew with: python -m tests.test_config"""
    golden = json.loads((Path(__file__).parent / "golden" / "keys.json").read_text())
    assert last_keys() == golden


def test_a_key_depends_on_every_setting_that_matters():
    base = chain(configure("digits", method="dnr"))[-1].key
    others = {
        "seed": 1,
        "per_class": 9,
        "pool": "tuning",
        "model": "resnet50",
        "width": 4,
        "stem": "7x7",
        "generations": 9,
        "epochs": 29,
        "batch": 49,
        "lr": 0.2,
        "schedule": "step",
        "warmup": 1,
        "momentum": 0.8,
        "weight_decay": 0.0,
        "smoothing": 0.0,
        "augment": "none",
        "precision": "bf16",
        "threads": 2,
        "keep": 0.7,
        "criterion": "fisher",
        "scope": "layer",
        "probe": 0.3,
        "noise": 0.2,
        "start": PRETRAINED,
        "parts": 2,
        "loss": "cs-kd",
        "mix": "cutmix",
        "average": 0.9,
    }
    keys = {
        chain(configure("digits", **{"method": "dnr", name: v}))[-1].key
        for name, v in others.items()
    }
    keys.add(chain(configure("digits-hard", method="dnr", per_class=10, epochs=30))[-1].key)
    assert len(keys | {base}) == len(others) + 2
    untouched = chain(configure("digits", method="dnr", split_rate=0.5))[-1].key
    assert untouched == base, "KE's split rate is nothing to DNR"
    tuned = [chain(configure("digits", method="tune", keep=keep))[-1].key for keep in (0.5, 0.8)]
    assert tuned[0] == tuned[1], "nor is the share kept to fine-tuning"
    many = [chain(configure("digits", method="ensemble", members=k))[0].key for k in (2, 3)]
    assert many[0] != many[1]


def test_results_version_is_in_every_key(monkeypatch):
    uncached = inspect.unwrap(_chain)
    before = uncached(Config(), "images")
    monkeypatch.setattr("dnrlib.run.RESULTS_VERSION", 999)
    after = uncached(Config(), "images")
    assert not {link.key for link in before} & {link.key for link in after}


def test_plans_by_hand():
    config = configure("digits", generations=3, keep=0.7, probe=0.1, split_rate=0.6)
    first, again = Generation(), Generation(keep=Everything())
    pruned = Generation(Top(Magnitude(), 0.7, "layer"), Zeros(), epochs=0.5, peak=0.1, hold=True)
    reborn, snip = (ResetFrom("conv1", "state"), Birth()), Top(Snip(0.1), 0.7)
    lw = [
        Generation(ResetFrom(block, "parameters"), Birth(), inherit=Rescaled(before))
        for before, block in (("layer1.0", "layer1.1"), ("layer1.1", "layer2.0"))
    ]
    stages = [Generation(ResetFrom(stage, "parameters"), Birth()) for stage in ("layer1", "layer2")]
    unshortened = Fresh(shortcuts=False)
    different = {
        "plain": [first],
        "dsd": [first, pruned, Generation(epochs=0.5, peak=0.1)],
        "long": [Generation(epochs=3.0)],
        "lw": [first, *lw],
        "lw-released": [first, *stages],
        "ensemble": [first, *2 * [Generation(*reborn)]],
        "ke-dsd": [first, Generation(pruned.keep, Zeros(), hold=True), first],
    }
    children = {
        "tune": again,
        "ban": Generation(*reborn, task=Distilled(0.9, 20.0, "batchmean")),
        "ban-lineage": Generation(*reborn, task=Distilled(0.9, 20.0, "mean")),
        "llf": Generation(ResetFrom("layer4", "weights")),
        "llf-layer3": Generation(ResetFrom("layer3", "weights")),
        "ke": Generation(Kels(0.6)),
        "ke-wels": Generation(Wels(0.6)),
        "ke-wels-rand": Generation(Wels(0.6, redraw=True)),
        "shrink-perturb": Generation(ResetFrom("conv1", "weights"), ShrinkPerturb(0.4, 0.1)),
        "dnr": Generation(snip),
        "dnr-released": Generation(ReleasedSnip(0.7), unshortened),
        "dnr-released-magnitude": Generation(ReleasedMagnitude(0.7), unshortened),
        "dnr-matched": Generation(Matched(snip)),
        "dnr-highest": Generation(Top(Snip(0.1), 0.7, least=True)),
    }
    different["repr"] = [Generation(dropping=RePr(0.3))]
    expected = different | {method: [first, child, child] for method, child in children.items()}
    assert METHODS.keys() == expected.keys()
    for method, listed in expected.items():
        assert plan(dataclasses.replace(config, method=method)) == listed, method
    ten = configure("digits", method="ensemble", members=10)
    assert {stage.epochs for stage in plan(ten)} == {1.0}
    assert {stage.length(ten) for stage in plan(ten)} == {30}


def test_what_is_changed_in_every_stage():
    every = {"loss": "cs-kd", "mix": "cutmix", "average": 0.9}
    for name, value in every.items():
        for method in METHODS:
            config = configure("digits", method=method, generations=3)
            changed = plan(dataclasses.replace(config, **{name: value}))
            for stage, plain in zip(changed, plan(config), strict=True):
                distilled = stage.task.needs_parent
                wanted = {"loss": ("task", plain.task if distilled else SelfDistilled())}
                wanted |= {"mix": ("mix", True), "average": ("average", 0.9)}
                field, expected = wanted[name]
                assert stage == dataclasses.replace(plain, **{field: expected}), (method, name)
    config = configure("digits", method="plain")
    losses = {n: plan(dataclasses.replace(config, loss=n))[0].task for n in LOSSES}
    assert losses == {
        "labels": Labels(),
        "cosine": Cosine(0.1),
        "cs-kd": SelfDistilled(3.0, 4.0),
        "adacos": AdaCos(),
        "triplet": Triplet(0.2),
    }


@pytest.mark.parametrize(
    ("method", "parts", "shares"),
    [
        ("tune", 2, [1 / 2, 1 / 2, 1, 1]),
        ("dnr", 4, [1 / 4, 1 / 2, 3 / 4, 1]),
        ("tune", 3, [1 / 3, 2 / 3, 1, 1]),
        ("long", 2, [1]),
        ("tune", 1, [1, 1, 1, 1]),
    ],
)
def test_images_in_parts_arrive_at_equal_intervals(method, parts, shares):
    stages = plan(configure("digits", method=method, parts=parts, generations=4))
    assert [stage.images for stage in stages] == shares


@pytest.mark.parametrize(
    ("criterion", "saliency"),
    [
        ("snip", Snip(0.1)),
        ("fisher", Fisher(0.1)),
        ("magnitude", Magnitude()),
        ("random", Chance()),
    ],
)
def test_criterion_and_scope_of_dnr(criterion, saliency):
    arm = configure("digits", method="dnr", criterion=criterion, scope="layer", probe=0.1, keep=0.7)
    assert plan(arm)[1] == Generation(Top(saliency, 0.7, "layer"))


def test_a_stage_is_written_without_its_defaults():
    assert canonical(Generation()) == {"Generation": {}}
    assert canonical(Generation(keep=Kels(0.8))) == {
        "Generation": {"keep": {"Kels": {"split_rate": 0.8}}}
    }


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("dnr", {}),
        ("dnr+keep=0.6", {"keep": 0.6}),
        ("dnr+criterion=fisher+generations=3", {"criterion": "fisher", "generations": 3}),
        ("dnr+probe=128+scope=layer", {"probe": 128.0, "scope": "layer"}),
        ("ke+lr=1e-05+smoothing=0", {"lr": 1e-5, "smoothing": 0.0}),
    ],
)
def test_an_arm_is_read_and_named_alike(arm, settings):
    assert parse_arm(arm) == {"method": arm.split("+")[0]} | settings
    for dataset in ("digits", "digits-hard"):
        config = configure(dataset, seed=3, **parse_arm(arm))
        assert {name: getattr(config, name) for name in settings} == settings
        assert arm_of(config) == arm
        assert arm_of(configure(dataset, "smoke", seed=3, **parse_arm(arm))) == arm


def test_a_tuned_arm_has_the_settings_that_were_chosen_for_its_method(monkeypatch):
    monkeypatch.setitem(recipes.TUNED, "digits", {"long": {"lr": 0.03, "weight_decay": 0.02}})
    config = configure("digits", **parse_arm("long+tuned+generations=3"))
    assert config == configure("digits", method="long", generations=3, lr=0.03, weight_decay=0.02)
    assert arm_of(config) == "long+tuned+generations=3"
    assert label(arm_of(config)) == "long baseline (LB), tuned, f3"
    assert arm_of(configure("digits", "smoke", **parse_arm("long+tuned"))) == "long+tuned"
    assert arm_of(configure("digits", method="long", lr=0.03)) == "long+lr=0.03"
    for arm in ("dnr+tuned", "long+tuned"):
        with pytest.raises(UserError, match="digits-hard; these methods were: none"):
            grid("digits-hard", [arm], 1)
    with pytest.raises(UserError, match="dnr was not tuned on digits; these methods were: long"):
        grid("digits", ["dnr+tuned"], 1)


def test_tuned_settings_are_the_best_of_the_grid():
    """Of each method the cell with the highest accuracy, once all cells are measured."""
    assert {d: best for d in tune.CELLS if (best := tune.best(d))} == recipes.TUNED


def test_an_arm_names_only_what_differs_from_the_recipe_by_name():
    config = configure("digits", method="tune", smoothing=0.1, per_class=0, batch=40)
    assert arm_of(config) == "tune+batch=40+per_class=0"
    assert arm_of(configure("digits-hard", per_class=20, epochs=20)) == "dnr"


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("dnr+kept=0.6", "'dnr+kept=0.6': 'kept' is no setting of an arm"),
        ("dnr+seed=1", "'seed' is no setting of an arm"),
        ("dnr+dataset=digits", "'dataset' is no setting of an arm"),
        ("dnr+method=ke", "'method' is no setting of an arm"),
        ("dnr+keep", "'' is not of type float"),
        ("dnr+generations=3.5", "'3.5' is not of type int"),
        ("dnr+keep=1.5", "keep=1.5 must lie between 0 and 1"),
        ("drn+keep=0.5", "method='drn' is unknown; choose one of: plain"),
    ],
)
def test_a_bad_arm_is_refused(arm, message):
    with pytest.raises(UserError) as error:
        grid("digits", ["tune", arm], 1)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("dnr", "DNR"),
        ("ke-wels-rand", "KE (WELS-Rand)"),
        ("dnr+criterion=fisher+generations=3", "DNR, Fisher, f3"),
        ("dnr+criterion=magnitude+scope=layer", "DNR, magnitude, per layer"),
        ("dnr+probe=128", "DNR, probe 128"),
        ("dnr+probe=1", "DNR, probe of all images"),
        ("plain+smoothing=0", "plain training, CE"),
        ("tune+per_class=0", "fine-tuning, all images"),
        ("tune+per_class=5", "fine-tuning, 5 per class"),
        ("dnr+keep=0.6", "DNR, resets 40 %"),
        ("ke+split_rate=0.5", "KE (KELS), split rate 0.5"),
    ],
)
def test_an_arm_in_words(arm, words):
    assert label(arm) == words


def test_labels_tell_methods_apart():
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    assert set(MAIN) <= METHODS.keys()


def test_grid_is_seeds_by_arms():
    configs = grid("digits", ["dnr", "tune"], 2, lr=0.05)
    assert [(c.seed, c.method, c.lr) for c in configs] == [
        (0, "dnr", 0.05),
        (0, "tune", 0.05),
        (1, "dnr", 0.05),
        (1, "tune", 0.05),
    ]
    swept = grid("digits", ["tune", "dnr+keep=0.6", "dnr"], 1, keep=0.5)
    assert [(c.method, c.keep) for c in swept] == [("tune", 0.5), ("dnr", 0.6), ("dnr", 0.5)]


def test_the_smoke_budget_cuts_the_recipe():
    assert configure("digits") == Config()
    smoke = configure("digits", "smoke")
    assert (smoke.generations, smoke.epochs) == (2, 2)
    assert configure("digits", "smoke", epochs=5).epochs == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "digit"}, "dataset='digit' is unknown; choose one of: flower102"),
        ({"dataset": "flower102"}, "not on this machine; to get it: dnr data prepare flower102"),
        ({"dataset": "digits", "budget": "tiny"}, "budget='tiny' is unknown; choose one of: smoke"),
        ({"dataset": "digits", "methd": "dnr"}, "unknown setting methd; settings: lr, schedule"),
        (
            {"dataset": "digits", "method": "drn"},
            "choose one of: plain, dsd, ke-dsd, repr, ban, ban-lineage, lw, lw-released, llf",
        ),
        (
            {"dataset": "digits", "mix": "cutmix", "loss": "cs-kd"},
            "mix='cutmix' mixes labels, which loss='cs-kd' cannot learn",
        ),
        ({"dataset": "digits", "keep": 1.5}, "keep=1.5 must lie between 0 and 1"),
        ({"dataset": "digits", "probe": 0}, "must be greater than 0"),
        ({"dataset": "digits", "probe": 1.5}, "must be a share up to 1 or a whole number"),
        ({"dataset": "digits", "criterion": "fim"}, "one of: snip, fisher, magnitude, random"),
        ({"dataset": "digits", "scope": "block"}, "choose one of: global, layer"),
        ({"dataset": "digits", "lr": -0.1}, "lr=-0.1 must be at least 0"),
        ({"dataset": "digits", "lr": -1}, "lr=-1.0 must be at least 0"),
        ({"dataset": "digits", "keep": 2}, "keep=2.0 must lie between 0 and 1"),
        ({"dataset": "digits", "lr": 10**400}, "is not of type float"),
        ({"dataset": "digits", "epochs": 0}, "epochs=0 must be at least 1"),
        ({"dataset": "digits", "epochs": 1.5}, "epochs=1.5 is not of type int"),
        ({"dataset": "digits", "seed": "0"}, "seed='0' is not of type int"),
        ({"dataset": "digits", "warmup": 30}, "warmup=30 must be smaller than epochs=30"),
        ({"dataset": "digits", "lr": float("nan")}, "lr=nan must be a finite number"),
        ({"dataset": "digits", "weight_decay": float("inf")}, "must be a finite number"),
    ],
)
def test_bad_settings_are_refused_with_the_valid_ones(arguments, message):
    with pytest.raises(UserError) as error:
        configure(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("name", AT_MOST)
def test_a_slip_of_the_keyboard_is_refused(name):
    with pytest.raises(UserError, match=f"{name}={AT_MOST[name] + 1} must be at most"):
        configure("digits", **{name: AT_MOST[name] + 1})


def test_no_seeds_are_refused():
    for seeds, number in ((0, 0), ([], 0), (10**9, 10**9), (range(10**9), 10**9)):
        with pytest.raises(UserError, match=f"seeds={number} must be at least 1 and at most 10000"):
            grid("digits", ["dnr"], seeds)
    assert [config.seed for config in grid("digits", ["dnr"], [7, 3])] == [7, 3]


if __name__ == "__main__":
    path = Path(__file__).parent / "golden" / "keys.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(last_keys(), indent=1) + "\n")
