"""Networks, against torchvision's own."""

import copy
import dataclasses
import hashlib
import math
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision

from dnrlib import UserError, models
from dnrlib.datasets.augment import normalised
from dnrlib.datasets.catalogue import load
from dnrlib.datasets.digits import DATASETS
from dnrlib.masks import prunable
from dnrlib.models import LAYERS, MODELS, build, insert_fixed, network
from dnrlib.recipes import RECIPES, configure
from dnrlib.reinit import fresh
from dnrlib.streams import stream
from tests.test_train import smooth


@pytest.mark.parametrize("name", MODELS)
def test_at_width_64_the_network_is_torchvisions(name):
    """Layer by layer, with all settings that layers print."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=7, **MODELS[name].options)
        ours = network(name, classes=7, channels=3, width=64, stem="7x7")
    assert str(ours) == str(theirs)
    for mine, other in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert (mine[0], mine[1].shape) == (other[0], other[1].shape)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_the_width_and_the_stem_that_were_asked_for(name):
    """And the parts that it is said to have, in their order."""
    model = build(configure("digits-colour", model=name)).eval()
    about = MODELS[name]
    names = [part for part, _ in model.named_modules()]
    first = model.get_submodule(about.first)
    assert (first.in_channels, first.out_channels, first.kernel_size) == (3, 8, (3, 3))
    listed = [*about.blocks, about.head]
    assert listed == sorted(listed, key=names.index)
    assert {about.first, *about.pools, *about.later} <= set(names)
    weights = list(prunable(model))
    assert weights[0] == f"{about.first}.weight"
    assert weights[-1] == f"{about.head}.weight"
    seen = {}
    for part in about.blocks:
        model.get_submodule(part).register_forward_hook(
            lambda _, given, out, part=part: seen.update({part: out.shape[-1]})
        )
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert list(seen) == list(about.blocks)
    assert seen[about.blocks[0]] >= 16, "small images keep half of their size or more"


def test_a_width_that_does_not_fit_is_refused():
    assert network("resnet18", 2, 3, width=7, stem="3x3").fc.in_features == 56
    with pytest.raises(UserError, match="width=7 does not fit googlenet; use a multiple of 8"):
        network("googlenet", 2, 3, width=7, stem="3x3")


def test_initial_weights_of_googlenet_and_densenet():
    """As in KE's code: normal numbers cut off at two deviations; no bias of the classifier."""
    google = prunable(build(configure("digits-colour", model="googlenet", width=64)))
    for name, weight in google.items():
        assert weight.abs().max() <= 0.02, name
        if weight.numel() > 5000:
            assert weight.std().item() == pytest.approx(0.0088, rel=0.05), name
    dense = build(configure("digits-colour", model="densenet169"))
    assert (dense.classifier.bias == 0).all()
    assert (build(configure("digits-colour", model="vgg11_bn")).features[0].bias == 0).all()


def test_parameters_of_the_papers_network():
    """ResNet18 has 11,176,512 + 513 C parameters, of which 9,600 are batch normalisation's."""
    model = network("resnet18", classes=200, channels=3, width=64, stem="7x7")
    assert sum(p.numel() for p in model.parameters()) == 11_176_512 + 513 * 200
    weights = sum(w.numel() for w in prunable(model).values())
    assert weights == 10_994_880 + 172_032 + 512 * 200


def test_small_images_keep_their_size_to_the_last_stage():
    """10 -> 10, 5, 3, 2: no tap of a 3 x 3 kernel sees only padding."""
    model = build(configure("digits")).eval()
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, args, out: sizes.append(out.shape[-1]))
    model(torch.zeros(1, 1, 10, 10))
    assert sizes == [10, 5, 3, 2]


def test_initial_weights_are_kaiming_normal():
    model = build(configure("digits", width=64))
    for name, weight in prunable(model).items():
        expected = math.sqrt(2 / weight[0].numel())
        if weight.numel() > 5000:
            assert weight.std().item() == pytest.approx(expected, rel=0.05), name
        assert weight.abs().max() > 2.2 * expected, name
    bound = 1 / math.sqrt(512)
    assert bound / 2 < model.fc.bias.abs().max().item() <= bound
    for name, buffer in model.named_buffers():
        assert (buffer == (1 if "var" in name else 0)).all(), name
    assert (model.layer3[0].bn1.weight == 1).all()
    assert (model.layer3[0].bn1.bias == 0).all()


def test_initial_weights_follow_the_seed_alone():
    first, again = build(configure("digits")), build(configure("digits", method="ke", lr=0.3))
    other = build(configure("digits", seed=1))
    for name, weight in prunable(first).items():
        assert torch.equal(weight, prunable(again)[name])
        assert not torch.equal(weight, prunable(other)[name])


def test_fresh_values_are_kaiming_uniform_with_a_smaller_spread():
    """U(+-1/sqrt(fan-in)), as torch's own default; 0.41 times the initial deviation (D21)."""
    config = configure("digits", width=64)
    model = build(config)
    weights = prunable(model)
    drawn = fresh(model, stream(0, 2, "fill"))
    assert drawn.keys() == weights.keys()
    for name, value in drawn.items():
        bound = 1 / math.sqrt(weights[name][0].numel())
        assert value.abs().max() <= bound
        assert value.shape == weights[name].shape
        if value.numel() > 5000:
            assert value.abs().max() > 0.99 * bound
            ratio = (value.std() / weights[name].std()).item()
            assert ratio == pytest.approx(math.sqrt(1 / 6), rel=0.05), name


def test_the_18_layers_are_all_prunable_ones_but_shortcuts():
    names = prunable(build(configure("digits")))
    assert [f"{layer}.weight" for layer in LAYERS] == [n for n in names if "downsample" not in n]


@pytest.mark.parametrize(
    ("dataset", "settings", "fast"),
    [
        ("digits", {}, True),
        ("digits-32", {"width": 8}, True),
        ("digits", {"width": 7}, False),
        ("digits", {"threads": 2}, False),
        ("squares", {"width": 15}, False),
        ("squares", {"width": 16}, True),
    ],
)
def test_the_fast_layout_is_left_where_torch_would_crash(dataset, settings, fast, monkeypatch):
    squares = dataclasses.replace(DATASETS["digits"], size=64)
    monkeypatch.setitem(DATASETS, "squares", squares)
    monkeypatch.setitem(RECIPES, "squares", {})
    weight = build(configure(dataset, **settings)).layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is fast


@pytest.mark.parametrize(
    ("settings", "fast"), [({}, True), ({"width": 4}, False), ({"threads": 2}, False)]
)
def test_images_do_not_bring_the_fast_layout_back(settings, fast):
    """Decoded images are channels last; a layer takes over the layout of its input."""
    model = build(configure("digits-colour", **settings)).eval()
    seen = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model(images)
    assert len(seen) == 3
    for given in seen:
        assert given.is_contiguous(memory_format=torch.channels_last) is fast
        assert given.is_contiguous() is not fast


def test_gradients_in_the_fast_layout_are_those_in_double_precision():
    """Where oneDNN overruns a buffer (issue 6035) it has also given wrong gradients."""
    config = configure("digits")
    data = load(config)
    inputs = normalised(data.train.images[:50], data.dataset)
    model = smooth(build(config))
    exact = copy.deepcopy(model).double().to(memory_format=torch.contiguous_format)
    for net, images in ((model, inputs), (exact, inputs.double())):
        F.cross_entropy(net(images), data.train.labels[:50]).backward()
    for (name, weight), true in zip(model.named_parameters(), exact.parameters(), strict=True):
        error = (weight.grad.double() - true.grad).norm() / true.grad.norm()
        assert error < 1e-3, name


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """Writes random weights in the form of torchvision's ImageNet weights, and says so; those of a
    DenseNet by their old names, `denselayer1.norm.1.weight`, as published."""

    def there(name):
        theirs = getattr(torchvision.models, name)(**MODELS[name].options)
        state = {
            re.sub(r"(denselayer\d+\.)(norm|conv)(\d)", r"\1\2.\3", key): value
            for key, value in theirs.state_dict().items()
        }
        assert ("features.denseblock1.denselayer1.norm.1.weight" in state) == ("dense" in name)
        torch.save(state, tmp_path / "weights")
        digest = hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest()
        path = (tmp_path / "weights").rename(tmp_path / f"{name}-{digest[:8]}.pth")
        monkeypatch.setattr(models, "pretrained_file", lambda name: path)
        return theirs, path

    return there


PUBLISHED = {"start": "imagenet1k_v1", "width": 64, "stem": "7x7"}


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "googlenet", "densenet169"])
def test_a_network_can_start_from_torchvisions_weights(imagenet, name):
    """All but the last layer, which is what it is without them."""
    theirs, _ = imagenet(name)
    config = configure("digits-colour", model=name, **PUBLISHED)
    ours = build(config).state_dict()
    new = build(dataclasses.replace(config, start="random")).state_dict()
    for key, value in ours.items():
        head = key.startswith(f"{MODELS[name].head}.")
        assert torch.equal(value, (new if head else theirs.state_dict())[key]), key


def test_torchvisions_weights_are_looked_for_where_it_puts_them():
    assert models.pretrained_file("resnet18").name == "resnet18-f37072fd.pth"
    assert models.pretrained_file("resnet18").parent.name == "checkpoints"
    assert models.pretrained_file("vgg11_bn").name == "vgg11_bn-6002323d.pth"


def test_weights_that_are_missing_damaged_or_of_another_network_are_refused(
    imagenet, tmp_path, monkeypatch
):
    _, path = imagenet("resnet18")
    for other in ({"width": 32}, {"stem": "3x3"}):
        with pytest.raises(UserError, match="is for width=64, stem='7x7' and colour images"):
            build(configure("digits-colour", **(PUBLISHED | other)))
    with pytest.raises(UserError, match="is for width=64"):
        build(configure("digits", **PUBLISHED))
    with pytest.raises(
        UserError, match=r"is not of the network resnet34: no layer1\.2\.bn1\.bias is"
    ):
        build(configure("digits-colour", **PUBLISHED, model="resnet34"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"\.pth is damaged: .* delete it"):
        build(configure("digits-colour", **PUBLISHED))
    monkeypatch.setattr(models, "pretrained_file", lambda name: tmp_path / "no.pth")
    with pytest.raises(UserError, match=r"needs .*no\.pth; with a network connection, torchvision"):
        build(configure("digits-colour", **PUBLISHED))


def test_what_is_inserted_lies_where_the_network_lies():
    model = build(configure("digits", width=4)).to("meta")
    assert insert_fixed(model, "layer1.0", 4).mean.device.type == "meta"
