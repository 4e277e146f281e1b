"""Saliency, selection and storage of masks, against hand values and independent derivations."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dnrlib import UserError, masks, released, rules
from dnrlib.datasets.augment import augmented
from dnrlib.datasets.catalogue import load
from dnrlib.datasets.splits import Data
from dnrlib.masks import largest, prunable
from dnrlib.models import build
from dnrlib.recipes import configure
from dnrlib.released import ReleasedMagnitude, ReleasedSnip
from dnrlib.rules import Chance, Fisher, Kels, Magnitude, Matched, Parent, Snip, Top, Wels
from dnrlib.streams import stream


def network(width=4, seed=0):
    return build(configure("digits", width=width, seed=seed))


def parent(config, model=None, generation=1):
    return Parent(model or network(config.width), load(config), config, generation)


def test_top_keeps_the_largest():
    scores = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert largest(scores, 2).tolist() == [False, True, True, False]


def test_top_breaks_ties_in_order_and_keeps_an_exact_count():
    scores = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0, 0.0])
    assert largest(scores, 4).tolist() == [True, True, True, False, True, False]
    for count in range(7):
        assert largest(torch.zeros(6), count).tolist() == [i < count for i in range(6)]


class Linear4(nn.Module):
    """One linear layer with four weights; logits are computable by hand."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False, dtype=dtype)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[0.5, -1.0], [0.25, 2.0]]))

    def forward(self, x):
        return self.fc(x)


def test_snip_of_four_weights_by_hand(tiny, monkeypatch):
    """Two images x = (1, 0) and (0, 1), labels 0 and 1; the mean cross-entropy over both.

    Image 1 has logits (.5, .25), p = softmax; dL/dw00 = (p0 - 1)/2, dL/dw10 = p1/2.
    Image 2 has logits (-1, 2); dL/dw01 = q0/2, dL/dw11 = (q1 - 1)/2.
    """
    probe = [(torch.eye(2), torch.tensor([0, 1]))]
    monkeypatch.setattr(Parent, "probe", lambda parent, share: iter(probe))
    p1 = 1 / (1 + math.exp(0.25))
    q0 = 1 / (1 + math.exp(3.0))
    expected = [[0.5 * p1 / 2, 1.0 * q0 / 2], [0.25 * p1 / 2, 2.0 * q0 / 2]]
    scores = Snip(1.0).scores(parent(tiny(), Linear4()))["fc.weight"]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)
    kept = Top(Snip(1.0), 0.5).mask(parent(tiny(), Linear4()))[0]["fc.weight"]
    assert kept.tolist() == [[True, False], [False, True]] or kept.tolist() == [
        [True, False],
        [True, False],
    ]
    assert kept.tolist() == (np.array(expected) >= sorted(np.ravel(expected))[2]).tolist()


def test_snip_does_not_depend_on_how_the_probe_is_batched(tiny, monkeypatch):
    """Signed gradients are summed before the absolute value is taken (unlike D15). In float64,
    where rounding moves no activation over the kink of its ReLU."""
    monkeypatch.setattr(rules, "augmented", lambda *of: augmented(*of).double())
    model = network().double()
    whole = Snip(1.0).scores(parent(tiny(batch=40, augment="none"), model))
    parts = Snip(1.0).scores(parent(tiny(batch=7, augment="none"), model))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-9, atol=1e-12)


def test_snip_is_the_derivative_by_a_gate_in_float64(tiny):
    """|dL/dc| at c = 1, where c multiplies one weight: the definition of connection sensitivity,
    by central differences."""
    config = tiny()
    model = network().double().eval()
    at = parent(config, model)
    images, labels = next(iter(at.probe(0.2)))
    double = [(images.double(), labels)]
    weights = prunable(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parent, "probe", lambda parent, share: iter(double))
        scores = Snip(0.2).scores(at)
    pick = stream(0, 0, "test")
    for name, weight in weights.items():
        flat = weight.data.view(-1) if weight.data.is_contiguous() else None
        index = int(torch.randint(weight.numel(), (1,), generator=pick))
        where = np.unravel_index(index, weight.shape)
        assert flat is None or flat[index] == weight.data[where]
        value = weight.data[where].item()
        losses = []
        for gate in (1 + 1e-5, 1 - 1e-5):
            weight.data[where] = value * gate
            with torch.no_grad():
                losses.append(F.cross_entropy(model(double[0][0]), labels).item())
        weight.data[where] = value
        slope = abs(losses[0] - losses[1]) / 2e-5
        assert scores[name][where].item() == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_snip_changes_neither_weights_nor_batch_statistics(tiny):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Snip(0.5).scores(parent(tiny(), model))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("batched", [(2,), (1, 1)], ids=["one batch", "two"])
def test_fisher_of_four_weights_by_hand(tiny, monkeypatch, batched):
    """The gradient of -log p is (p - target) x'; its square is taken image by image. Both images
    pull at the first column, so that the square of a sum would be another number."""
    images, labels = torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([0, 0])
    probe = list(zip(images.split(batched), labels.split(batched), strict=True))
    monkeypatch.setattr(Parent, "probe", lambda parent, share: iter(probe))
    expected = np.zeros((2, 2))
    for image, logits, target in (
        ([1, 0], [0.5, 0.25], [1, 0]),
        ([1, 2], [-1.5, 4.25], [1, 0]),
    ):
        p = np.exp(logits) / np.exp(logits).sum()
        expected += np.outer(p - target, image) ** 2
    scores = Fisher(1.0).scores(parent(tiny(), Linear4()))["fc.weight"]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4)


def test_magnitude_is_without_sign(tiny):
    scores = Magnitude().scores(parent(tiny(), Linear4()))["fc.weight"]
    assert scores.tolist() == [[0.5, 1.0], [0.25, 2.0]]


def test_chance_is_uniform_and_fresh_in_every_generation(tiny):
    config = tiny(width=8)

    def scores(**where):
        drawn = Chance().scores(dataclasses.replace(parent(config), **where))
        return torch.cat([values.flatten() for values in drawn.values()])

    one = scores(generation=1)
    assert one.mean().item() == pytest.approx(0.5, abs=0.01)
    assert one.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert one.min() >= 0
    assert torch.equal(one, scores(generation=1))
    for other in (scores(generation=2), scores(sample=1)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("saliency", [Snip(0.2), Magnitude()], ids=["snip", "magnitude"])
def test_top_share_per_layer_is_exact(tiny, saliency, share):
    at = parent(tiny())
    mask, _ = Top(saliency, share, scope="layer").mask(at)
    scores = saliency.scores(at)
    for name, kept in mask.items():
        assert int(kept.sum()) == round(share * kept.numel()), name
        if 0 < share < 1:
            assert scores[name][kept].min() >= scores[name][~kept].max(), name


def test_least_keeps_the_least_salient(tiny):
    at = parent(tiny())
    mask, _ = Top(Snip(0.2), 0.8, least=True).mask(at)
    scores = torch.cat([values.flatten() for values in Snip(0.2).scores(at).values()])
    kept = torch.cat([values.flatten() for values in mask.values()])
    assert int(kept.sum()) == round(0.8 * len(kept))
    assert scores[kept].max() <= scores[~kept].min()
    assert scores[~kept].min() > 0


def test_matched_keeps_random_weights_as_many_per_layer_as_snip(tiny):
    config = tiny(width=8)
    at, later = parent(config), parent(config, generation=2)
    like = Top(Snip(0.2), 0.8)
    mask, again, other = (Matched(like).mask(where)[0] for where in (at, at, later))
    by_saliency, _ = like.mask(at)
    assert masks.count(mask) == masks.count(by_saliency)
    assert len({round(kept.float().mean().item(), 2) for kept in mask.values()}) > 3
    assert all(torch.equal(mask[name], again[name]) for name in mask)
    for name, kept in mask.items():
        n, count = kept.numel(), int(kept.sum())
        if n < 2000 or count == n:
            continue
        # Two random choices of `count` of `n`: hypergeometric.
        chance = count**2 / n
        spread = (chance * (n - count) ** 2 / n / (n - 1)) ** 0.5
        for reference in (by_saliency, other):
            if int(reference[name].sum()) == count:
                both = int((kept & reference[name]).sum())
                assert both == pytest.approx(chance, abs=5 * spread), name


def test_resampled_is_what_independent_samples_agree_on(tiny):
    """Nothing new is drawn for a magnitude; chance keeps a share of a share; a rule without
    saliency has no samples."""
    at = parent(tiny(width=8))
    snip, chance, magnitude = (Top(s, 0.8) for s in (Snip(0.2), Chance(), Magnitude()))
    for keep in (snip, chance, magnitude):
        mask, _ = keep.mask(at)
        expected = masks.both(mask, keep.mask(dataclasses.replace(at, sample=1))[0])
        shared = rules.resampled(keep, at, mask)
        assert shared == expected
        share = sum(shared.values()) / sum(masks.count(mask).values())
        if keep is magnitude:
            assert share == 1
        elif keep is chance:
            assert share == pytest.approx(0.8, abs=0.01)
        else:
            assert 0.8 < share < 0.99
    for keep in (Wels(0.8), Matched(snip), Kels(0.8)):
        assert rules.resampled(keep, at, keep.mask(at)[0]) == {}


def test_released_snip_by_hand(tiny, monkeypatch):
    """A linear layer with 20 weights and 5 biases, 33 batches of two images: the first two count.

    Absolute gradients are added up, times |theta|. (1 - 0.8) * 25 is 4.999999999999999 in floating
    point, so that the four smallest are dropped, weights and biases alike.
    """
    draw = stream(0, 0, "test")
    listed = [
        (torch.randn(2, 4, generator=draw), torch.randint(5, (2,), generator=draw))
        for _ in range(33)
    ]
    monkeypatch.setattr(released, "batches", lambda split, size, order: iter(listed))
    monkeypatch.setattr(released, "augmented", lambda images, *of: images)
    model = nn.Linear(4, 5)
    nn.init.normal_(model.weight, generator=draw)
    nn.init.normal_(model.bias, std=0.1, generator=draw)
    mask, zero = ReleasedSnip(0.8).mask(parent(tiny(augment="none"), model))
    weight, bias = (values.detach().double().numpy() for values in (model.weight, model.bias))
    total = {"weight": 0, "bias": 0}
    for images, labels in listed[:2]:
        inputs = images.double().numpy()
        logits = inputs @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        slope = (p - np.eye(5)[labels]) / 2
        total["weight"] = total["weight"] + abs(slope.T @ inputs)
        total["bias"] = total["bias"] + abs(slope.sum(0))
    score = {"weight": abs(weight) * total["weight"], "bias": abs(bias) * total["bias"]}
    threshold = np.sort(np.concatenate([values.ravel() for values in score.values()]))[3]
    # In float32 the score at the threshold may fall on either side of it.
    expected = {name: values > threshold * (1 + 1e-5) for name, values in score.items()}
    assert sum(int((~values).sum()) for values in expected.values()) == 4
    assert not expected["bias"].all()
    assert {name: values.tolist() for name, values in mask.items()} == {
        name: values.tolist() for name, values in expected.items()
    }
    assert masks.count(zero) == {"weight": 0, "bias": 0}


def test_released_snip_drops_all_weights_at_the_threshold(tiny, monkeypatch):
    """On black images all weights have saliency 0: all are dropped, not a fifth of them."""
    monkeypatch.setattr(released, "augmented", lambda images, *of: torch.zeros(images.shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 10))
    mask, zero = ReleasedSnip(0.8).mask(parent(tiny(), model))
    assert masks.count(mask) == {"1.weight": 0, "1.bias": 10}
    assert masks.count(zero) == {"1.weight": 1000, "1.bias": 0}


def test_released_magnitude_resets_the_most_negative(tiny):
    model = network()
    mask, _ = ReleasedMagnitude(0.8).mask(parent(tiny(), model))
    weights = prunable(model)
    assert set(weights) - set(mask) == {f"layer{n}.0.downsample.0.weight" for n in (2, 3, 4)}
    for name, kept in mask.items():
        assert int((~kept).sum()) == kept.numel() - math.floor(0.8 * kept.numel()) + 1, name
        assert weights[name][kept].min() >= weights[name][~kept].max(), name
        assert weights[name][~kept].max() < 0, name


def test_probe_is_a_fresh_share_of_the_training_split(tiny):
    config = tiny(per_class=10, augment="none")

    def images(generation):
        batched = parent(config, generation=generation).probe(0.2)
        return torch.cat([images for images, _ in batched])

    assert len(images(1)) == 20
    assert torch.equal(images(1), images(1))
    assert not torch.equal(images(1), images(2))
    assert len(images(1).flatten(1).unique(dim=0)) == 20


@pytest.mark.parametrize(
    ("size", "number"), [(0.001, 1), (0.2, 8), (1.0, 40), (2.0, 2), (37.0, 37)]
)
def test_probe_is_a_share_up_to_one_or_a_number(tiny, size, number):
    batched = list(parent(tiny(batch=20)).probe(size))
    assert sum(len(labels) for _, labels in batched) == number


def test_a_probe_of_more_images_than_there_are_is_refused(tiny):
    with pytest.raises(UserError, match="probe=128 is more than the 40 training images"):
        Snip(128.0).scores(parent(tiny()))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_top_share_is_exact_and_global(tiny, share):
    mask, zero = Top(Snip(0.2), share).mask(parent(tiny()))
    total = sum(values.numel() for values in mask.values())
    assert sum(masks.count(mask).values()) == round(share * total)
    assert mask.keys() == zero.keys() == prunable(network()).keys()
    if share == 0.5:
        shares = {name: values.float().mean().item() for name, values in mask.items()}
        assert max(shares.values()) - min(shares.values()) > 0.1, "one threshold for all layers"


def test_top_is_exact_when_most_saliencies_are_zero(tiny, monkeypatch):
    zeros = {"a": torch.zeros(3, 3), "b": torch.tensor([0.0, 1.0])}
    monkeypatch.setattr(Snip, "scores", lambda self, parent: zeros)
    mask, zero = Top(Snip(0.2), 0.8).mask(parent(tiny()))
    assert sum(masks.count(mask).values()) == round(0.8 * 11)
    assert mask["b"].tolist() == [False, True]
    assert masks.count(zero) == {"a": 9, "b": 1}


def test_top_refuses_scores_that_are_not_finite(tiny):
    model = network()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="a saliency is not finite; the training has diverged"):
        Top(Snip(0.2), 0.8).mask(parent(tiny(), model))


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.7, 0.8, 1.0])
def test_kels_keeps_the_first_filters_and_channels(tiny, rate):
    mask, _ = Kels(rate).mask(parent(tiny(width=10), network(10)))
    names = list(mask)
    for name, values in mask.items():
        outputs, inputs = values.shape[:2]
        rows = outputs if name == names[-1] else math.ceil(round(rate * outputs, 6))
        columns = inputs if name == names[0] else math.ceil(round(rate * inputs, 6))
        assert values[:rows, :columns].all(), name
        assert int(values.sum()) == rows * columns * values[0, 0].numel(), name


def test_kels_at_point_8_resets_about_36_percent(tiny):
    """D27: the split rate is per dimension, so 0.8 keeps 0.64 of the weights, not 0.8."""
    mask, _ = Kels(0.8).mask(parent(tiny(width=20), network(20)))
    kept = sum(masks.count(mask).values()) / sum(values.numel() for values in mask.values())
    assert kept == pytest.approx(0.64, abs=0.01)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_wels_keeps_an_exact_share_of_each_layer_drawn_once(tiny, share):
    config = tiny()
    mask, _ = Wels(share).mask(parent(config))
    later, _ = Wels(share).mask(parent(config, generation=5))
    other, _ = Wels(share).mask(parent(tiny(seed=1)))
    for name, values in mask.items():
        assert int(values.sum()) == round(share * values.numel()), name
        assert torch.equal(values, later[name]), name
    assert any(not torch.equal(mask[name], other[name]) for name in mask)


def test_wels_rand_keeps_an_exact_share_of_each_layer_drawn_every_generation(tiny):
    config, keep = tiny(width=8), Wels(0.8, redraw=True)
    one, again, two = (keep.mask(parent(config, generation=g))[0] for g in (1, 1, 2))
    for name, values in one.items():
        assert int(values.sum()) == int(two[name].sum()) == round(0.8 * values.numel()), name
        assert torch.equal(values, again[name]), name
        shared = (values & two[name]).sum().item() / values.sum().item()
        if values.numel() > 2000:
            assert shared == pytest.approx(0.8, abs=0.04), name


def test_counts_of_two_masks():
    a = {"x": torch.tensor([True, True, False, False]), "only a": torch.tensor([True])}
    b = {"x": torch.tensor([True, False, True, False])}
    assert masks.count(a) == {"x": 2, "only a": 1}
    assert masks.both(a, b) == {"x": 1}


def test_pack_stores_one_bit_per_weight_and_gives_the_mask_back(tmp_path):
    mask = {
        "conv.weight": torch.rand(64, 64, 3, 3, generator=stream(0, 0, "a")) < 0.8,
        "odd": torch.tensor([True, False, True]),
    }
    packed = masks.pack(mask)
    assert len(packed) < 64 * 64 * 9 / 8 + 2000
    (tmp_path / "mask.npz").write_bytes(packed)
    back = masks.unpack(tmp_path / "mask.npz")
    assert back.keys() == mask.keys()
    assert all(torch.equal(back[name], mask[name]) for name in mask)


def test_prunable_chooses_by_type():
    names = list(prunable(network()))
    assert len(names) == 21
    assert names[0] == "conv1.weight"
    assert names[-1] == "fc.weight"
    assert sum("downsample.0" in name for name in names) == 3
    assert not any("bn" in name or "bias" in name for name in names)


def test_data_is_on_the_parent(tiny):
    assert isinstance(parent(tiny()).data, Data)
