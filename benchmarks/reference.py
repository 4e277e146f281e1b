"""A training loop in the manner of the lineage of KE and DNR, written for comparison.

What is typical of it: image files are decoded, resized and augmented with Pillow by the workers of
a `DataLoader`, which are started anew for every epoch and every evaluation; contiguous float32; the
loss and two accuracies are read back at every step; the optimiser loops over the tensors; masks are
float parameters beside the weights; saliencies are ranked by `kthvalue` over everything;
checkpoints hold the optimiser. `persistent` spares it what two settings can spare: its workers
persist, and only the loss is read, once per epoch.
"""

import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from dnrlib.config import Config
from dnrlib.datasets.splits import Dataset
from dnrlib.masks import prunable
from dnrlib.models import build
from dnrlib.train import learning_rate

WORKERS = 10
"""Processes of every loader, as in the released code."""


def _transforms(about: Dataset, config: Config) -> tuple:
    """For training and for evaluation."""
    last = [transforms.ToTensor(), transforms.Normalize(about.mean, about.std)]
    flip = transforms.RandomHorizontalFlip()
    if config.augment == "resized-crop":
        whole = transforms.Resize((about.size * 8 // 7,) * 2)
        train = [whole, transforms.RandomResizedCrop(about.size), flip]
        return transforms.Compose(train + last), transforms.Compose(
            [whole, transforms.CenterCrop(about.size), *last]
        )
    train = [transforms.RandomCrop(about.size, padding=4), flip]
    return transforms.Compose(train + last), transforms.Compose(last)


class Reference:
    """A network that `generation` trains again and again on the image files in `folder`."""

    def __init__(
        self, folder: Path, about: Dataset, config: Config, out: Path, persistent: bool
    ) -> None:
        self.config, self.out, self.persistent = config, out, persistent
        self.model = build(config).to(memory_format=torch.contiguous_format)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.mask = nn.Parameter(torch.ones_like(module.weight), requires_grad=False)
        augmented, plain = _transforms(about, config)
        train = ImageFolder(folder / "train", augmented)
        self.probe = round(config.probe * len(train))
        self.loaders = {
            "train": self._loader(train, shuffle=True),
            "probe": self._loader(train, RandomSampler(train, num_samples=self.probe)),
            "seen": self._loader(ImageFolder(folder / "train", plain)),
            "test": self._loader(ImageFolder(folder / "test", plain)),
        }

    def _loader(self, images: ImageFolder, sampler=None, shuffle: bool = False) -> DataLoader:
        return DataLoader(
            images,
            self.config.batch,
            shuffle=shuffle,
            sampler=sampler,
            num_workers=WORKERS,
            persistent_workers=self.persistent,
            multiprocessing_context="fork",  # Linux's own, also in a process that was spawned.
        )

    def generation(self) -> None:
        """One generation with everything that belongs to it."""
        model, config = self.model, self.config
        self.evaluate("test")
        optimiser = torch.optim.SGD(
            [weight for weight in model.parameters() if weight.requires_grad],
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            foreach=False,
            fused=False,
        )
        for epoch in range(config.epochs):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(epoch, config.epochs, config)
            model.train()
            total = torch.zeros(())
            for images, labels in self.loaders["train"]:
                output = model(images)
                loss = F.cross_entropy(output, labels, label_smoothing=config.smoothing)
                if self.persistent:
                    total += loss.detach()
                else:
                    self.read_back(output, labels, loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            assert math.isfinite(total.item())
        self.evaluate("test")
        self.evaluate("seen")
        state = {"state_dict": model.state_dict(), "optimizer": optimiser.state_dict()}
        torch.save(state, self.out / "checkpoint.pt")
        self.switch()

    def read_back(self, output: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """The loss and two accuracies, as numbers on the host."""
        best = output.topk(min(5, output.shape[1]), 1).indices
        right = best == labels[:, None]
        numbers = loss.item(), right[:, :1].sum().item(), right.sum().item()
        assert all(math.isfinite(number) for number in numbers)

    @torch.no_grad()
    def evaluate(self, name: str) -> None:
        self.model.eval()
        for images, labels in self.loaders[name]:
            output = self.model(images)
            self.read_back(output, labels, F.cross_entropy(output, labels))

    def switch(self) -> None:
        """SNIP saliency, one threshold, float masks, new values where they are 0, and files."""
        model = self.model.eval()
        weights = prunable(model)
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for images, labels in self.loaders["probe"]:
            loss = F.cross_entropy(model(images), labels)
            grads = torch.autograd.grad(loss, list(weights.values()))
            for name, grad in zip(weights, grads, strict=True):
                total[name] += grad.abs()
        scores = {name: (w.detach() * total[name]).abs() for name, w in weights.items()}
        flat = torch.cat([score.flatten() for score in scores.values()])
        threshold = flat.kthvalue(round((1 - self.config.keep) * len(flat))).values
        with torch.no_grad():
            for name, weight in weights.items():
                mask = model.get_submodule(name.removesuffix(".weight")).mask
                mask.copy_((scores[name] > threshold).float())
                sparse = weight * mask
                fresh = nn.init.kaiming_uniform_(torch.empty_like(weight), a=math.sqrt(5))
                weight.copy_(sparse + (1 - mask) * fresh)
        self.evaluate("test")
        torch.save(model.state_dict(), self.out / "mask.pt")

    def mask_bytes(self) -> dict[str, int]:
        """Bytes of a mask of this network: as the loop stores it, in a state dict of the network
        whose every layer has weights and a mask; and as float tensors alone."""
        masks = {n: p for n, p in self.model.state_dict().items() if n.endswith(".mask")}
        torch.save(masks, self.out / "masks.pt")
        return {
            "state": os.path.getsize(self.out / "mask.pt"),
            "float": os.path.getsize(self.out / "masks.pt"),
        }
