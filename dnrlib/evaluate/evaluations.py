"""What a finished network is measured by beyond its test accuracy: corrupted images, adversarial
images, the class that it names for every image, the size of its weights.

An evaluation is a frozen dataclass: its name and settings enter the key of its record.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import UserError
from ..config import Config, stored
from ..datasets.augment import as_pixels, evaluation_batches
from ..datasets.catalogue import read
from ..datasets.official import SEVERITIES, corruption, corruptions_here
from ..datasets.splits import Data, Dataset, Split
from ..masks import prunable
from ..rules import kels_of, slimmed
from ..streams import stream
from ..train import evaluate, outputs
from . import retrieval
from .corruptions import CORRUPTIONS, EXTRA, corrupted

FIGURE = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
"""The axis of DNR Fig. 6. Its unit is not stated; 255ths of the range of a pixel are assumed."""
BEYOND = (16.0, 64.0)
"""Larger changes, by which every network has to fail if the attack works at all."""
HARDER = 6.0
"""Where more steps and restarts are tried."""
METRICS = ("sensitivity", "specificity", "accuracy")
EVALUATED = (
    *("mca", "mca_15", "mca_drop", "mca_unnormalised", "clean_unnormalised", "pgd", "pgd_drop"),
    *("balanced_accuracy", "sensitivity", "specificity"),
    "averaged",
    *("recall_1", "recall_4", "nmi", "slim_recall_1", "slim_recall_4", "slim_nmi"),
)
"""What all evaluations say of a run (`Evaluation.measures`)."""


class Evaluation(Protocol):
    """One way to measure a finished network. Every evaluation derives from it."""

    all_generations = False
    """Whether it is of the networks after all generations (`Averaged`), not of the last one."""

    def check(self, about: Dataset) -> None:
        """Raises `UserError` for a dataset that the evaluation is not defined for, or if files that
        it needs are not on this machine; unless it says otherwise, for one with unseen classes."""
        if about.unseen:
            raise UserError(f"{about.title}: its networks name no classes; use --exhibit ke_table4")

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """What is found, ready for JSON; the network stays as it is."""

    def measures(self, result: dict[str, Any]) -> dict[str, float]:
        """What a result says, in %, by names of `EVALUATED`; unless it says otherwise, nothing."""
        return {}


@stored("Predictions")
class Predictions(Evaluation):
    """The predicted class of every evaluation image, from which any metric follows: balanced
    accuracy (DNR Fig. 7), sensitivity and specificity (DNR Table 8)."""

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """`labels` and `predicted` (numbers of classes, in the order of the pool), and `groups`,
        whose image each is, where the dataset says so."""
        images = evaluation_batches(data.evaluation, data.dataset)
        named = [logits.argmax(1) for logits, _ in outputs(model, images)]
        found = {
            "labels": data.evaluation.labels.tolist(),
            "predicted": torch.cat(named).tolist(),
        }
        if data.dataset.groups:
            found["groups"] = data.dataset.groups()[config.pool]
        return found

    def measures(self, result: dict[str, Any]) -> dict[str, float]:
        """`balanced_accuracy`, the mean recall of the classes; with two classes `sensitivity`, the
        recall of the second, and `specificity`, that of the first; of patients with more classes
        these are means over classes, each against the rest."""
        labels, predicted = np.array(result["labels"]), np.array(result["predicted"])
        found = {"balanced_accuracy": float(np.mean(recalls(labels, predicted)))}
        if len(np.unique(labels)) == 2 or "groups" in result:
            for metric in ("sensitivity", "specificity"):
                above, below = ratios(metric, labels, predicted)
                found[metric] = float(np.mean(100 * above.sum(0) / below.sum(0)))
        return found


class Averaged(nn.Module):
    """Networks as one, whose outputs are the logarithms of their mean probabilities."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        each = torch.stack([model(inputs).float().log_softmax(1) for model in self.networks])
        return each.logsumexp(0) - math.log(len(each))


@stored("AveragedAccuracy")
class AveragedAccuracy(Evaluation):
    """Accuracy of the networks after all generations together, with averaged probabilities: of an
    ensemble its members, of other methods the snapshots that their generations leave. It costs as
    many forward passes as there are networks."""

    all_generations = True

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """`accuracy` in %, `loss` (mean cross-entropy), and the number of `networks`."""
        accuracy, loss = evaluate(model, evaluation_batches(data.evaluation, data.dataset))
        return {"accuracy": accuracy, "loss": loss, "networks": len(model.networks)}

    def measures(self, result: dict[str, Any]) -> dict[str, float]:
        """`averaged`, the accuracy."""
        return {"averaged": result["accuracy"]}


@stored("WeightSizes")
class WeightSizes(Evaluation):
    """Mean absolute weight of what KELS keeps and of what it resets, layer by layer, after every
    generation (KE Figs. 7 and 15)."""

    all_generations = True

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """`layers`, by name in the order of the network; `fit` and `reset`, for each of them a list
        over generations. A layer that the split keeps whole is left out."""
        mask = kels_of(model.networks[0], config.model, config.split_rate)
        split = {name: kept for name, kept in mask.items() if not kept.all()}
        weights = [prunable(network) for network in model.networks]

        def sizes(name: str, chosen: Tensor) -> list[float]:
            return [of[name].detach().cpu()[chosen].abs().double().mean().item() for of in weights]

        return {
            "layers": [name.removesuffix(".weight") for name in split],
            "fit": [sizes(name, kept) for name, kept in split.items()],
            "reset": [sizes(name, ~kept) for name, kept in split.items()],
        }


@stored("Retrieval")
class Retrieval(Evaluation):
    """How well embeddings tell unseen classes apart (KE Table 4), of the dense network and, for KE
    with KELS, of the slim one (KE Table 10)."""

    def check(self, about: Dataset) -> None:
        if not about.unseen:
            raise UserError(f"{about.title} has no unseen classes; use digits-metric")

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """By `dense` and `slim`: `recall_1`, `recall_4` and `nmi` in %."""
        networks = {"dense": model}
        if config.method == "ke":
            networks["slim"] = slimmed(model, config.model, config.split_rate)
        found = {}
        for name, network in networks.items():
            images = evaluation_batches(data.evaluation, data.dataset)
            embeddings, labels = retrieval.embedded(network, images)
            *_, before = retrieval.nearest(embeddings, labels)
            found[name] = {f"recall_{k}": retrieval.recall(before, k) for k in (1, 4)}
            found[name]["nmi"] = retrieval.mutual_information(embeddings, labels)
        return found

    def measures(self, result: dict[str, Any]) -> dict[str, float]:
        """`recall_1`, `recall_4` and `nmi`; of the slim network as `slim_recall_1` and so on."""
        slim = {f"slim_{name}": value for name, value in result.get("slim", {}).items()}
        return result["dense"] | slim


@stored("Corruptions")
class Corruptions(Evaluation):
    """Accuracy under the 19 corruptions of CIFAR-10-C at 5 severities (DNR Fig. 5 and Eq. 7)."""

    per_class: int = 0
    """Test images of each class that are corrupted, the first ones; 0: all."""
    normalised: bool = True
    """Whether images get the normalisation that the network was trained with. The released code's
    loader of this kind leaves it out (D38)."""
    official: bool = False
    """Whether the corrupted images are the official files of CIFAR-10-C, not our own."""

    def check(self, about: Dataset) -> None:
        if (about.channels, about.size) != (3, 32):
            raise UserError(
                f"the corruptions are defined for colour images of 32 x 32 pixels, not for "
                f"{about.title}; use digits-colour or cifar10"
            )
        if self.official:
            corruptions_here()

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """Accuracies in %: `clean`, and `accuracy` by corruption as a list over severities."""
        about = data.dataset
        if not self.normalised:
            zero, one = (0.0,) * about.channels, (1.0,) * about.channels
            about = dataclasses.replace(about, mean=zero, std=one)
        labels = data.evaluation.labels
        chosen = _first(labels, self.per_class)
        clean, _ = evaluate(model, evaluation_batches(data.evaluation[chosen], about))
        found: dict[str, list[float]] = {}
        for name in CORRUPTIONS:
            if self.official:
                by_severity = _official(name, labels)[:, chosen.cpu()]
            else:
                of = about.fingerprint, config.dataset, config.pool, self.per_class
                by_severity = _generated(*of, name)
            splits = [Split(images.to(labels.device), labels[chosen]) for images in by_severity]
            found[name] = [evaluate(model, evaluation_batches(each, about))[0] for each in splits]
        return {"clean": clean, "images": len(chosen), "accuracy": found}

    def measures(self, result: dict[str, Any]) -> dict[str, float]:
        """`mca` and `mca_15` (`mean_accuracies`), and `mca_drop`, what `mca` is below the accuracy
        on the same clean images; or, without normalisation, `mca` and that accuracy."""
        by_corruption = pd.DataFrame(result["accuracy"], columns=list(CORRUPTIONS)).mean()
        mca, mca_15 = map(float, mean_accuracies(by_corruption))
        if self.normalised:
            return {"mca": mca, "mca_15": mca_15, "mca_drop": result["clean"] - mca}
        return {"mca_unnormalised": mca, "clean_unnormalised": result["clean"]}


def mean_accuracies(by_corruption: pd.Series | pd.DataFrame) -> tuple[Any, Any]:
    """Of mean accuracies over severities, a row per corruption: their means over all 19 (DNR Eq. 7)
    and over the 15 of the benchmark (D37)."""
    return by_corruption.mean(), by_corruption.drop(index=list(EXTRA)).mean()


def _first(labels: Tensor, per_class: int) -> Tensor:
    """The positions of the first `per_class` images of each class (0: all), in order."""
    if not per_class:
        return torch.arange(len(labels), device=labels.device)
    members = [(labels == label).nonzero()[:per_class, 0] for label in labels.unique()]
    return torch.cat(members).sort().values


@functools.lru_cache(maxsize=len(CORRUPTIONS))
def _generated(fingerprint: str, dataset: str, pool: str, per_class: int, name: str) -> Tensor:
    """Our corrupted images (uint8, 5 severities x n x 3 x 32 x 32), made once per process and
    `fingerprint`."""
    split = read(dataset)[pool]
    images = split.images[_first(split.labels, per_class)].permute(0, 2, 3, 1).numpy()
    made = [corrupted(images, name, severity) for severity in range(1, SEVERITIES + 1)]
    return torch.from_numpy(np.stack(made)).permute(0, 1, 4, 2, 3)


def _official(name: str, labels: Tensor) -> Tensor:
    """The images of one official file (uint8, 5 severities x n x 3 x 32 x 32); raises `UserError`
    if they are not of the images that the network is evaluated on."""
    images, theirs = corruption(name)
    if theirs.tolist() != SEVERITIES * labels.tolist():
        raise UserError(
            "the labels of CIFAR-10-C are not those of the test images; prepare cifar10 and "
            "cifar10c from their official archives"
        )
    by_severity = torch.from_numpy(np.array(images)).unflatten(0, (SEVERITIES, -1))
    return by_severity.permute(0, 1, 4, 2, 3)


@stored("Attack")
class Attack(Evaluation):
    """Accuracy under projected gradient descent in the L-infinity norm (Madry et al., 2018; DNR
    Fig. 6): on pixels in 0..1, with the normalisation inside the network, in evaluation mode, from
    a random start, with steps of 2.5 epsilon / `steps`."""

    epsilons: tuple[float, ...]
    """Largest change of a pixel, in 255ths."""
    steps: int = 10
    restarts: int = 1
    """Random starts; an image counts as right if the network is right after all of them."""
    per_class: int = 0
    """Test images of each class that are attacked, the first ones; 0: all."""

    def result(self, model: nn.Module, data: Data, config: Config) -> dict[str, Any]:
        """`accuracy` in %, as a list over `epsilons`; `images` attacked; `no_gradient`, the share
        of clean images whose gradient is zero everywhere, as if it were masked."""
        chosen = data.evaluation[_first(data.evaluation.labels, self.per_class)]
        pixels = as_pixels(chosen.images, data.dataset)
        starts = [
            torch.empty(pixels.shape).uniform_(-1, 1, generator=stream(config.seed, r, "attack"))
            for r in range(self.restarts)
        ]
        together = torch.arange(len(chosen), device=pixels.device).split(100)
        about, labels, found = data.dataset, chosen.labels, []
        model.eval()
        for epsilon in self.epsilons:
            right = torch.ones(len(chosen), dtype=torch.bool, device=pixels.device)
            for start, part in itertools.product(starts, together):
                given = pixels[part], labels[part], epsilon / 255, self.steps
                changed = attack(model, about, *given, start.to(pixels.device)[part])
                with torch.inference_mode():
                    named = model(scaled(changed, about)).argmax(1)
                right[part] &= named == labels[part]
            found.append(100 * right.float().mean().item())
        flat = [gradient(model, about, pixels[p], labels[p]).flatten(1) for p in together]
        none = (torch.cat(flat) == 0).all(1).float().mean().item()
        return {"accuracy": found, "images": len(chosen), "no_gradient": none}

    def measures(self, result: dict[str, Any]) -> dict[str, float]:
        """Of the usual attack `pgd`, the mean accuracy over the positive epsilons of DNR Fig. 6,
        and `pgd_drop`, what it is below that on the same clean images."""
        if self != Attack(FIGURE + BEYOND, per_class=self.per_class):
            return {}
        clean, *attacked = result["accuracy"][: len(FIGURE)]
        pgd = float(np.mean(attacked))
        return {"pgd": pgd, "pgd_drop": clean - pgd}


def scaled(pixels: Tensor, dataset: Dataset) -> Tensor:
    """Pixels in 0..1 with the dataset's mean 0 and standard deviation 1, as `augment.normalised`
    makes them in place, which gradients do not survive."""
    mean, std = (
        torch.tensor(values, device=pixels.device).view(1, -1, 1, 1)
        for values in (dataset.mean, dataset.std)
    )
    return (pixels - mean) / std


def gradient(model: nn.Module, dataset: Dataset, pixels: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy in the pixels, one image by one."""
    pixels = pixels.detach().requires_grad_()
    loss = F.cross_entropy(model(scaled(pixels, dataset)), labels, reduction="sum")
    return torch.autograd.grad(loss, pixels)[0]


def attack(
    model: nn.Module,
    dataset: Dataset,
    pixels: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int,
    start: Tensor,
) -> Tensor:
    """Images (float32 in 0..1) that differ from `pixels` by at most `epsilon` and raise the loss of
    a network in evaluation mode; `start` in -1..1 is the first change in units of epsilon."""
    changed = (pixels + epsilon * start).clamp(0, 1)
    for _ in range(steps if epsilon else 0):
        step = 2.5 * epsilon / steps * gradient(model, dataset, changed, labels).sign()
        changed = torch.clamp(changed + step, pixels - epsilon, pixels + epsilon).clamp(0, 1)
    return changed


def evaluated(records: Iterable[dict[str, Any]]) -> Iterator[tuple[Evaluation, dict[str, Any]]]:
    """The evaluations among records, each with its result."""
    kinds = {each.stored_as: each for each in Evaluation.__subclasses__()}
    for record in records:
        if record["kind"] == "evaluation":
            ((name, settings),) = record["evaluation"].items()
            # JSON knows no tuples.
            given = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
            yield kinds[name](**given), record["result"]


def measures(records: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What the evaluations among a run's records say, in % (`Evaluation.measures`); raises
    `UserError` for two values of one name."""
    found: dict[str, float] = {}
    for evaluation, result in evaluated(records):
        new = evaluation.measures(result)
        if twice := found.keys() & new.keys():
            raise UserError(f"two evaluations of one run give {', '.join(sorted(twice))}")
        found |= new
    return found


def recalls(labels: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Per class in order, the share in % of its images that are recognised."""
    return [float(100 * (predicted[labels == c] == c).mean()) for c in np.unique(labels)]


def ratios(metric: str, labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A metric as ratios of sums over images: the numerators and the denominators (images x
    ratios). With two classes the second is the positive one and there is one ratio; with more there
    is one per class, against the rest, and the metric is their mean."""
    if metric == "accuracy":
        return (labels == predicted)[:, None].astype(float), np.ones((len(labels), 1))
    classes = np.unique(labels)
    of = classes[1:] if len(classes) == 2 else classes
    positive = metric == "sensitivity"
    below = (labels[:, None] == of) == positive
    above = below & ((predicted[:, None] == of) == positive)
    return above.astype(float), below.astype(float)
