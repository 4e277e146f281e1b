"""What a generation learns from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import stored


@stored("Labels")
class Labels:
    """The labels: cross-entropy with label smoothing, mean over the batch."""

    needs_parent = False

    def loss(
        self, logits: Tensor, labels: Tensor, inputs: Tensor, parent: nn.Module, smoothing: float
    ) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@stored("Cosine")
class Cosine:
    """The cosine loss with cross-entropy (Barz and Denzler, 2020): one minus the cosine between
    outputs and unit vector of the label, plus `weight` times the cross-entropy of the outputs at
    length 1; mean over the batch, without smoothing. The paper has a second classifier for the
    cross-entropy; here it is of the same outputs."""

    needs_parent = False
    weight: float = 0.1

    def loss(
        self, logits: Tensor, labels: Tensor, inputs: Tensor, parent: nn.Module, smoothing: float
    ) -> Tensor:
        unit = F.normalize(logits)
        cosine = unit.gather(1, labels[:, None]).mean()
        return 1 - cosine + self.weight * F.cross_entropy(unit, labels)


@stored("Distilled")
class Distilled:
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
        self, logits: Tensor, labels: Tensor, inputs: Tensor, parent: nn.Module, smoothing: float
    ) -> Tensor:
        with torch.no_grad():
            target = (parent(inputs) / self.temperature).softmax(1)
        # torch warns of its own reduction "mean", whose meaning it is going to change.
        divergence = F.kl_div((logits / self.temperature).log_softmax(1), target, reduction="sum")
        divergence /= logits.numel() if self.reduction == "mean" else len(logits)
        by_labels = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        return self.alpha * self.temperature**2 * divergence + (1 - self.alpha) * by_labels


Task = Labels | Cosine | Distilled
