"""Breaks one line of dnrlib at a time and shows that the tests notice.

    python tests/mutations.py                      all mutants, minutes
    python tests/mutations.py --only mask-inverted --workers 1

Each mutant is a mistake that could well have been made. It is put into a copy of the package, on
which the few tests run that should fail; if they pass, it has survived and the suite lacks a test.
The exit code is 0 if every mutant was caught. First of all the same tests must pass on an unchanged
copy. `test_mutations.py` checks with every run of the tests that each mutant still fits the code.
"""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("dnrlib", "tests", "benchmarks", "data/paper", "pyproject.toml")
LIBRARIES = [
    *("torch", "torchvision", "scipy.stats", "sklearn.datasets", "pandas", "joblib", "psutil"),
    *("matplotlib.pyplot", "seaborn", "nbformat", "IPython.display", "pytest"),
]
"""What the tests import and no mutant changes."""
LIMIT = 600
"""Seconds after which a mutant's tests are given up."""


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    """Occurs exactly once in the file."""
    new: str
    tests: str
    """Files and -k expression, as on pytest's command line, without quotes: `FILE... -k WORDS`."""


MUTANTS = [
    # Saliency
    Mutant(
        "saliency-keeps-its-sign",
        "dnrlib/masks.py",
        "return {name: (w.detach() * total[name]).abs().cpu()",
        "return {name: (w.detach() * total[name]).cpu()",
        "tests/test_masks.py -k snip_of_four_weights",
    ),
    Mutant(
        "saliency-without-theta",
        "dnrlib/masks.py",
        "return {name: (w.detach() * total[name]).abs().cpu()",
        "return {name: total[name].abs().cpu()",
        "tests/test_masks.py -k snip_of_four_weights",
    ),
    Mutant(
        "saliency-absolute-per-batch",
        "dnrlib/masks.py",
        "total[name] += grad\n",
        "total[name] += grad.abs()\n",
        "tests/test_masks.py -k snip_does_not_depend",
    ),
    Mutant(
        "saliency-sum-of-batch-means",
        "dnrlib/masks.py",
        'reduction="sum") / count',
        'reduction="mean")',
        "tests/test_masks.py -k snip_does_not_depend",
    ),
    Mutant(
        "saliency-of-smoothed-labels",
        "dnrlib/masks.py",
        'labels, reduction="sum") / count',
        'labels, reduction="sum", label_smoothing=0.1) / count',
        "tests/test_masks.py -k snip_of_four_weights",
    ),
    Mutant(
        "saliency-in-training-mode",
        "dnrlib/masks.py",
        "parent.model.eval()\n        weights = prunable(model)\n        batched",
        "parent.model.train()\n        weights = prunable(model)\n        batched",
        "tests/test_masks.py -k snip_changes_neither",
    ),
    Mutant(
        "probe-the-same-every-generation",
        "dnrlib/masks.py",
        'draw = parent.draw("probe")\n    count',
        'draw = stream(config.seed, 0, "probe")\n    count',
        "tests/test_masks.py -k probe_is_a_fresh_share",
    ),
    Mutant(
        "probe-not-augmented",
        "dnrlib/masks.py",
        "yield normalised(AUGMENTATIONS[config.augment](images, draw)",
        "yield normalised(images",
        "tests/test_caught.py -k probe_is_augmented",
    ),
    # Selection
    Mutant(
        "threshold-per-layer",
        "dnrlib/masks.py",
        "kept = top(flat, round(self.share * len(flat)))",
        "kept = torch.cat([top(s.flatten(), round(self.share * s.numel())) "
        "for s in scores.values()])",
        "tests/test_masks.py -k top_share_is_exact_and_global",
    ),
    Mutant(
        "ties-all-kept",
        "dnrlib/masks.py",
        "kept = scores > threshold",
        "kept = scores >= threshold",
        "tests/test_masks.py -k top_breaks_ties",
    ),
    Mutant(
        "ties-all-dropped",
        "dnrlib/masks.py",
        "kept[ties[: count - int(kept.sum())]] = True",
        "pass",
        "tests/test_masks.py -k top_breaks_ties",
    ),
    Mutant(
        "least-salient-kept",
        "dnrlib/masks.py",
        "kept = top(flat,",
        "kept = top(-flat,",
        "tests/test_masks.py -k most_saliencies_are_zero",
    ),
    Mutant(
        "keep-and-probe-swapped",
        "dnrlib/methods.py",
        "Top(CRITERIA[config.criterion](config), config.keep",
        "Top(Snip(config.keep), config.probe",
        "tests/test_run.py -k records_hold_what_they_promise",
    ),
    Mutant(
        "kels-rounds-down",
        "dnrlib/masks.py",
        "math.ceil(round(",
        "math.floor(round(",
        "tests/test_caught.py -k kels_rounds_up",
    ),
    Mutant(
        "kels-rounds-up-floating-point",
        "dnrlib/masks.py",
        "math.ceil(round(self.split_rate * size, 9))",
        "math.ceil(self.split_rate * size)",
        "tests/test_caught.py -k kels_of_55_percent",
    ),
    Mutant(
        "kels-drops-colours",
        "dnrlib/masks.py",
        "if position == 0:",
        "if position < 0:",
        "tests/test_caught.py -k kels_rounds_up",
    ),
    Mutant(
        "kels-drops-classes",
        "dnrlib/masks.py",
        "if position == len(weights) - 1:",
        "if position == len(weights):",
        "tests/test_masks.py -k kels_keeps_the_first",
    ),
    Mutant(
        "wels-drawn-every-generation",
        "dnrlib/masks.py",
        'stream(parent.config.seed, 0, "mask")',
        'stream(parent.config.seed, parent.generation, "mask")',
        "tests/test_masks.py -k wels_keeps",
    ),
    Mutant(
        "wels-coin-per-weight",
        "dnrlib/masks.py",
        "flat[order[: round(self.share * weight.numel())]] = True",
        "flat = torch.rand(weight.numel(), generator=draw) < self.share",
        "tests/test_masks.py -k wels_keeps",
    ),
    # Further methods
    Mutant(
        "llf-resets-the-third-stage-too",
        "dnrlib/methods.py",
        'Below("layer4")',
        'Below("layer3")',
        "tests/test_methods.py -k llf_resets",
    ),
    Mutant(
        "llf-resets-batch-normalisation",
        "dnrlib/methods.py",
        'again(config, Below("layer4"))',
        'again(config, Below("layer4", "parameters"), Birth())',
        "tests/test_methods.py -k llf_resets",
    ),
    Mutant(
        "forgets-the-earlier-layers",
        "dnrlib/masks.py",
        "torch.full(scope[name].shape, not above)",
        "torch.full(scope[name].shape, above)",
        "tests/test_methods.py -k llf_resets",
    ),
    Mutant(
        "lw-resets-the-block-before-too",
        "dnrlib/methods.py",
        'keep = Below(listed[first], "parameters")',
        'keep = Below(listed[first - 1], "parameters")',
        "tests/test_methods.py -k lw_keeps",
    ),
    Mutant(
        "lw-keeps-batch-normalisation-above",
        "dnrlib/methods.py",
        'keep = Below(listed[first], "parameters")',
        "keep = Below(listed[first])",
        "tests/test_methods.py -k lw_keeps",
    ),
    Mutant(
        "lw-filled-like-dnr",
        "dnrlib/methods.py",
        "yield Generation(keep, Birth(), inherit",
        "yield Generation(keep, Fresh(), inherit",
        "tests/test_methods.py -k lw_keeps",
    ),
    Mutant(
        "lw-not-rescaled",
        "dnrlib/fills.py",
        "weight *= target / norm if target > 1e-6 and norm > 0 else 0",
        "pass",
        "tests/test_methods.py -k lw_keeps",
    ),
    Mutant(
        "lw-offsets-not-zeroed",
        "dnrlib/fills.py",
        "if target > 1e-6 and norm > 0 else 0",
        "if target > 1e-6 and norm > 0 else 1",
        "tests/test_methods.py -k lw_keeps",
    ),
    Mutant(
        "lw-not-normalised",
        "dnrlib/fills.py",
        "        normalise_after(parent.model, self.after, inputs)\n",
        "",
        "tests/test_methods.py -k lw_normalises",
    ),
    Mutant(
        "lw-normalised-too-late",
        "dnrlib/methods.py",
        "Rescaled(listed[first - 1])",
        "Rescaled(listed[first])",
        "tests/test_methods.py -k lw_normalises",
    ),
    Mutant(
        "lw-normalised-by-running-statistics",
        "dnrlib/models.py",
        "model.train()(inputs)",
        "model.eval()(inputs)",
        "tests/test_methods.py -k lw_normalises",
    ),
    Mutant(
        "lw-mean-not-removed",
        "dnrlib/models.py",
        "    fixed.mean.copy_(mean)\n",
        "",
        "tests/test_methods.py -k lw_normalises",
    ),
    Mutant(
        "lw-variance-for-deviation",
        "dnrlib/models.py",
        "fixed.deviation.copy_(deviation + 1e-5)",
        "fixed.deviation.copy_(deviation**2 + 1e-5)",
        "tests/test_methods.py -k lw_normalises",
    ),
    Mutant(
        "lw-normalisation-trained",
        "dnrlib/models.py",
        'self.register_buffer("mean", torch.zeros(1, channels, 1, 1))',
        "self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))",
        "tests/test_methods.py -k lw",
    ),
    Mutant(
        "lw-normalisation-lost-on-resuming",
        "dnrlib/run.py",
        "models.load_state(self.model, state)",
        "self.model.load_state_dict(state, strict=False)",
        "tests/test_run.py -k killed_and_resumed and lw",
    ),
    Mutant(
        "lw-released-one-generation-per-stage",
        "dnrlib/methods.py",
        "listed[number * len(listed) // 8], ",
        "listed[min(number, len(listed)) - 1], ",
        "tests/test_methods.py -k lw_released",
    ),
    Mutant(
        "lw-released-rescaled",
        "dnrlib/methods.py",
        '"parameters"), Birth())',
        '"parameters"), Birth(), inherit=Rescaled("layer1.0"))',
        "tests/test_methods.py -k lw_released",
    ),
    Mutant(
        "lw-released-stages-of-any-network",
        "dnrlib/methods.py",
        'stages if config.model == "resnet18" else',
        "stages if config.model else",
        "tests/test_methods.py -k lw_released",
    ),
    Mutant(
        "dsd-not-held",
        "dnrlib/train.py",
        "weight *= kept",
        "pass",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "held-mask-lost",
        "dnrlib/train.py",
        "step.restart(parent, held or {})",
        "step.restart(parent, {})",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "dsd-never-released",
        "dnrlib/methods.py",
        "yield Generation(epochs=0.5, peak=0.1)",
        "yield Generation(pruned, Zeros(), epochs=0.5, peak=0.1, hold=True)",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "dsd-threshold-over-the-network",
        "dnrlib/methods.py",
        'Top(Magnitude(), 0.7, scope="layer")',
        "Top(Magnitude(), 0.7)",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "dsd-pruned-weights-drawn-anew",
        "dnrlib/methods.py",
        "yield Generation(pruned, Zeros(), ",
        "yield Generation(pruned, Fresh(), ",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "dsd-full-learning-rate",
        "dnrlib/train.py",
        "lr, warmup = peak * config.lr, ",
        "lr, warmup = config.lr, ",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "dsd-warms-up-again",
        "dnrlib/train.py",
        "config.warmup if peak == 1 else 0",
        "config.warmup",
        "tests/test_methods.py -k dsd",
    ),
    Mutant(
        "ban-keeps-running-statistics",
        "dnrlib/methods.py",
        'Below("conv1", "state"), Birth(), task=Distilled())',
        'Below("conv1", "parameters"), Birth(), task=Distilled())',
        "tests/test_methods.py -k shares_nothing",
    ),
    Mutant(
        "ban-born-as-the-first-network",
        "dnrlib/fills.py",
        "return birth(config, draw).state_dict()",
        "return build(config).state_dict()",
        "tests/test_methods.py -k shares_nothing",
    ),
    Mutant(
        "ban-learns-from-itself",
        "dnrlib/run.py",
        "ancestor = copy.deepcopy(self.model).eval()",
        "ancestor = self.model",
        "tests/test_methods.py -k learns_from_its_parent",
    ),
    Mutant(
        "ban-teacher-in-training-mode",
        "dnrlib/run.py",
        "ancestor = copy.deepcopy(self.model).eval()",
        "ancestor = copy.deepcopy(self.model).train()",
        "tests/test_methods.py -k learns_from_its_parent",
    ),
    Mutant(
        "ban-without-its-parent",
        "dnrlib/train.py",
        "loss = self.task.loss(",
        "loss = Labels().loss(",
        "tests/test_methods.py -k distillation_enters",
    ),
    Mutant(
        "ban-without-temperature-squared",
        "dnrlib/losses.py",
        "self.temperature**2 * divergence",
        "divergence",
        "tests/test_methods.py -k distillation_by_hand",
    ),
    Mutant(
        "ban-divergence-turned-round",
        "dnrlib/losses.py",
        "F.kl_div((logits / self.temperature).log_softmax(1), target,",
        "F.kl_div(target.log(), (logits / self.temperature).softmax(1),",
        "tests/test_methods.py -k distillation_by_hand",
    ),
    Mutant(
        "ban-lineage-not-averaged-over-classes",
        "dnrlib/losses.py",
        'logits.numel() if self.reduction == "mean" else len(logits)',
        "len(logits)",
        "tests/test_methods.py -k distillation_by_hand",
    ),
    Mutant(
        "ban-teacher-learns-too",
        "dnrlib/losses.py",
        "        with torch.no_grad():\n",
        "        with torch.enable_grad():\n",
        "tests/test_methods.py -k distillation_by_hand",
    ),
    Mutant(
        "wels-rand-not-redrawn",
        "dnrlib/masks.py",
        'parent.draw("mask") if self.redraw else ',
        "",
        "tests/test_masks.py -k wels_rand",
    ),
    Mutant(
        "shrink-without-perturb",
        "dnrlib/fills.py",
        " + self.perturb * newborn[name].detach()",
        "",
        "tests/test_methods.py -k shrink",
    ),
    Mutant(
        "perturb-without-shrink",
        "dnrlib/fills.py",
        "self.shrink * weight.detach()",
        "weight.detach()",
        "tests/test_methods.py -k shrink",
    ),
    # Criteria, released variants, interventions
    Mutant(
        "fisher-of-a-batch",
        "dnrlib/masks.py",
        "zip(images.split(1), labels.split(1), strict=True)",
        "[(images, labels)]",
        "tests/test_masks.py -k fisher",
    ),
    Mutant(
        "fisher-not-squared",
        "dnrlib/masks.py",
        "total[name] += grad.square()",
        "total[name] += grad.abs()",
        "tests/test_masks.py -k fisher",
    ),
    Mutant(
        "magnitude-with-its-sign",
        "dnrlib/masks.py",
        "{name: w.detach().abs().cpu() for",
        "{name: w.detach().cpu() for",
        "tests/test_masks.py -k magnitude_is",
    ),
    Mutant(
        "chance-the-same-every-generation",
        "dnrlib/masks.py",
        'draw = parent.draw("chance")',
        'draw = stream(parent.config.seed, 0, "chance")',
        "tests/test_masks.py -k chance_is_uniform",
    ),
    Mutant(
        "criterion-ignored",
        "dnrlib/methods.py",
        "CRITERIA[config.criterion](config)",
        "Snip(config.probe)",
        "tests/test_config.py -k criterion_and_scope",
    ),
    Mutant(
        "scope-ignored",
        "dnrlib/masks.py",
        'if self.scope == "layer":',
        'if self.scope == "none":',
        "tests/test_masks.py -k top_share_per_layer",
    ),
    Mutant(
        "probe-always-a-share",
        "dnrlib/masks.py",
        "count = int(size) if size > 1 else max(1, round(size * len(train)))",
        "count = min(len(train), max(1, round(size * len(train))))",
        "tests/test_masks.py -k probe_is_a_share",
    ),
    Mutant(
        "probe-larger-than-the-training-images",
        "dnrlib/masks.py",
        "    if count > len(train):",
        "    if count < 0:",
        "tests/test_masks.py -k more_images_than",
    ),
    Mutant(
        "highest-not-reset",
        "dnrlib/masks.py",
        "            flat = -flat\n",
        "            pass\n",
        "tests/test_masks.py -k least_keeps",
    ),
    Mutant(
        "matched-keeps-the-salient",
        "dnrlib/masks.py",
        "mask[name] = kept.flatten()[order].view(kept.shape)",
        "mask[name] = kept",
        "tests/test_masks.py -k matched",
    ),
    Mutant(
        "matched-shares-of-no-layer",
        "dnrlib/masks.py",
        "mask[name] = kept.flatten()[order].view(kept.shape)",
        "mask[name] = (order < 0.8 * kept.numel()).view(kept.shape)",
        "tests/test_masks.py -k matched",
    ),
    Mutant(
        "resampled-with-the-same-sample",
        "dnrlib/masks.py",
        "replace(parent, sample=1)",
        "replace(parent, sample=0)",
        "tests/test_masks.py -k resampled",
    ),
    Mutant(
        "released-gradients-cancel",
        "dnrlib/masks.py",
        "                total[name] += grad.abs()\n",
        "                total[name] += grad\n",
        "tests/test_masks.py -k released_snip_by_hand",
    ),
    Mutant(
        "released-on-all-batches",
        "dnrlib/masks.py",
        "listed[: math.ceil(len(listed) / 32)]",
        "listed",
        "tests/test_methods.py -k thirty_second",
    ),
    Mutant(
        "released-one-batch-short",
        "dnrlib/masks.py",
        "math.ceil(len(listed) / 32)",
        "max(1, len(listed) // 32)",
        "tests/test_methods.py -k thirty_second",
    ),
    Mutant(
        "released-count-rounded",
        "dnrlib/masks.py",
        "max(1, int((1 - self.share) * len(flat)))",
        "max(1, round((1 - self.share) * len(flat)))",
        "tests/test_masks.py -k released_snip_by_hand",
    ),
    Mutant(
        "released-ties-kept",
        "dnrlib/masks.py",
        "{name: score > threshold for",
        "{name: score >= threshold for",
        "tests/test_masks.py -k released_snip",
    ),
    Mutant(
        "released-scores-weights-only",
        "dnrlib/masks.py",
        "parameters = dict(model.named_parameters())\n        total",
        "parameters = prunable(model)\n        total",
        "tests/test_methods.py -k released_snip_masks_all",
    ),
    Mutant(
        "released-resets-shortcuts",
        "dnrlib/fills.py",
        'if self.shortcuts or ".downsample." not in name:',
        "if True:",
        "tests/test_methods.py -k child_is_new or shortcuts",
    ),
    Mutant(
        "released-magnitude-without-sign",
        "dnrlib/masks.py",
        "top(weight.detach().cpu().flatten()",
        "top(weight.detach().cpu().flatten().abs()",
        "tests/test_masks.py -k released_magnitude",
    ),
    Mutant(
        "released-magnitude-keeps-one-more",
        "dnrlib/masks.py",
        "int(self.share * weight.numel()) - 1)",
        "int(self.share * weight.numel()))",
        "tests/test_masks.py -k released_magnitude",
    ),
    # Arms
    Mutant(
        "arm-named-by-its-method-alone",
        "dnrlib/config.py",
        "named.append([config.method, *differing])",
        "named.append([config.method])",
        "tests/test_config.py -k arm_is_read",
    ),
    Mutant(
        "arm-of-the-default-recipe",
        "dnrlib/config.py",
        "base = configure(config.dataset, budget, ",
        'base = configure("digits", budget, ',
        "tests/test_config.py -k arm",
    ),
    Mutant(
        "arms-give-way-to-common-settings",
        "dnrlib/config.py",
        "settings = [overrides | arm for arm in parsed]",
        "settings = [arm | overrides for arm in parsed]",
        "tests/test_config.py -k grid_is_seeds",
    ),
    Mutant(
        "command-for-another-budget",
        "dnrlib/study.py",
        "smoke = configure(config.dataset, seed=config.seed, **settings) != config",
        "smoke = config.epochs == 2",
        "tests/test_study.py -k the_command_trains",
    ),
    Mutant(
        "stage-of-no-epoch",
        "dnrlib/methods.py",
        "max(1, round(self.epochs * config.epochs))",
        "round(self.epochs * config.epochs)",
        "tests/test_run.py -k shorter_than_an_epoch",
    ),
    # Inheritance
    Mutant(
        "mask-inverted",
        "dnrlib/train.py",
        "torch.where(kept, state[name], values)",
        "torch.where(kept, values, state[name])",
        "tests/test_run.py -k child_inherits",
    ),
    Mutant(
        "reset-forgotten",
        "dnrlib/train.py",
        "state[name].copy_(torch.where(kept, state[name], values))",
        "pass",
        "tests/test_run.py -k child_inherits",
    ),
    Mutant(
        "whole-layer-reset",
        "dnrlib/train.py",
        "torch.where(kept, state[name], values)",
        "values",
        "tests/test_run.py -k child_inherits",
    ),
    Mutant(
        "batch-statistics-reset",
        "dnrlib/train.py",
        "    stage.inherit.apply(parent, mask)\n",
        "    stage.inherit.apply(parent, mask)\n"
        "    for module in parent.model.modules():\n"
        "        if isinstance(module, nn.BatchNorm2d):\n"
        "            module.reset_running_stats()\n",
        "tests/test_run.py -k child_inherits",
    ),
    Mutant(
        "fill-as-wide-as-birth",
        "dnrlib/fills.py",
        "bound = 1 / math.sqrt(fan_in(weight))",
        "bound = math.sqrt(6 / fan_in(weight))",
        "tests/test_run.py -k child_inherits",
    ),
    Mutant(
        "fill-half-as-wide",
        "dnrlib/fills.py",
        "bound = 1 / math.sqrt(fan_in(weight))",
        "bound = 0.5 / math.sqrt(fan_in(weight))",
        "tests/test_models.py -k fresh_values",
    ),
    Mutant(
        "fan-out-for-fan-in",
        "dnrlib/models.py",
        "return weight[0].numel()",
        "return weight[:, 0].numel()",
        "tests/test_models.py -k initial_weights_are_kaiming",
    ),
    Mutant(
        "first-mask-for-every-child",
        "dnrlib/run.py",
        "mask = self.read_mask(links[position - 1])",
        "mask = self.read_mask(links[0])",
        "tests/test_caught.py -k born_of_its_own_parent",
    ),
    Mutant(
        "child-of-the-first-network",
        "dnrlib/run.py",
        "self.open(links, position - 1)",
        "self.open(links, min(position - 1, 0))",
        "tests/test_run.py -k tuning_resets_nothing",
    ),
    Mutant(
        "last-mask-applied",
        "dnrlib/run.py",
        '        with clock.part("evaluation"):\n            train_accuracy',
        "        if link.generation == len(links) and link.mask_key:\n"
        "            at = Parent(self.model, self.data, config, link.generation)\n"
        "            train.conceive(at, link.keep.mask(at)[0], link.stage)\n"
        '        with clock.part("evaluation"):\n            train_accuracy',
        "tests/test_caught.py -k born_of_its_own_parent",
    ),
    Mutant(
        "weights-stay-masked",
        "dnrlib/run.py",
        "state[name].copy_(whole[name])",
        "pass",
        "tests/test_run.py -k masked_accuracy_leaves",
    ),
    # Training
    Mutant(
        "momentum-replayed-on",
        "dnrlib/graphs.py",
        'state["momentum_buffer"].zero_()',
        "pass",
        "tests/test_train.py -k replayed_runs_are_eager",
    ),
    Mutant(
        "first-parent-replayed",
        "dnrlib/graphs.py",
        "self.parent.load_state_dict(parent.state_dict())",
        "pass",
        "tests/test_train.py -k replayed_runs_are_eager",
    ),
    Mutant(
        "first-held-mask-replayed",
        "dnrlib/graphs.py",
        "kept.copy_(held[name])",
        "pass",
        "tests/test_train.py -k holds_the_mask_of_each",
    ),
    Mutant(
        "warm-up-kept",
        "dnrlib/graphs.py",
        "tensor.copy_(value)",
        "pass",
        "tests/test_train.py -k replayed_runs_are_eager",
    ),
    Mutant(
        "first-rate-replayed",
        "dnrlib/graphs.py",
        "self.rate.fill_(rate)",
        "self.rate.fill_(rate if self.rate == 0 else self.rate)",
        "tests/test_train.py -k replayed_runs_are_eager",
    ),
    Mutant(
        "first-batch-replayed",
        "dnrlib/graphs.py",
        "self.current.inputs.copy_(inputs)",
        "pass",
        "tests/test_train.py -k replayed_runs_are_eager",
    ),
    Mutant(
        "a-step-for-every-generation",
        "dnrlib/run.py",
        "if self.step is None or self.step[0] != alike:",
        "if True:",
        "tests/test_train.py -k one_step_serves",
    ),
    Mutant(
        "held-and-free-share-a-step",
        "dnrlib/run.py",
        "alike = (stage.task, stage.hold, modules)",
        "alike = (stage.task, modules)",
        "tests/test_train.py -k one_step_serves",
    ),
    Mutant(
        "bf16-not-entered",
        "dnrlib/train.py",
        'enabled=self.config.precision == "bf16"',
        "enabled=False",
        "tests/test_study.py -k precision_enters",
    ),
    Mutant(
        "last-time-of-a-part-only",
        "dnrlib/clock.py",
        "self.spent.get(name, 0.0) + end - start",
        "end - start",
        "tests/test_train.py -k adds_up",
    ),
    Mutant(
        "making-of-items-not-timed",
        "dnrlib/clock.py",
        "                item = next(items, last)",
        "                pass\n            item = next(items, last)",
        "tests/test_train.py -k adds_up",
    ),
    Mutant(
        "profile-of-all-images",
        "dnrlib/run.py",
        "generations=2, per_class=per_class)",
        "generations=2)",
        "tests/test_train.py -k profile_is_short",
    ),
    Mutant(
        "bare-passes-too-few",
        "benchmarks/generation.py",
        '("saliency", 2, ',
        '("saliency", 1, ',
        "tests/test_speed.py -k bare_passes_are_those",
    ),
    Mutant(
        "goals-turned-round",
        "dnrlib/speed.py",
        "middle <= self.bound if self.at_most",
        "middle >= self.bound if self.at_most",
        "tests/test_speed.py -k judged_by_the_median",
    ),
    Mutant(
        "switch-of-one-epoch",
        "dnrlib/speed.py",
        'short["config"]["epochs"]',
        "1",
        "tests/test_speed.py -k judged_by_the_median",
    ),
    Mutant(
        "momentum-carried-over",
        "dnrlib/train.py",
        "self.optimiser = torch.optim.SGD(",
        'self.optimiser = getattr(self, "optimiser", None) or torch.optim.SGD(',
        "tests/test_train.py -k replayed_runs_are_eager",
    ),
    Mutant(
        "schedule-not-restarted",
        "dnrlib/train.py",
        "rate = learning_rate(epoch, epochs, config, peak)",
        "rate = learning_rate(epoch + (generation - 1) * epochs, generation * epochs, config)",
        "tests/test_caught.py -k plain_loop",
    ),
    Mutant(
        "gradients-added-up",
        "dnrlib/train.py",
        "self.optimiser.zero_grad(set_to_none=True)",
        "pass",
        "tests/test_caught.py -k plain_loop",
    ),
    Mutant(
        "smoothing-ignored",
        "dnrlib/losses.py",
        "return F.cross_entropy(logits, labels, label_smoothing=config.smoothing)",
        "return F.cross_entropy(logits, labels)",
        "tests/test_caught.py -k plain_loop",
    ),
    Mutant(
        "weight-decay-ignored",
        "dnrlib/train.py",
        "weight_decay=self.config.weight_decay",
        "weight_decay=0.0",
        "tests/test_caught.py -k plain_loop",
    ),
    Mutant(
        "trained-in-evaluation-mode",
        "dnrlib/train.py",
        "        if not model.training:\n",
        "        if epoch == 0:\n",
        "tests/test_caught.py -k plain_loop",
    ),
    Mutant(
        "images-not-normalised",
        "dnrlib/data.py",
        "return pixels.sub_(mean).div_(std)",
        "return pixels",
        "tests/test_caught.py -k plain_loop",
    ),
    Mutant(
        "first-step-late",
        "dnrlib/train.py",
        "(epoch >= epochs / 2)",
        "(epoch > epochs / 2)",
        "tests/test_config.py -k step_of",
    ),
    Mutant(
        "steps-of-160-epochs-only",
        "dnrlib/train.py",
        "(epoch >= epochs * 3 / 4)",
        "(epoch >= 120)",
        "tests/test_config.py -k step_of",
    ),
    Mutant(
        "warm-up-from-zero",
        "dnrlib/train.py",
        "return lr * (epoch + 1) / warmup",
        "return lr * epoch / warmup",
        "tests/test_config.py -k cosine_of or warms_up",
    ),
    Mutant(
        "cosine-counts-the-warm-up",
        "dnrlib/train.py",
        "progress = (epoch - warmup) / (epochs - warmup)",
        "progress = epoch / epochs",
        "tests/test_config.py -k cosine_of",
    ),
    Mutant(
        "last-batch-dropped",
        "dnrlib/data.py",
        "tensor_split(-(-n // size))",
        "tensor_split(n // size)",
        "tests/test_data.py -k batches_hold_every_image",
    ),
    Mutant(
        "divergence-not-noticed",
        "dnrlib/train.py",
        "if not math.isfinite(mean):",
        "if mean < 0:",
        "tests/test_run.py -k diverging_run",
    ),
    # Measuring
    Mutant(
        "train-accuracy-as-test-accuracy",
        "dnrlib/run.py",
        "train_loss = train.evaluate(self.model, self.data, self.data.train)",
        "train_loss = train.evaluate(self.model, self.data, self.data.evaluation)",
        "tests/test_run.py -k not_mixed_up",
    ),
    Mutant(
        "evaluated-in-training-mode",
        "dnrlib/train.py",
        "model.eval()",
        "model.train()",
        "tests/test_run.py -k not_mixed_up",
    ),
    Mutant(
        "trained-on-the-evaluation-pool",
        "dnrlib/data.py",
        'train = pools["train"]',
        "train = pools[config.pool]",
        "tests/test_data.py -k training_splits_follow",
    ),
    Mutant(
        "test-pool-for-tuning",
        "dnrlib/data.py",
        "return Data(about, train, pools[config.pool])",
        'return Data(about, train, pools["test"])',
        "tests/test_data.py -k either_pool",
    ),
    Mutant(
        "images-not-checked",
        "dnrlib/data.py",
        "if found != about.fingerprint:",
        "if not found:",
        "tests/test_data.py -k changed_images",
    ),
    Mutant(
        "overlap-counts-either",
        "dnrlib/masks.py",
        "(a[name] & b[name])",
        "(a[name] | b[name])",
        "tests/test_masks.py -k counts_of_two_masks",
    ),
    Mutant(
        "first-overlap-with-previous",
        "dnrlib/run.py",
        "masks.both(mask, self.read_mask(links[0]))",
        "masks.both(mask, self.read_mask(links[position - 1]))",
        "tests/test_run.py -k recorded_counts",
    ),
    Mutant(
        "overlap-of-all-weights",
        "dnrlib/study.py",
        'total[f"with_{name}"] / total["kept"]',
        'total[f"with_{name}"] / total["size"]',
        "tests/test_study.py -k layers_sum",
    ),
    # Streams and budgets
    Mutant(
        "streams-without-purpose",
        "dnrlib/streams.py",
        'f"{seed}/{generation}/{purpose}"',
        'f"{seed}/{generation}"',
        "tests/test_data.py -k streams_depend",
    ),
    Mutant(
        "streams-without-generation",
        "dnrlib/streams.py",
        'f"{seed}/{generation}/{purpose}"',
        'f"{seed}/{purpose}"',
        "tests/test_masks.py -k probe_is_a_fresh_share",
    ),
    Mutant(
        "same-order-every-generation",
        "dnrlib/train.py",
        'stream(config.seed, generation, "order")',
        'stream(config.seed, 0, "order")',
        "tests/test_caught.py -k stream_of_its_own",
    ),
    Mutant(
        "same-fill-every-generation",
        "dnrlib/train.py",
        'stream(parent.config.seed, parent.generation + 1, "fill")',
        'stream(parent.config.seed, 0, "fill")',
        "tests/test_caught.py -k stream_of_its_own",
    ),
    Mutant(
        "same-split-for-every-seed",
        "dnrlib/data.py",
        'stream(seed, 0, "split")',
        'stream(0, 0, "split")',
        "tests/test_data.py -k training_splits_follow",
    ),
    Mutant(
        "long-baseline-one-generation-short",
        "dnrlib/methods.py",
        "epochs=float(config.generations)",
        "epochs=float(config.generations - 1)",
        "tests/test_run.py -k declared_budget",
    ),
    Mutant(
        "one-generation-too-many",
        "dnrlib/methods.py",
        "range(config.generations - 1)",
        "range(config.generations)",
        "tests/test_run.py -k declared_budget",
    ),
    # Records
    Mutant(
        "seal-not-checked",
        "dnrlib/records.py",
        "    if not sealed:",
        "    if not isinstance(record, dict):",
        "tests/test_run.py -k damaged_files and flipped and json",
    ),
    Mutant(
        "weights-not-checked",
        "dnrlib/run.py",
        'if records.weights_digest(state) != record["result"]["weights"]:',
        "if record is None:",
        "tests/test_run.py -k weights_of_another_run",
    ),
    Mutant(
        "mask-not-checked",
        "dnrlib/run.py",
        'if records.weights_digest(mask) != record["result"]["mask"]:',
        "if record is None:",
        "tests/test_caught.py -k mask_of_another_run",
    ),
    Mutant(
        "key-without-its-parent",
        "dnrlib/run.py",
        "key = digest([key, canonical(stage)",
        "key = digest([number, canonical(stage)",
        "tests/test_run.py -k weights_of_another_run",
    ),
    Mutant(
        "key-without-its-stage",
        "dnrlib/run.py",
        "key = digest([key, canonical(stage), ",
        "key = digest([key, ",
        "tests/test_config.py -k depends_on_every_setting",
    ),
    Mutant(
        "no-lock",
        "dnrlib/run.py",
        "with records.lock(session.folder(link)):",
        "if True:",
        "tests/test_run.py -k two_processes",
    ),
    Mutant(
        "files-written-in-place",
        "dnrlib/records.py",
        'handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")',
        "handle, name = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), str(path)",
        "tests/test_study.py -k writes_leave_nothing",
    ),
    Mutant(
        "devices-compared",
        "dnrlib/study.py",
        'record["provenance"]["results"], record["provenance"]["device"])',
        'record["provenance"]["results"], "any")',
        "tests/test_study.py -k different_conditions",
    ),
    # Statistics and the paper's numbers
    Mutant(
        "difference-turned-round",
        "dnrlib/stats.py",
        "(last[a] - last[b]).dropna()",
        "(last[b] - last[a]).dropna()",
        "tests/test_stats.py -k paired_by_seed",
    ),
    Mutant(
        "difference-not-paired",
        "dnrlib/stats.py",
        "(last[a] - last[b]).dropna()",
        "(last[a] - last[b].mean()).dropna()",
        "tests/test_stats.py -k paired_by_seed",
    ),
    Mutant(
        "not-adjusted-after-holm",
        "dnrlib/stats.py",
        "(len(p_values) - rank) * p_values[i]",
        "p_values[i]",
        "tests/test_stats.py -k holm",
    ),
    Mutant(
        "comparisons-not-adjusted",
        "dnrlib/stats.py",
        "adjusted = holm([e.p if not math.isnan(e.p) else 1.0 for _, _, e in rows])",
        "adjusted = [e.p for _, _, e in rows]",
        "tests/test_stats.py -k p_values_are_adjusted",
    ),
    Mutant(
        "interval-with-n-degrees-of-freedom",
        "dnrlib/stats.py",
        "half = float(stats.t.ppf((1 + level) / 2, n - 1))",
        "half = float(stats.t.ppf((1 + level) / 2, n))",
        "tests/test_stats.py -k estimate_is_the_t_interval",
    ),
    Mutant(
        "deviation-over-n",
        "dnrlib/stats.py",
        "values.std(ddof=1)",
        "values.std()",
        "tests/test_stats.py -k estimate_is_the_t_interval",
    ),
    Mutant(
        "equivalence-with-the-wide-interval",
        "dnrlib/stats.py",
        "half = float(stats.t.ppf(LEVEL, difference.n - 1))",
        "half = float(stats.t.ppf((1 + LEVEL) / 2, difference.n - 1))",
        "tests/test_stats.py -k equivalence",
    ),
    Mutant(
        "paper-of-another-dataset",
        "dnrlib/paper.py",
        '"flower102": "Flower",\n    "mit67": "MIT"',
        '"flower102": "MIT",\n    "mit67": "Flower"',
        "tests/test_paper.py -k beside_paper",
    ),
    Mutant(
        "paper-without-smoothing",
        "dnrlib/paper.py",
        '"dnr": "Smth + DNR (f10)",\n    },\n    "table2"',
        '"dnr": "DNR (f10)",\n    },\n    "table2"',
        "tests/test_paper.py -k beside_paper",
    ),
    Mutant(
        "paper-deviation-as-value",
        "dnrlib/paper.py",
        'paper=found["value"]',
        'paper=found["std"]',
        "tests/test_paper.py -k beside_paper",
    ),
    # Claims
    Mutant(
        "claim-supported-by-its-strongest-part",
        "dnrlib/claims.py",
        "max(s for s, _, _, _ in evidence)",
        "min(s for s, _, _, _ in evidence)",
        "tests/test_claims.py -k test_verdicts",
    ),
    Mutant(
        "claim-refuted-without-bonferroni",
        "dnrlib/claims.py",
        "len(evidence) * min(r for _, r, _, _ in evidence)",
        "min(r for _, r, _, _ in evidence)",
        "tests/test_claims.py -k refutation_by_any",
    ),
    Mutant(
        "one-family-for-all-claims",
        "dnrlib/claims.py",
        'if row["rank"] == rank]',
        "if rank]",
        "tests/test_claims.py -k families",
    ),
    Mutant(
        "one-sided-support",
        "dnrlib/claims.py",
        "min(1.0, 2 * above(0))",
        "above(0)",
        "tests/test_claims.py -k p_values",
    ),
    Mutant(
        "refuted-against-zero",
        "dnrlib/claims.py",
        "2 * above(0)), below(MARGIN)",
        "2 * above(0)), below(0)",
        "tests/test_claims.py -k p_values",
    ),
    Mutant(
        "equivalence-by-one-side",
        "dnrlib/claims.py",
        "max(above(-MARGIN), below(MARGIN))",
        "below(MARGIN)",
        "tests/test_claims.py -k p_values",
    ),
    Mutant(
        "fall-is-rise",
        "dnrlib/claims.py",
        'sign = -1 if part.kind == "fall" else 1',
        "sign = 1",
        "tests/test_claims.py -k trend_is_the_rise",
    ),
    Mutant(
        "missing-part-does-not-matter",
        "dnrlib/claims.py",
        "all(len(values) for _, _, values, _ in evidence)",
        "any(len(values) for _, _, values, _ in evidence)",
        "tests/test_claims.py -k test_verdicts",
    ),
    Mutant(
        "untestable-claim-judged",
        "dnrlib/claims.py",
        "if untestable or not evidence:",
        "if not evidence:",
        "tests/test_claims.py -k untestable",
    ),
    Mutant(
        "untestable-in-the-papers-setting-too",
        "dnrlib/claims.py",
        'column == "embedded" and stated["untestable"]',
        'stated["untestable"]',
        "tests/test_claims.py -k untestable",
    ),
    Mutant(
        "untestable-claim-leaves-its-family",
        "dnrlib/claims.py",
        "judged = complete and finished\n",
        'judged = complete and finished and not stated["untestable"]\n',
        "tests/test_claims.py -k untestable",
    ),
    Mutant(
        "photographs-marked-by-what-was-known-on-digits",
        "dnrlib/tables.py",
        "stated.get(column)",
        'stated["known"]',
        "tests/test_claims.py -k pages_mark",
    ),
    Mutant(
        "print-contradicts-on-a-tie-only",
        "dnrlib/claims.py",
        "if not cells.loc[part.terms[0], column] > cells.loc[part.terms[1], column]",
        "if cells.loc[part.terms[0], column] == cells.loc[part.terms[1], column]",
        "tests/test_claims.py -k printed_numbers",
    ),
    Mutant(
        "sweep-over-the-default-size-twice",
        "dnrlib/paper.py",
        "for size in _SIZES[said_of] if size != own",
        "for size in _SIZES[said_of]",
        "tests/test_paper.py -k own_name",
    ),
    Mutant(
        "shock-of-the-first-birth",
        "dnrlib/tables.py",
        'wide["test_accuracy"][1], wide["birth_accuracy"][2]',
        'wide["test_accuracy"][1], wide["birth_accuracy"][1]',
        "tests/test_figures.py -k shock",
    ),
    Mutant(
        "workers-outlive-their-study",
        "dnrlib/study.py",
        "        _live_with(study)\n",
        "        pass\n",
        "tests/test_study.py -k end_with",
    ),
    # Images from files
    Mutant(
        "pools-in-the-order-of-their-names",
        "dnrlib/decoded.py",
        "for pool, pictures in listing.pools.items()],",
        "for pool, pictures in sorted(listing.pools.items())],",
        "tests/test_decoded.py -k every_pool_holds",
    ),
    Mutant(
        "damaged-pixels-believed",
        "dnrlib/decoded.py",
        """array is None or known["chunks"] != [
        [row, _digest(array[row:end])] for row, end in itertools.pairwise(rows)
    ]:""",
        "array is None:",
        "tests/test_decoded.py -k damaged_file_is_named",
    ),
    Mutant(
        "written-files-believed",
        "dnrlib/decoded.py",
        'verified is None or verified["looks"] != looks',
        "verified is None",
        "tests/test_decoded.py -k was_written_to",
    ),
    Mutant(
        "times-of-change-can-be-put-back",
        "dnrlib/decoded.py",
        ", s.st_ctime_ns]",
        "]",
        "tests/test_decoded.py -k was_written_to",
    ),
    Mutant(
        "prepared-without-reading",
        "dnrlib/decoded.py",
        " or not whole(name, known):",
        ":",
        "tests/test_decoded.py -k flips_by_itself",
    ),
    Mutant(
        "resized-without-interpolation",
        "dnrlib/decoded.py",
        "Image.Resampling.BILINEAR",
        "Image.Resampling.NEAREST",
        "tests/test_decoded.py -k torchvisions_resize",
    ),
    Mutant(
        "finished-chunks-decoded-again",
        "dnrlib/decoded.py",
        "if str(row) not in done or _digest(array[row : row + CHUNK]) != done[str(row)]",
        "if True",
        "tests/test_decoded.py -k killed_decoding",
    ),
    Mutant(
        "unfinished-chunks-believed",
        "dnrlib/decoded.py",
        "str(row) not in done or _digest(array[row : row + CHUNK]) != done[str(row)]",
        "str(row) not in done",
        "tests/test_decoded.py -k made_is_made_again",
    ),
    Mutant(
        "changed-files-unseen",
        "dnrlib/decoded.py",
        "{found.st_size} {found.st_mtime_ns}",
        "",
        "tests/test_decoded.py -k changed_file_is_decoded_again",
    ),
    Mutant(
        "labels-not-in-the-fingerprint",
        "dnrlib/decoded.py",
        'digest([known["chunks"], known["labels"], about["counts"]])',
        'digest([known["chunks"], about["counts"]])',
        "tests/test_decoded.py -k fingerprint_knows",
    ),
    Mutant(
        "corrupt-images-become-black",
        "dnrlib/decoded.py",
        "    if corrupt:\n",
        "    if False:\n",
        "tests/test_decoded.py -k what_cannot_be_decoded",
    ),
    Mutant(
        "no-lock-on-decoding",
        "dnrlib/decoded.py",
        "with records.lock(folder):",
        "if folder.mkdir(parents=True, exist_ok=True) is None:",
        "tests/test_decoded.py -k two_processes_at_once",
    ),
    Mutant(
        "one-part-for-a-whole-batch",
        "dnrlib/data.py",
        "boxes = self.boxes(len(images), images.shape[-1], draw)",
        "boxes = self.boxes(1, images.shape[-1], draw).expand(len(images), -1)",
        "tests/test_data.py -k part_of_its_own",
    ),
    Mutant(
        "no-antialiasing",
        "dnrlib/data.py",
        "antialias=True",
        "antialias=False",
        "tests/test_data.py -k equal_pillows",
    ),
    Mutant(
        "matrix-products-never-flip",
        "dnrlib/data.py",
        "across.flip(1)",
        "across",
        "tests/test_data.py -k equal_pillows",
    ),
    Mutant(
        "part-outside-the-image",
        "dnrlib/data.py",
        "uniform[2] * (side - tall + 1)",
        "uniform[2] * side",
        "tests/test_data.py -k distributed_as_torchvisions",
    ),
    Mutant(
        "ratio-not-logarithmic",
        "dnrlib/data.py",
        "ratio = torch.exp(low + uniform[1] * (high - low))",
        "ratio = self.ratio[0] + uniform[1] * (self.ratio[1] - self.ratio[0])",
        "tests/test_data.py -k distributed_as_torchvisions",
    ),
    Mutant(
        "parts-that-do-not-fit",
        "dnrlib/data.py",
        "torch.where(fits.any(0)[:, None], torch.stack(chosen, 1).long(), whole)",
        "torch.stack(chosen, 1).long()",
        "tests/test_data.py -k never_fits",
    ),
    Mutant(
        "corner-instead-of-centre",
        "dnrlib/data.py",
        "start = round((images.shape[-1] - dataset.size) / 2)",
        "start = 0",
        "tests/test_data.py -k sees_the_centre",
    ),
    Mutant(
        "missing-pool-is-training",
        "dnrlib/data.py",
        "if config.pool not in pools:",
        "if False:",
        "tests/test_decoded.py -k without_a_validation",
    ),
    Mutant(
        "copies-in-two-pools",
        "dnrlib/folder.py",
        "                0 < cut < len(spare)",
        "                False",
        "tests/test_folder.py -k equal_images_stay",
    ),
    Mutant(
        "corrupt-images-skipped-unasked",
        "dnrlib/folder.py",
        "if not skip_corrupt:",
        "if False:",
        "tests/test_folder.py -k corrupt_images_are_listed",
    ),
    Mutant(
        "new-images-unnoticed",
        "dnrlib/folder.py",
        'known and known["notes"]["signature"] == signature',
        "known",
        "tests/test_folder.py -k new_and_changed",
    ),
    Mutant(
        "validation-images-are-tested-on",
        "dnrlib/folder.py",
        '"val": "tuning"',
        '"val": "test"',
        "tests/test_folder.py -k given_pools",
    ),
    Mutant(
        "narrow-networks-crash-torch",
        "dnrlib/models.py",
        "unsafe = config.threads > 1 or narrow",
        "unsafe = config.threads > 1",
        "tests/test_models.py -k fast_layout_is_left",
    ),
    Mutant(
        "checksum-not-asked",
        "dnrlib/archives.py",
        "if wanted not in (None, found):",
        "if False:",
        "tests/test_official.py -k wrong_checksum",
    ),
    Mutant(
        "archive-writes-anywhere",
        "dnrlib/archives.py",
        'filter="data"',
        'filter="fully_trusted"',
        "tests/test_official.py -k members_of_a_tar",
    ),
    Mutant(
        "zip-not-looked-into",
        "dnrlib/archives.py",
        "raise _unsafe(path, member.filename)",
        "pass",
        "tests/test_official.py -k members_of_a_zip",
    ),
    Mutant(
        "whole-file-appended-to-its-part",
        "dnrlib/archives.py",
        "if response.status != 206:",
        "if False:",
        "tests/test_official.py -k interrupted_download",
    ),
    Mutant(
        "broken-download-kept",
        "dnrlib/archives.py",
        "if broken or total not in (None, found):",
        "if broken:",
        "tests/test_official.py -k interrupted_download",
    ),
    Mutant(
        "what-came-before-a-loss-is-lost",
        "dnrlib/archives.py",
        "response.read1(BLOCK)",
        "response.read(BLOCK)",
        "tests/test_official.py -k lost_connection",
    ),
    Mutant(
        "fetched-files-unverified",
        "dnrlib/archives.py",
        """        verify(path, archive)
    except""",
        """        pass
    except""",
        "tests/test_official.py -k wrong_checksum_is_not_kept",
    ),
    Mutant(
        "counts-not-verified",
        "dnrlib/official.py",
        "len(pictures) != number",
        "False",
        "tests/test_official.py -k held_to_the_counts_too",
    ),
    Mutant(
        "best-of-four-not-corrected-for",
        "dnrlib/compare.py",
        "level = 1 - (1 - LEVEL) / len(others)",
        "level = LEVEL",
        "tests/test_compare.py -k picking_the_best",
    ),
    Mutant(
        "short-training-need-not-be-beaten",
        "dnrlib/compare.py",
        "found = best == leader and above(over_long) and above(over_plain)",
        "found = best == leader and above(over_long)",
        "tests/test_compare.py -k beat_the_short",
    ),
    Mutant(
        "names-write-html",
        "dnrlib/report.py",
        "{html.escape(str(cell))}",
        "{cell}",
        "tests/test_compare.py -k names_from_outside",
    ),
    Mutant(
        "deadline-ignored",
        "dnrlib/compare.py",
        "if done and time.monotonic() + expected > deadline:",
        "if False:",
        "tests/test_compare.py -k pass_the_deadline",
    ),
    Mutant(
        "plain-training-has-no-share",
        "dnrlib/compare.py",
        "if counts[config.seed, first] > 1:",
        "if False:",
        "tests/test_compare.py -k estimate_counts",
    ),
    Mutant(
        "warmup-longer-than-a-generation",
        "dnrlib/compare.py",
        "warmup=min(base.warmup, self.epochs // 10),",
        "warmup=base.warmup,",
        "tests/test_compare.py -k have_one_budget",
    ),
    Mutant(
        "manifest-unchecked",
        "dnrlib/records.py",
        "if hashlib.sha256(content).hexdigest() != digest:",
        "if False:",
        "tests/test_study.py -k damaged_published_file",
    ),
    Mutant(
        "published-records-of-another-seed",
        "dnrlib/records.py",
        'if record.get("of", key) not in own:',
        "if False:",
        "tests/test_study.py -k wrong_file",
    ),
    Mutant(
        "folders-looked-at-once",
        "dnrlib/folder.py",
        "return _dataset(name, signature)",
        'return _dataset(name, "")',
        "tests/test_folder.py -k new_and_changed",
    ),
    Mutant(
        "names-are-markup",
        "dnrlib/tables.py",
        'lambda found: f"&#{ord(found[0])};"',
        "lambda found: found[0]",
        "tests/test_figures.py -k outside",
    ),
    Mutant(
        "published-files-unchecked",
        "dnrlib/records.py",
        "except (OSError, EOFError, zlib.error, UnicodeDecodeError):",
        "except UnicodeDecodeError:",
        "tests/test_study.py -k damaged_published_file",
    ),
    Mutant(
        "channels-last-images-crash-torch",
        "dnrlib/models.py",
        "if self.conv1.weight.is_contiguous():",
        "if False:",
        "tests/test_models.py -k bring_the_fast",
    ),
    # Evaluations
    Mutant(
        "change-beyond-epsilon",
        "dnrlib/evaluations.py",
        "torch.clamp(changed + step, pixels - epsilon, pixels + epsilon).clamp(0, 1)",
        "(changed + step).clamp(0, 1)",
        "tests/test_evaluations.py -k changes_stay",
    ),
    Mutant(
        "pixels-beyond-white",
        "dnrlib/evaluations.py",
        "pixels + epsilon).clamp(0, 1)",
        "pixels + epsilon)",
        "tests/test_evaluations.py -k changes_stay",
    ),
    Mutant(
        "step-of-one-epsilon",
        "dnrlib/evaluations.py",
        "2.5 * epsilon / steps",
        "epsilon / steps",
        "tests/test_evaluations.py -k foolboxes",
    ),
    Mutant(
        "gradient-at-the-clean-image",
        "dnrlib/evaluations.py",
        "gradient(model, dataset, changed, labels).sign()",
        "gradient(model, dataset, pixels, labels).sign()",
        "tests/test_evaluations.py -k foolboxes",
    ),
    Mutant(
        "attacked-without-normalisation",
        "dnrlib/evaluations.py",
        "F.cross_entropy(model(scaled(pixels, dataset)), labels",
        "F.cross_entropy(model(pixels), labels",
        "tests/test_evaluations.py -k foolboxes",
    ),
    Mutant(
        "attacked-in-training-mode",
        "dnrlib/evaluations.py",
        "        model.eval()\n        found = []",
        "        model.train()\n        found = []",
        "tests/test_evaluations.py -k leave_the_network",
    ),
    Mutant(
        "last-start-decides",
        "dnrlib/evaluations.py",
        "right[part] &= named",
        "right[part] = named",
        "tests/test_evaluations.py -k after_every_start",
    ),
    Mutant(
        "one-start-for-all",
        "dnrlib/evaluations.py",
        'stream(config.seed, r, "attack")',
        'stream(config.seed, 0, "attack")',
        "tests/test_evaluations.py -k starts_depend",
    ),
    Mutant(
        "one-dead-pixel-is-no-gradient",
        "dnrlib/evaluations.py",
        "(torch.cat(flat) == 0).all(1)",
        "(torch.cat(flat) == 0).any(1)",
        "tests/test_evaluations.py -k gradients_that_are_zero",
    ),
    Mutant(
        "last-images-of-each-class",
        "dnrlib/evaluations.py",
        "[:per_class, 0]",
        "[-per_class:, 0]",
        "tests/test_evaluations.py -k first_images",
    ),
    Mutant(
        "normalised-in-any-case",
        "dnrlib/evaluations.py",
        "if not self.normalised:",
        "if False:",
        "tests/test_evaluations.py -k those_on_the_corrupted",
    ),
    Mutant(
        "severities-reversed",
        "dnrlib/evaluations.py",
        "official[severity, chosen.cpu()]",
        "official[4 - severity, chosen.cpu()]",
        "tests/test_evaluations.py -k end_to_end",
    ),
    Mutant(
        "corruptions-of-other-images",
        "dnrlib/evaluations.py",
        "theirs.tolist() != SEVERITIES * labels.tolist()",
        "False",
        "tests/test_evaluations.py -k must_be_of_the_test_images",
    ),
    Mutant(
        "missing-files-noticed-after-training",
        "dnrlib/evaluations.py",
        """        if self.official:
            corruptions_here()
""",
        "",
        "tests/test_evaluations.py -k nothing_is_trained",
    ),
    Mutant(
        "corruptions-by-name",
        "dnrlib/evaluations.py",
        'accuracies = enumerate(result["accuracy"][name], 1)',
        'accuracies = enumerate(list(result["accuracy"].values())[0], 1)',
        "tests/test_evaluations.py -k frames_of_evaluations or what_corruptions",
    ),
    Mutant(
        "sixteen-of-the-benchmark",
        "dnrlib/evaluations.py",
        "if name not in EXTRA]",
        "if name not in EXTRA[1:]]",
        "tests/test_evaluations.py -k what_corruptions",
    ),
    Mutant(
        "clean-images-count-as-attacked",
        "dnrlib/evaluations.py",
        'clean, *attacked = result["accuracy"][: len(FIGURE)]',
        'clean, *attacked = [80.0, *result["accuracy"][: len(FIGURE)]]',
        "tests/test_evaluations.py -k what_corruptions",
    ),
    Mutant(
        "positive-is-the-first-class",
        "dnrlib/evaluations.py",
        "of = classes[1:] if",
        "of = classes[:1] if",
        "tests/test_evaluations.py -k two_classes_by_hand",
    ),
    Mutant(
        "specificity-counts-the-positives",
        "dnrlib/evaluations.py",
        "below & ((predicted[:, None] == of) == positive)",
        "below & (predicted[:, None] == of)",
        "tests/test_evaluations.py -k classes_by_hand",
    ),
    Mutant(
        "recall-is-precision",
        "dnrlib/evaluations.py",
        "(predicted[labels == c] == c)",
        "(labels[predicted == c] == c)",
        "tests/test_evaluations.py -k classes_by_hand",
    ),
    Mutant(
        "settings-not-in-the-key",
        "dnrlib/run.py",
        "digest([link.key, canonical(evaluation)])",
        "digest([link.key, type(evaluation).__name__])",
        "tests/test_evaluations.py -k keys_of_evaluations",
    ),
    Mutant(
        "network-not-in-the-key",
        "dnrlib/run.py",
        "digest([link.key, canonical(evaluation)])",
        "digest([canonical(evaluation)])",
        "tests/test_evaluations.py -k keys_of_evaluations",
    ),
    Mutant(
        "first-network-evaluated",
        "dnrlib/run.py",
        "self.open(links, len(links) - 1)",
        "self.open(links, 0)",
        "tests/test_evaluations.py -k end_with_its_evaluations",
    ),
    Mutant(
        "evaluated-anew-each-time",
        "dnrlib/run.py",
        'path = self.folder(link) / f"evaluation-{key}.json"\n        record = records.read(path)',
        'path = self.folder(link) / f"evaluation-{key}.json"\n        record = None',
        "tests/test_evaluations.py -k killed_evaluation",
    ),
    Mutant(
        "evaluations-need-not-be-published",
        "dnrlib/study.py",
        "for key in link.keys] + measured",
        "for key in link.keys]",
        "tests/test_evaluations.py -k published_and_found",
    ),
    Mutant(
        "evaluations-need-not-be-there",
        "dnrlib/study.py",
        'paths += [folder / f"evaluation-{key}.json" for key in measured]',
        "pass",
        "tests/test_evaluations.py -k evaluated_untrained",
    ),
    Mutant(
        "measures-in-every-row",
        "dnrlib/study.py",
        "            if number == last:\n                row |= measures",
        "            if True:\n                row |= measures",
        "tests/test_evaluations.py -k last_row_of_a_run",
    ),
    Mutant(
        "command-without-evaluations",
        "dnrlib/study.py",
        'words += ["--evaluate", name]',
        "pass",
        "tests/test_evaluations.py -k command_trains_and",
    ),
    Mutant(
        "power-law-from-zero",
        "dnrlib/data.py",
        "for c in range(1, classes + 1)",
        "for c in range(classes)",
        "tests/test_data.py -k power_law",
    ),
    Mutant(
        "classes-of-equal-size-after-all",
        "dnrlib/data.py",
        "elif about.counts:",
        "elif False:",
        "tests/test_data.py -k unequal_size",
    ),
    Mutant(
        "counts-of-another-class",
        "dnrlib/data.py",
        "for label, count in enumerate(counts):",
        "for label, count in enumerate(counts[::-1]):",
        "tests/test_data.py -k unequal_size",
    ),
    Mutant(
        "patients-of-suspects-stay",
        "dnrlib/data.py",
        "for at in (pools[name].labels != suspect).nonzero()[:, 0]",
        "for at in range(len(whose)) if at < (pools[name].labels != suspect).sum()",
        "tests/test_evaluations.py -k papila_without",
    ),
    Mutant(
        "corrupted-files-unchecked",
        "dnrlib/official.py",
        "_intact_once(base / path, md5, changed)",
        "pass",
        "tests/test_evaluations.py -k not_whole",
    ),
    Mutant(
        "changed-corruptions-remembered",
        "dnrlib/official.py",
        "(base / path).stat().st_mtime_ns",
        "0",
        "tests/test_evaluations.py -k not_whole",
    ),
    Mutant(
        "claims-judged-on-any-dataset",
        "dnrlib/claims.py",
        "if dataset not in ANALOGUE.values()]",
        "]",
        "tests/test_claims.py -k datasets_of_their_exhibit",
    ),
    Mutant(
        "claims-without-their-dataset",
        "dnrlib/claims.py",
        "    if exhibit in ANALOGUE:\n",
        "    if False:\n",
        "tests/test_claims.py -k column_of_an_evaluation",
    ),
    Mutant(
        "eyes-not-patients-resampled",
        "dnrlib/stats.py",
        "_, group = np.unique(list(groups), return_inverse=True)",
        "group = np.arange(len(above))",
        "tests/test_stats.py -k equal_eyes",
    ),
    Mutant(
        "mean-over-patients",
        "dnrlib/stats.py",
        "100 * (sums[0].sum(0) / sums[1].sum(0)).mean()",
        "100 * (sums[0] / sums[1]).mean(0).mean()",
        "tests/test_stats.py -k groups_by_hand",
    ),
    Mutant(
        "one-resample-without-positives",
        "dnrlib/stats.py",
        "np.nanpercentile(",
        "np.percentile(",
        "tests/test_stats.py -k without_a_positive",
    ),
    Mutant(
        "interval-of-ninety-percent",
        "dnrlib/stats.py",
        "[100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]",
        "[100 * (1 - LEVEL), 100 * LEVEL]",
        "tests/test_stats.py -k slow_bootstrap or scipys",
    ),
    # Corruptions
    Mutant(
        "same-noise-for-every-image",
        "dnrlib/corruptions.py",
        'f"{name}/{number}"',
        'f"{name}/0"',
        "tests/test_corruptions.py -k follow_the_number",
    ),
    Mutant(
        "white-loses-a-photon",
        "dnrlib/corruptions.py",
        'side="right")',
        'side="left") + (images > 200)',
        "tests/test_corruptions.py -k shot_noise_counts",
    ),
    Mutant(
        "distances-cut-at-nine",
        "dnrlib/corruptions.py",
        "np.minimum(distance, 20)",
        "np.minimum(distance, 9)",
        "tests/test_corruptions.py -k water",
    ),
    Mutant(
        "edges-at-the-border",
        "dnrlib/corruptions.py",
        "border_value=1",
        "border_value=0",
        "tests/test_corruptions.py -k water",
    ),
    Mutant(
        "dry-images-divided-by-zero",
        "dnrlib/corruptions.py",
        "light.max((1, 2), keepdims=True), 1)",
        "light.max((1, 2), keepdims=True), 0)",
        "tests/test_corruptions.py -k without_a_drop",
    ),
    Mutant(
        "levels-cut-not-rounded",
        "dnrlib/corruptions.py",
        "smeared + (0.5 + 1e-6)",
        "smeared + 1e-6",
        "tests/test_corruptions.py -k motion_blur or plain_image",
    ),
    Mutant(
        "border-not-repeated",
        "dnrlib/corruptions.py",
        'sigma, mode="nearest", truncate=4',
        'sigma, mode="mirror", truncate=4',
        "tests/test_corruptions.py -k gaussian_blur_is",
    ),
    Mutant(
        "contrast-of-all-channels",
        "dnrlib/corruptions.py",
        "means = pixels.mean((1, 2), keepdims=True)",
        "means = pixels.mean((1, 2, 3), keepdims=True)",
        "tests/test_corruptions.py -k contrast_shrinks",
    ),
]


def copy(folder: Path) -> Path:
    """What the tests need of the repository, in `folder`."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def mutate(mutant: Mutant, folder: Path) -> None:
    """Puts the mutant into a copy; raises `ValueError` if it does not fit the code."""
    path = folder / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"occurs {text.count(mutant.old)} times in {mutant.file}: {mutant.old}")
    path.write_text(text.replace(mutant.old, mutant.new))


def _pytest(folder: Path, result: Path, arguments: list[str]) -> None:
    """Runs tests in a copy, whose package comes before any installed one; ends this process."""
    # A group of its own, so that processes that the tests leave behind can be ended with it.
    os.setsid()
    # What the tests print goes to a file, also from processes that they start.
    with result.with_suffix(".log").open("w") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    # None of pytest's plugins is needed, and importing them takes seconds.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    import dnrlib

    if Path(dnrlib.__file__).resolve() != (folder / "dnrlib" / "__init__.py").resolve():
        print(f"the package under test would be {dnrlib.__file__}", flush=True)
        os._exit(255)
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments])
    sys.stdout.flush()
    result.write_text(str(int(code)))
    # An ordinary exit would wait for idle workers, minutes.
    os._exit(int(code))


def test(folder: Path, tests: str) -> tuple[int, str]:
    """Runs tests in a copy: pytest's exit code, and its line on the first failure or its last."""
    files, _, words = tests.partition(" -k ")
    chosen = files.split() + (["-k", words] if words else [])
    # A process that has imported the libraries, but nothing of ours, is forked: that saves the
    # seconds that importing them takes.
    context = multiprocessing.get_context("forkserver")
    result = folder / f"result-{os.urandom(4).hex()}"
    process = context.Process(target=_pytest, args=(folder, result, chosen))
    process.start()
    process.join(LIMIT)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if late:
        return -1, f"the tests took more than {LIMIT} seconds"
    lines = result.with_suffix(".log").read_text().strip().splitlines() or ["no output"]
    # Not `process.exitcode`: threads that wait at the same time may take it from each other.
    code = int(result.read_text()) if result.exists() else -1
    return code, next((line for line in lines if line.startswith("FAILED")), lines[-1])


def attempt(mutant: Mutant) -> tuple[str, str, float]:
    """Tries a mutant; `caught`, `SURVIVED` or `broken`, why, and the seconds it took."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = copy(Path(name))
        try:
            mutate(mutant, folder)
            code, why = test(folder, mutant.tests)
        except ValueError as error:
            code, why = -1, str(error)
    verdict = {0: "SURVIVED", 1: "caught"}.get(code, "broken")
    return verdict, why, time.monotonic() - start


def union(mutants: list[Mutant]) -> list[str]:
    """All selections of the mutants, one per test file."""
    words: dict[str, list[str]] = {}
    for mutant in mutants:
        files, _, expression = mutant.tests.partition(" -k ")
        words.setdefault(files, []).append(f"({expression})")
    return [f"{files} -k {' or '.join(dict.fromkeys(each))}" for files, each in words.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="one mutant, by name; may be repeated"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if mutant.name in (options.only or [mutant.name])]
    unknown = set(options.only or ()) - {mutant.name for mutant in mutants}
    if unknown:
        listed = ", ".join(mutant.name for mutant in MUTANTS)
        parser.error(f"no mutant {', '.join(sorted(unknown))}; there are: {listed}")
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
    with ThreadPoolExecutor(options.workers) as pool:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = copy(Path(name))
            for code, why in pool.map(lambda tests: test(folder, tests), union(mutants)):
                if code != 0:
                    print(f"without any mutant the tests do not pass: {why}")
                    return 1
        print(f"unchanged, the tests pass; {len(mutants)} mutants", flush=True)
        verdicts = []
        for mutant, (verdict, why, seconds) in zip(
            mutants, pool.map(attempt, mutants), strict=True
        ):
            shown = "" if verdict == "caught" else f"   {why}"
            print(f"{verdict:8} {mutant.name:36} {seconds:5.1f} s{shown}", flush=True)
            verdicts.append(verdict)
    failed = len(verdicts) - verdicts.count("caught")
    print(f"{verdicts.count('caught')} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
