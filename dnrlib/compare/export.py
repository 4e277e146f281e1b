"""A trained network as one file that says all that is needed to use it."""

import hashlib
import importlib.util
import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import UserError, models, records
from ..config import Config
from ..datasets.augment import normalised
from ..datasets.catalogue import dataset, read
from ..datasets.decoded import pixels
from ..evaluate.evaluations import Averaged
from ..rules import slimmed
from ..run import arithmetic, finished, run
from ..slim import operations

FORMAT = 2

SNIPPET = '''"""What is in an image? Name one or more image files behind this program."""
import sys
from pathlib import Path

from dnrlib import UserError, load_model

if not sys.argv[1:]:
    sys.exit(f"usage: python {{Path(__file__).name}} IMAGE [IMAGE ...]")
model, failed = load_model(Path(__file__).with_name({model!r})), False
for path in sys.argv[1:]:
    try:
        likeliest = model.predict(path)[:3]
    except UserError as error:
        print(error, file=sys.stderr)
        failed = True
        continue
    for label, share in likeliest:
        print(f"{{path}}\\t{{label}}\\t{{share:.1%}}")
sys.exit(failed)
'''
"""A program that uses an exported network beside it."""


@dataclass(frozen=True)
class Model:
    """An exported network, ready for use."""

    network: nn.Module
    """In evaluation mode, on the CPU."""
    labels: tuple[str, ...]
    """The classes, in the order of the outputs."""
    preprocessing: dict[str, Any]
    """resize, crop (pixels), mean and std (per channel, of pixels scaled to 0..1), channels."""

    def preprocess(self, image: str | Path) -> Tensor:
        """An image file as input of the network (float32, 1 x channels x crop x crop), exactly as
        a folder's images were prepared for training, photographs upright; raises `UserError` for a
        file that is not an image."""
        try:
            array = pixels(Path(image), self.preprocessing["resize"], upright=True)
        except ValueError as error:
            raise UserError(f"{image} cannot be read: {error}") from None
        return self.prepared(array)

    def prepared(self, array: np.ndarray) -> Tensor:
        """Pixels (uint8, resize x resize x 3) as input of the network."""
        how = self.preprocessing
        tensor = torch.tensor(array).permute(2, 0, 1)[None, : how["channels"]]
        about = SimpleNamespace(size=how["crop"], mean=how["mean"], std=how["std"])
        return normalised(tensor, about)

    @torch.inference_mode()
    def logits(self, image: str | Path) -> Tensor:
        """The outputs for an image file, one per label."""
        return self.network(self.preprocess(image))[0]

    def predict(self, image: str | Path) -> list[tuple[str, float]]:
        """The labels of an image file with what the network gives to each (softmax, 0..1), the
        likeliest first. These are no calibrated probabilities."""
        shares = self.logits(image).softmax(0).tolist()
        return sorted(zip(self.labels, shares, strict=True), key=lambda pair: -pair[1])


def export(config: Config, output: Path, device: str = "auto", slim: bool = False) -> None:
    """Writes the network at the end of a run to a file, training what of the run is missing; and
    beside it the program that uses it (`usage`). The file holds:

    `state_dict` (on the CPU), `labels` (class names in the order of the outputs), `preprocessing`,
    `network` (what `load_model` builds it from), `config`, `provenance`, `format` and `seal` (the
    SHA-256 of all the rest); plain types and tensors only, so that `torch.load(weights_only=True)`
    reads it.

    With `slim`, for KE with KELS, it is the small dense network of what the mask keeps, and the
    same is written as a program of `torch.export` (`.pt2`) that needs torch alone, and, where
    `onnx`, `onnxscript` and `onnxruntime` are installed, as `.onnx`. Raises `UserError` for other
    methods, for embeddings, and for a program that does not compute what the network does.
    """
    if slim and output.suffix in (".pt2", ".onnx"):
        raise UserError(f"{output} is where a program will lie; name the network otherwise: .pt")
    if slim and config.method != "ke":
        raise UserError(f"a slim network is what KELS keeps: use --method ke, not {config.method}")
    if dataset(config.dataset).unseen:
        raise UserError(f"a network of embeddings names no classes; {config.dataset} has others")
    found = run(config, device=device)
    model, about = finished(config, device).model.cpu().eval(), dataset(config.dataset)
    if slim:
        model = slimmed(model, config.model, config.split_rate)
        _write_programs(model, output, (about.channels, about.size, about.size))
    last = [record for record in found if record["kind"] == "generation"][-1]
    # As on disk: torch's version, for one, is not a plain string before.
    provenance = json.loads(json.dumps(last["provenance"]))
    written = {
        "format": FORMAT,
        "state_dict": {name: value.contiguous() for name, value in model.state_dict().items()},
        "labels": list(about.classes),
        "preprocessing": {
            "resize": int(read(config.dataset)["train"].images.shape[-1]),
            "crop": about.size,
            "mean": list(about.mean),
            "std": list(about.std),
            "channels": about.channels,
        },
        "network": {
            **{name: getattr(config, name) for name in ("model", "width", "stem")},
            **{"classes": len(about.classes), "channels": about.channels},
            **({"split_rate": config.split_rate} if slim else {}),
            **({"cosines": True} if config.loss == "adacos" else {}),
        },
        "config": dict(vars(config)),
        "provenance": provenance | {"key": last["key"], "images": about.fingerprint},
    }
    written["seal"] = _seal(written)
    file = io.BytesIO()
    torch.save(written, file)
    records.write(output, file.getvalue())
    snippet = SNIPPET.format(model=output.name)
    records.write(usage(output), snippet.encode())


def usage(output: Path) -> Path:
    """The program that is written beside an exported network: `use_model.py` for `model.pt`."""
    return output.with_name(f"use_{output.stem}.py")


def _write_programs(model: nn.Module, output: Path, shape: tuple[int, ...]) -> None:
    """Writes a network as programs for any number of images; raises `UserError` if a program does
    not compute what the network does."""
    images = torch.rand((3, *shape))
    wanted = model(images).detach().numpy()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=batch)

    def with_torch(path: Path) -> np.ndarray:
        torch.export.save(program, path)
        return torch.export.load(path).module()(images).detach().numpy()

    def with_onnx(path: Path) -> np.ndarray:
        import onnxruntime

        names = {"input_names": ["images"], "output_names": ["outputs"]}
        torch.onnx.export(program, (), path, external_data=False, verbose=False, **names)
        (outputs,) = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
        return outputs

    ways = {".pt2": with_torch}
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        ways[".onnx"] = with_onnx
    for suffix, outputs in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"network{suffix}")
            away = np.abs(outputs(path) - wanted).max()
            if not away < 1e-4:
                raise UserError(f"the {suffix} program differs from the network by {away:g}")
            records.write(output.with_suffix(suffix), path.read_bytes())


def compared_costs(config: Config) -> dict[str, float]:
    """What the slim network of a finished run costs on images of its size, as a share of the dense
    one: parameters, operations, and time on a CPU (the median of 15 interleaved passes of 32
    images)."""
    dense = finished(config, "cpu").model.eval()
    small = slimmed(dense, config.model, config.split_rate)
    about = dataset(config.dataset)
    images = torch.rand(32, about.channels, about.size, about.size)
    both, seconds = (small, dense), ([], [])
    with torch.inference_mode(), arithmetic(config.threads):
        for _ in range(15):
            for model, spent in zip(both, seconds, strict=True):
                start = time.perf_counter()
                model(images)
                spent.append(time.perf_counter() - start)
    weights = [sum(weight.numel() for weight in model.parameters()) for model in both]
    work = [operations(model, images.shape) for model in both]
    return {
        "parameters": weights[0] / weights[1],
        "operations": work[0] / work[1],
        "time": float(np.median(np.divide(*seconds))),
    }


def load_model(path: str | Path) -> Model:
    """The network of an exported file, in evaluation mode on the CPU; raises `UserError` if the
    file is not one, is not as it was written, or holds what this version cannot use."""
    try:
        return _model(torch.load(path, weights_only=True, map_location="cpu"), path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; write it with: dnr export") from None
    except UserError:
        raise
    # A damaged pickle can raise anything.
    except Exception as error:
        raise UserError(
            f"{path} is not a model that dnr export wrote ({type(error).__name__}); export it again"
        ) from error


def _seal(written: dict[str, Any]) -> str:
    """The SHA-256 of everything in an exported file but its seal."""
    about = {name: value for name, value in written.items() if name not in ("state_dict", "seal")}
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in written["state_dict"].items():
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _model(stored: dict[str, Any], path: str | Path) -> Model:
    """The network of what an exported file holds. It is tried once, on a black image."""
    if stored["format"] != FORMAT:
        raise UserError(
            f"{path} has format {stored['format']}, this version reads {FORMAT}, which has a seal; "
            "export it again"
        )
    if stored["seal"] != _seal(stored):
        raise UserError(f"{path} is damaged (it does not fit its seal); export it again")
    how, state, labels = stored["network"], stored["state_dict"], stored["labels"]
    if how["model"] not in models.MODELS or how["stem"] not in models.STEMS:
        raise UserError(
            f"{path} holds the network {how['model']} with stem {how['stem']}; this version knows "
            f"{', '.join(models.MODELS)} with {', '.join(models.STEMS)}"
        )
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(
            f"{path} has weights that are not finite numbers: its training diverged; train again "
            "with a lower lr, and export that"
        )
    shape = [how[name] for name in ("model", "classes", "channels", "width", "stem")]
    # Of an ensemble, `networks.0.conv1.weight` and so on.
    averaged = [name.split(".")[1] for name in state if name.startswith("networks.")]
    members = {}
    for prefix in dict.fromkeys(f"networks.{number}." for number in averaged) or [""]:
        own = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        members[prefix] = models.network(*shape, cosines=how.get("cosines", False))
        if "split_rate" in how:
            members[prefix] = slimmed(members[prefix], how["model"], how["split_rate"])
        models.load_state(members[prefix], own)
    network = Averaged(members.values()) if averaged else members[""]
    network.eval().to(memory_format=torch.channels_last)
    model = Model(network, tuple(labels), stored["preprocessing"])
    size, crop = (model.preprocessing[name] for name in ("resize", "crop"))
    with torch.inference_mode():
        inputs = model.prepared(np.zeros((size, size, 3), np.uint8))
        outputs = network(inputs)
    if (
        all(value.dtype == state[name].dtype for name, value in network.state_dict().items())
        and type(labels) is list
        and all(type(label) is str for label in labels)
        and inputs.shape == (1, how["channels"], crop, crop)
        and outputs.shape == (1, len(labels))
        and outputs.isfinite().all()
    ):
        return model
    raise UserError(f"{path} cannot be used: its parts do not fit each other; export it again")
