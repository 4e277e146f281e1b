"""What a generation learns from: functions of the network and a batch."""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import stored


def _single(outputs: Tensor) -> Tensor:
    """Outputs in bfloat16 as float32, others as they are."""
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


def cross_entropy(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean over a batch; of bfloat16 outputs in float32, as autocast computes it on a CPU, but
    not on CUDA."""
    return F.cross_entropy(_single(outputs), labels, label_smoothing=smoothing)


@stored("Labels")
class Labels:
    """The labels: cross-entropy with label smoothing, mean over the batch."""

    needs_parent = False
    pairs = False
    """Whether each batch is followed by as many other images of the same classes."""
    embedding = 0
    """Length of the embeddings that the network gives out; 0: it gives out a number per class."""
    grouped = 0
    """Images of each class in a batch; 0: as they come."""

    def loss(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, parent: nn.Module, smoothing: float
    ) -> Tensor:
        """The loss of a batch. `parent` is the network that a distillation learns from, or None."""
        return cross_entropy(model(inputs), labels, smoothing)


@stored("Cosine")
class Cosine(Labels):
    """The cosine loss with cross-entropy (Barz and Denzler, 2020): one minus the cosine between
    outputs and unit vector of the label, plus `weight` times the cross-entropy of the outputs at
    length 1; mean over the batch, without smoothing. The paper has a second classifier for the
    cross-entropy; here it is of the same outputs."""

    weight: float = 0.1

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, *_: Any) -> Tensor:
        unit = F.normalize(model(inputs))
        cosine = unit.gather(1, labels[:, None]).mean()
        return 1 - cosine + self.weight * F.cross_entropy(unit, labels)


@stored("SelfDistilled")
class SelfDistilled(Labels):
    """CS-KD (Yun et al., 2020): cross-entropy of the labels, without smoothing, plus

    weight T^2 KL(softmax(q / T) || softmax(p / T)), mean over the batch,

    with p the outputs of the images and q those of other images of the same classes, which have no
    gradient but move the statistics of batch normalisation. The weight is that of KE."""

    pairs = True
    weight: float = 3.0
    temperature: float = 4.0

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, *_: Any) -> Tensor:
        first, second = inputs.chunk(2)
        logits = model(first)
        with torch.no_grad():
            target = (model(second) / self.temperature).softmax(1)
        own = (logits / self.temperature).log_softmax(1)
        divergence = F.kl_div(own, target, reduction="batchmean")
        return cross_entropy(logits, labels) + self.weight * self.temperature**2 * divergence


@stored("AdaCos")
class AdaCos(Labels):
    """AdaCos (Zhang et al., 2019, dynamic): cross-entropy of the cosines of a `CosineHead` times a
    scale, without smoothing. With every batch the scale becomes

    log(mean over images of the sum over wrong classes of exp(scale cos)) / cos(min(pi/4, median
    angle to the right class)), from the scale before.
    """

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, *_: Any) -> Tensor:
        cosines = model(inputs)
        (head,) = (module for module in model.modules() if isinstance(module, CosineHead))
        with torch.no_grad():
            right = labels[:, None]
            wrong = (head.scale * cosines).exp().scatter(1, right, 0).sum(1).mean()
            angle = cosines.gather(1, right).clamp(-1, 1).acos().median().clamp(max=math.pi / 4)
            head.scale.copy_(wrong.log() / angle.cos())
        return cross_entropy(head.scale.clone() * cosines, labels)


class CosineHead(nn.Linear):
    """A last layer whose outputs are the cosines between features and weights, without a bias; and
    the scale of `AdaCos`, sqrt 2 log(classes - 1) at first."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.register_buffer("scale", torch.tensor(math.nan))
        self.reset_scale()

    def reset_scale(self) -> None:
        """Sets the scale with which a training begins."""
        # Of two classes it would be zero.
        self.scale.fill_(math.sqrt(2) * math.log(max(self.out_features - 1, 2)))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features), F.normalize(self.weight))


distances = functools.partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
"""Euclidean distances between the rows of two tensors, from their differences: exact where two are
close."""


@stored("Triplet")
class Triplet(Labels):
    """Metric learning with triplets and semi-hard negatives (Schroff et al., 2015; KE Table 4):

    D(a, p) - D(a, n) + margin, mean over all triplets of an image a, another image p of its class
    and an image n of another class with D(a, p) < D(a, n) < D(a, p) + margin,

    with D the distance of embeddings of length 1; zero for a batch without one. KE does not give
    the margin, which is Schroff's. Batches have five images of each class, as in KE.
    """

    embedding = 128
    grouped = 5
    margin: float = 0.2

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, *_: Any) -> Tensor:
        return self.of(model(inputs), labels)

    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the embeddings of a batch, before they have length 1; of bfloat16 embeddings
        in float32."""
        unit = F.normalize(_single(embeddings))
        distance = distances(unit, unit)
        same = labels[:, None] == labels
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        # By anchor, positive and negative.
        gap = distance[:, None] - distance[:, :, None]
        chosen = positive[:, :, None] & ~same[:, None] & (gap > 0) & (gap < self.margin)
        return torch.where(chosen, self.margin - gap, 0).sum() / chosen.sum().clamp(min=1)


@stored("Distilled")
class Distilled(Labels):
    """The parent's outputs and the labels (born-again networks; Furlanello et al., 2018):

    alpha T^2 KL(softmax(parent / T) || softmax(child / T)) + (1 - alpha) cross-entropy.

    The parent is in evaluation mode. The numbers are those of the code that KE names as its source;
    that code averages the divergence over classes too (`mean`), which divides it by their number.
    """

    needs_parent = True
    alpha: float = 0.9
    temperature: float = 20.0
    reduction: str = "batchmean"
    """`batchmean`: the mean over the batch, the divergence proper. `mean`: over classes as well."""

    def loss(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, parent: nn.Module, smoothing: float
    ) -> Tensor:
        logits = model(inputs)
        with torch.no_grad():
            target = (parent(inputs) / self.temperature).softmax(1)
        # torch warns of its own reduction "mean", whose meaning it is going to change.
        divergence = F.kl_div((logits / self.temperature).log_softmax(1), target, reduction="sum")
        divergence /= logits.numel() if self.reduction == "mean" else len(logits)
        by_labels = cross_entropy(logits, labels, smoothing)
        return self.alpha * self.temperature**2 * divergence + (1 - self.alpha) * by_labels


LOSSES = {
    "labels": Labels,
    "cosine": Cosine,
    "cs-kd": SelfDistilled,
    "adacos": AdaCos,
    "triplet": Triplet,
}
"""By the names that `Config.loss` takes."""
