"""Slim networks against the masked networks that they are."""

import pytest
import torch
from torch import nn

from dnrlib import UserError
from dnrlib.masks import kels, prunable, wels
from dnrlib.models import MODELS, build
from dnrlib.recipes import configure
from dnrlib.rules import Kels, Parent
from dnrlib.slim import slim
from dnrlib.streams import stream


def aged(name, dtype=torch.float64):
    """A network in which batch normalisation does something, and the images that it sees."""
    config = configure("digits-colour", model=name, width=16)
    model, draw = build(config).to(dtype), stream(0, 0, "test")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5, generator=draw)
    return config, model, torch.randn(4, 3, 32, 32, dtype=dtype, generator=draw)


def masked(model, mask):
    with torch.no_grad():
        for name, weight in prunable(model).items():
            weight *= mask[name]
    return model


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("split_rate", [0.8, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_the_slim_network_is_the_masked_one(name, split_rate, dtype, bound):
    """In both modes; `bound` is relative to the largest output."""
    config, model, images = aged(name, dtype)
    mask, _ = Kels(split_rate).mask(Parent(model, None, config, 1))
    model.eval()
    small = slim(model, mask)
    before, kept = (sum(w.numel() for w in prunable(m).values()) for m in (model, small))
    assert kept == sum(int(values.sum()) for values in mask.values())
    assert kept < before * split_rate
    masked(model, mask)
    for training in (False, True):
        with torch.inference_mode():
            expected, found = (m.train(training)(images) for m in (model, small))
        assert found.dtype == dtype
        assert (found - expected).abs().max() <= bound * expected.abs().max()


def test_behind_a_concatenation_the_first_channels_of_each_part_are_kept():
    """GoogLeNet's second block gets 64, 128, 32 and 32 channels, times 16 / 64; half are kept."""
    config, model, _ = aged("googlenet")
    mask, _ = Kels(0.5).mask(Parent(model, None, config, 1))
    columns = mask["inception3b.branch1.conv.weight"][0, :, 0, 0].nonzero()[:, 0].tolist()
    assert columns == [*range(8), *range(16, 32), *range(48, 52), *range(56, 60)]
    dense, model, _ = aged("densenet169")
    mask, _ = Kels(0.8).mask(Parent(model, None, dense, 1))
    second = mask["features.denseblock1.denselayer2.conv1.weight"][0, :, 0, 0]
    # 16 channels that come in, of which 13 are kept, and 8 that the first layer adds, of which 7.
    assert second.nonzero()[:, 0].tolist() == [*range(13), *range(16, 23)]


def test_where_nothing_is_joined_the_mask_is_that_of_any_network():
    for name in ("resnet18", "resnet50"):
        config, model, _ = aged(name)
        mask, _ = Kels(0.8).mask(Parent(model, None, config, 1))
        plain = kels(model, 0.8)
        assert all(torch.equal(mask[key], plain[key]) for key in plain)


def test_other_masks_and_networks_are_refused():
    _, model, _ = aged("resnet18")
    with pytest.raises(UserError, match="does not keep whole filters and channels"):
        slim(model, wels(model, 0.5))
    mask = kels(model, 0.8)
    mask["layer1.0.conv2.weight"] = torch.ones_like(mask["layer1.0.conv2.weight"])
    with pytest.raises(UserError, match="adds layers of which different channels are kept"):
        slim(model, mask)

    class Choosing(nn.Module):
        def forward(self, inputs):
            return inputs if inputs.sum() > 0 else -inputs

    with pytest.raises(UserError, match="the network cannot be traced"):
        slim(Choosing(), {})
    with pytest.raises(UserError, match="1 is a GroupNorm, which cannot be made slim"):
        slim(nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4)), {})
    with pytest.raises(UserError, match=r"conv1\.weight, which is no weight of the network"):
        slim(nn.Sequential(nn.Conv2d(2, 4, 1)), kels(model, 0.8))


@pytest.mark.parametrize("norm", [{"affine": False}, {"track_running_stats": False}])
def test_how_layers_are_made_is_kept(norm):
    layers = [nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4, **norm)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(4, 3, 1)).double().eval()
    images = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=stream(0, 0, "test"))
    everything = {name: torch.ones_like(w) > 0 for name, w in prunable(model).items()}
    assert torch.allclose(slim(model, everything)(images), model(images), atol=1e-12)
