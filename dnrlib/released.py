"""What the released DNR code computes where it differs from the paper, once its errors are repaired
(D13-D17)."""

import math

import torch
import torch.nn.functional as F

from .config import stored
from .datasets.augment import augmented, batches
from .masks import Mask, add_gradients, evaluating, largest, prunable
from .rules import Keep, Parent


@stored("ReleasedSnip")
class ReleasedSnip(Keep):
    """Saliency |G * theta|, where G sums |gradient| over the first batches, ceil(number / 32) of
    them (D14, D15); one threshold over all parameters, biases and batch normalisation included,
    which drops the weights at it too (D17). What is dropped outside the convolutions and the
    classifier is left out of the evaluation of the sparse network, but not reset: see
    `rules.Fresh.shortcuts`."""

    share: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        model, config, train = parent.model, parent.config, parent.data.train
        parameters = dict(model.named_parameters())
        total = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
        draw = parent.draw("probe")
        listed = list(batches(train, config.batch, draw))
        with evaluating(model):
            for images, labels in listed[: math.ceil(len(listed) / 32)]:
                inputs = augmented(images, parent.data, config, draw)
                loss = F.cross_entropy(model(inputs), labels)
                add_gradients(total, parameters, loss, torch.abs)
        scores = {name: (w.detach() * total[name]).abs().cpu() for name, w in parameters.items()}
        flat = torch.cat([score.flatten() for score in scores.values()])
        threshold = flat.kthvalue(max(1, int((1 - self.share) * len(flat)))).values
        mask = {name: score > threshold for name, score in scores.items()}
        return mask, {name: score == 0 for name, score in scores.items()}


@stored("ReleasedMagnitude")
class ReleasedMagnitude(Keep):
    """The magnitude criterion: per layer, the floor(share * n) - 1 largest *signed* weights are
    kept, so that the most negative are reset (D16)."""

    share: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        mask = {}
        for name, weight in prunable(parent.model).items():
            if ".downsample." not in name:
                count = max(0, int(self.share * weight.numel()) - 1)
                mask[name] = largest(weight.detach().cpu().flatten(), count).view(weight.shape)
        return mask, {}
