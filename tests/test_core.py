"""The masker and the reinitialiser on networks that are not ours."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import dnrlib
from dnrlib import UserError
from dnrlib.masks import count, prunable
from dnrlib.reinit import fresh, zeros
from dnrlib.streams import stream

NETWORKS = {
    "resnet18": 32,
    "vgg11_bn": 32,
    "densenet121": 32,
    "googlenet": 32,
    "mobilenet_v3_small": 32,
    "convnext_tiny": 32,
    "vit_b_16": 32,
}
"""Networks of torchvision and the side of the images that they are given."""


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """A network in training mode with random weights, batches for it, and its SNIP scores."""
    name, side = request.param, NETWORKS[request.param]
    settings = {"image_size": side} if name == "vit_b_16" else {}
    if name == "googlenet":
        settings = {"init_weights": False, "aux_logits": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, num_classes=5, **settings)
    # A hundred million weights in one layer, or in twelve alike, would only take time.
    if name == "vgg11_bn":
        model.avgpool, model.classifier[0] = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 4096)
        model.classifier[3] = nn.Linear(4096, 64)
        model.classifier[6] = nn.Linear(64, 5)
    if name == "vit_b_16":
        model.encoder.layers = model.encoder.layers[:2]
    draw = stream(0, 0, "test")
    batches = [
        (torch.randn(2, 3, side, side, generator=draw), torch.tensor([label, 4]))
        for label in (0, 1)
    ]
    before = copy.deepcopy(model.state_dict())
    scores = dnrlib.snip(model, batches)
    same = all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert same, "weights and buffers are as they were"
    return model, batches, scores


def test_scores_cover_all_convolutions_and_linear_layers(case):
    model, _, scores = case
    expected = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if type(module) is nn.Conv2d or isinstance(module, nn.Linear)
    }
    attention = {name for name in scores if name.endswith("in_proj_weight")}
    assert scores.keys() - attention == expected
    assert len(attention) == sum(isinstance(m, nn.MultiheadAttention) for m in model.modules())
    assert all((score >= 0).all() for score in scores.values())
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_share_is_exact_and_kept_weights_stay_bit_for_bit(case, scope):
    model, _, scores = case
    model = copy.deepcopy(model)
    mask = dnrlib.top(scores, 0.8, scope)
    sizes = {name: score.numel() for name, score in scores.items()}
    if scope == "layer":
        assert count(mask) == {name: round(0.8 * size) for name, size in sizes.items()}
    assert abs(sum(count(mask).values()) - 0.8 * sum(sizes.values())) <= len(sizes)
    if scope == "global":
        assert sum(count(mask).values()) == round(0.8 * sum(sizes.values()))
    before = copy.deepcopy(model.state_dict())
    dnrlib.reinitialise(model, mask, generator=stream(0, 1, "fill"))
    drawn = []
    for name, value in model.state_dict().items():
        kept = mask.get(name, torch.ones(value.shape, dtype=torch.bool))
        assert torch.equal(value[kept], before[name][kept]), name
        # Of a hundred million draws a few equal what was there before.
        assert (value[~kept] == before[name][~kept]).sum() <= 1e-5 * value.numel(), name
        drawn.append(value[~kept] * math.sqrt(before[name][0].numel()) if kept.dim() > 1 else None)
    drawn = torch.cat([values for values in drawn if values is not None])
    assert drawn.abs().max() <= 1 + 1e-6
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.02)


class Pair(nn.Module):
    """A network that returns more than its outputs."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 3).double()

    def forward(self, images):
        return self.one(images).mean(1), images


class Small(nn.Module):
    """In float64, with all kinds of layers, a weight that two layers share, and one unused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 2)
        self.up = nn.ConvTranspose1d(3, 3, 2)
        self.norm = nn.BatchNorm1d(3)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.unused = nn.Linear(3, 3)
        self.double()
        draw = stream(0, 0, "test")
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))

    def forward(self, inputs):
        hidden = self.norm(torch.tanh(self.up(self.conv(inputs)))).transpose(1, 2)
        hidden, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return self.two(torch.tanh(self.one(hidden)).mean(1))


def examples():
    draw = stream(1, 0, "test")
    inputs = torch.randn(5, 2, 4, generator=draw, dtype=torch.float64)
    return [(inputs[:3], torch.tensor([0, 1, 2])), (inputs[3:], torch.tensor([1, 0]))]


def test_snip_is_the_derivative_by_a_gate():
    """|dL/dc| at c = 1, where c multiplies one weight, by central differences; a shared weight
    has one gate."""
    model, batches = Small(), examples()
    scores = dnrlib.snip(model, batches)
    assert scores.keys() == {
        *("conv.weight", "up.weight", "attention.in_proj_weight", "attention.out_proj.weight"),
        *("one.weight", "unused.weight"),
    }
    assert (scores.pop("unused.weight") == 0).all()
    model.eval()

    def loss():
        with torch.no_grad():
            lost = [F.cross_entropy(model(x), y, reduction="sum") for x, y in batches]
        return float(sum(lost) / 5)

    weights = prunable(model)
    for name, score in scores.items():
        flat = weights[name].data.view(-1)
        for index in range(len(flat)):
            value, losses = flat[index].item(), []
            for gate in (1 + 1e-5, 1 - 1e-5):
                flat[index] = value * gate
                losses.append(loss())
            flat[index] = value
            slope = abs(losses[0] - losses[1]) / 2e-5
            assert score.view(-1)[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_fisher_is_a_sum_of_squares_over_images_and_a_loss_can_be_given():
    model, batches = Small(), examples()
    model.eval()
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for inputs, labels in batches:
        for image, label in zip(inputs, labels, strict=True):
            model.zero_grad()
            F.mse_loss(model(image[None])[0], F.one_hot(label, 3).double()).backward()
            expected += model.one.weight.grad**2
    model.zero_grad(set_to_none=True)

    def loss(outputs, labels):
        return F.mse_loss(outputs, F.one_hot(labels, 3).double(), reduction="sum") / 3

    found = dnrlib.fisher(model, batches, loss=loss)["one.weight"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("score", [dnrlib.snip, dnrlib.fisher, dnrlib.magnitude, dnrlib.chance])
def test_what_is_frozen_or_excluded_is_neither_scored_nor_reset(score):
    model = Small()
    model.conv.requires_grad_(False)
    model.norm.eval()
    exclude = ["attention", model.two]
    scores = score(model, examples(), exclude=exclude)
    assert scores.keys() == {"up.weight", "one.weight", "unused.weight"}
    assert model.training
    assert not model.norm.training
    assert not model.conv.weight.requires_grad
    before = copy.deepcopy(model.state_dict())
    dnrlib.reinitialise(model, dnrlib.top(scores, 0.0), generator=stream(0, 0, "fill"))
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"up.weight", "one.weight", "two.weight", "unused.weight"}


def test_regenerate_masks_and_resets_between_trainings():
    model, batches, seen = Small(), examples(), []
    after = scores = None
    for generation in dnrlib.regenerate(model, batches, 3, 0.5, generator=stream(0, 0, "fill")):
        state = copy.deepcopy(model.state_dict())
        if generation > 1:
            mask = dnrlib.top(scores, 0.5)
            for name, kept in mask.items():
                assert torch.equal(state[name] == after[name], kept), name
            assert sum(count(mask).values()) == round(0.5 * sum(k.numel() for k in mask.values()))
        seen.append(generation)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1
        after, scores = copy.deepcopy(model.state_dict()), dnrlib.snip(model, batches)
    assert seen == [1, 2, 3]
    assert all(torch.equal(v, after[n]) for n, v in model.state_dict().items()), "no last reset"


def test_regenerate_refuses_what_it_cannot_use_before_the_first_training():
    for wrong, said in (
        ({"keep": 1.5}, "between 0 and 1"),
        ({"scope": "block"}, "choose one of: global, layer"),
    ):
        with pytest.raises(UserError, match=said):
            next(dnrlib.regenerate(Small(), examples(), 3, **wrong))


def test_other_fills_take_the_place_of_fresh_values():
    model = Small()
    mask = {"conv.weight": torch.zeros(3, 2, 2, dtype=torch.bool)}
    dnrlib.reinitialise(model, mask, zeros)
    assert (model.conv.weight == 0).all()
    dnrlib.reinitialise(model, mask, lambda model, draw: {"conv.weight": torch.full((3, 2, 2), 7)})
    assert (model.conv.weight == 7).all()
    assert fresh(model, stream(0, 0, "fill")).keys() == prunable(model).keys()


def test_one_module_may_be_excluded_alone():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    for exclude in ("10", model[10]):
        assert prunable(model).keys() - prunable(model, exclude).keys() == {"10.weight"}


def test_half_precision_has_an_exact_mask_too():
    model = nn.Linear(10, 10, bias=False).bfloat16()
    assert count(dnrlib.top(dnrlib.magnitude(model), 0.37)) == {"weight": 37}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda model: dnrlib.snip(nn.BatchNorm1d(3), examples()), "no convolution or linear"),
        (lambda model: dnrlib.snip(model.requires_grad_(False), examples()), "frozen"),
        (lambda model: dnrlib.snip(model, []), "no images in the batches"),
        (lambda model: dnrlib.fisher(model, iter(())), "no images in the batches"),
        (lambda model: dnrlib.snip(model, [{"x": 1, "y": 2}]), "not a dict; of dicts make pairs"),
        (
            lambda model: dnrlib.fisher(model, [torch.ones(3)]),
            r"a pair \(inputs, labels\), not a Te",
        ),
        (lambda model: dnrlib.snip(Pair(), examples()), "the network returns a tuple: pass loss="),
        (lambda model: dnrlib.snip(model, examples(), exclude=["head"]), "'head' is no module"),
        (lambda model: dnrlib.snip(model, [], exclude="head"), "'head' is no module"),
        (lambda model: dnrlib.snip(model, [], exclude=nn.Linear(2, 2)), "is no module"),
        (lambda model: dnrlib.kels(model, 1.5), "split_rate=1.5 must lie between 0 and 1"),
        (lambda model: dnrlib.wels(model, -0.5), "share=-0.5 must lie between 0 and 1"),
        (lambda model: next(dnrlib.regenerate(model, iter([]), 2)), "can be read only once"),
        (lambda model: dnrlib.top(dnrlib.magnitude(model), 1.1), "between 0 and 1"),
        (lambda model: dnrlib.top(dnrlib.magnitude(model), -0.1), "between 0 and 1"),
        (lambda model: dnrlib.top(dnrlib.magnitude(model), 0.5, "block"), "scope='block'"),
        (lambda model: dnrlib.top({"a": torch.tensor([math.nan])}, 0.5), "not finite"),
        (lambda model: dnrlib.top({"a": torch.tensor([math.inf, 1])}, 0.5), "not finite"),
        (lambda model: dnrlib.top({"a": torch.tensor([-math.inf, 1])}, 0.5), "not finite"),
        (lambda model: dnrlib.reinitialise(model, {"fc.weight": torch.ones(2) > 0}), "not fit"),
        (lambda model: dnrlib.reinitialise(model, {"one.weight": torch.ones(2) > 0}), "not fit"),
        (lambda model: dnrlib.reinitialise(model, {"one.weight": torch.ones(3, 3)}), "not fit"),
        (lambda model: next(dnrlib.regenerate(model, examples(), 2, keep=80)), "between 0 and 1"),
        (lambda model: next(dnrlib.regenerate(nn.ReLU(), examples(), 2)), "no convolution"),
        (lambda model: next(dnrlib.regenerate(model, examples(), 0)), "generations=0 must be"),
    ],
)
def test_what_cannot_be_used_is_refused(wrong, message):
    model = Small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        wrong(model)
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'snap'"):
        dnrlib.snap  # noqa: B018
    assert {"snip", "regenerate", "UserError"} <= set(dir(dnrlib))
