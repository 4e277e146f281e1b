"""How well embeddings find images of the same class, which the network may never have seen."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import Triplet, distances
from ..masks import Batches
from ..train import outputs

FARTHEST = 2.0
"""The largest distance of two embeddings of length 1."""


def embedded(model: nn.Module, batches: Batches) -> tuple[Tensor, Tensor]:
    """The embeddings (float32, n x d, of length 1) and the labels of all images, in evaluation
    mode, in which the network is left."""
    parts = list(outputs(model, batches))
    return F.normalize(torch.cat([part for part, _ in parts])), torch.cat([of for _, of in parts])


def nearest(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each image, all of the others being searched: the distance to the nearest one of its
    class, the distance to the nearest one of another class, and how many of other classes are at
    most as far as the nearest one of its own (n each). An image that is alone in its class has
    all others before it."""
    found = []
    for part in torch.arange(len(labels), device=labels.device).split(500):
        distance, same = distances(embeddings[part], embeddings), labels[part, None] == labels
        distance[torch.arange(len(part)), part] = FARTHEST
        own = distance.masked_fill(~same, FARTHEST).amin(1)
        other = distance.masked_fill(same, FARTHEST).amin(1)
        found.append((own, other, (~same & (distance <= own[:, None])).sum(1)))
    own, other, before = (torch.cat(each) for each in zip(*found, strict=True))
    return own, other, before


def recall(before: Tensor, k: int) -> float:
    """Recall@k in %: the share of images with one of their class among the k nearest, from the
    last result of `nearest`."""
    return 100 * (before < k).float().mean().item()


def mutual_information(embeddings: Tensor, labels: Tensor) -> float:
    """Normalised mutual information I / sqrt(H H) in %, of the classes and of as many clusters
    (k-means, the best of ten starts)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    means = KMeans(len(labels.unique()), n_init=10, random_state=0)
    clusters = means.fit_predict(embeddings.cpu().numpy())
    classes = labels.cpu().numpy()
    return 100 * normalized_mutual_info_score(classes, clusters, average_method="geometric")


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Recall@1 in %, and the mean triplet loss of each image with the nearest one of its class and
    the nearest one of another class; in evaluation mode, in which the network is left."""
    own, other, before = nearest(*embedded(model, batches))
    return recall(before, 1), (own - other + Triplet.margin).clamp(min=0).mean().item()
