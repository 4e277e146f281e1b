"""Images per core-second of the training input at 224 pixels: `python -m benchmarks.data`.

One thread makes augmented, normalised batches of 32 in three ways, in rounds that take turns, so
that whatever else the machine does falls on all of them alike:

- `pillow`: what the lineage of the papers does, a DataLoader that decodes each JPEG, resizes it to
  256 x 256, takes a random part, mirrors and normalises it with Pillow and torchvision. It runs in
  this process, without the cost of starting workers that the original pays every epoch.
- `each`: `decoded` array, image by image in uint8 (what a CPU does here);
- `batch`: the same as matrix products (what a GPU does here).

Results go to benchmarks/results/data.json, as ratios of the same round.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from dnrlib import data, decoded, records
from dnrlib.decoded import Kind, Listing, Picture
from dnrlib.streams import stream

RESULTS = records.ROOT / "benchmarks" / "results"
BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photographs(folder: Path, n: int, side: int = 0) -> list[Path]:
    """n JPEG files of about 500 pixels' height, or PNG files of side x side: random parts of two
    real photographs."""
    draw, paths = np.random.RandomState(0), []
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(n):
        photo = photos[number % 2]
        width, height = 400 + draw.randint(200), 300 + draw.randint(120)
        left, top = draw.randint(640 - width + 1), draw.randint(427 - height + 1)
        part = photo.crop((left, top, left + width, top + height))
        paths.append(folder / str(number % 2) / f"{number}.{'png' if side else 'jpg'}")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        shape = (side, side) if side else (width * 500 // height, 500)
        part.resize(shape).save(paths[-1], quality=90)
    return paths


def with_pillow(folder: Path):
    """Endless batches of the lineage's loader."""
    transform = transforms.Compose(
        [
            transforms.Resize((256, 256)),
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(ImageFolder(folder, transform), BATCH, shuffle=True, drop_last=True)
    while True:
        yield from (images for images, _ in loader)


def from_array(name: str, resize):
    """Endless batches from the decoded array."""
    about, train = data.dataset(name), data.read(name)["train"]
    draw, crop = stream(0, 1, "augment"), data.ResizedCrop()
    while True:
        for images, _ in data.batches(train, BATCH, draw):
            boxes = crop.boxes(len(images), images.shape[-1], draw)
            flipped = torch.rand(len(images), generator=draw) < 0.5
            yield data.normalised(resize(images, boxes, flipped, 224), about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["DNRLIB_DATA"] = f"{temporary}/data"
        folder = Path(temporary, "photographs")
        folder.mkdir()
        paths = photographs(folder, options.images)
        listing = Listing(("china", "flower"), {"train": [Picture(p, 0) for p in paths]})
        start = time.perf_counter()
        decoded.decode("flower102", listing, Kind("photographs", 256, 224, MEAN, STD), 1)
        kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1000
        decoding = options.images / (time.perf_counter() - start)
        ways = {
            "pillow": with_pillow(folder),
            "each": from_array("flower102", data.resize_each),
            "batch": from_array("flower102", data.resize_batch),
        }
        steps = {"pillow": 2, "each": 8, "batch": 1}
        rates = {name: [] for name in ways}
        for number in tqdm(range(options.rounds + 1), unit="round"):
            for name, batches in ways.items():
                start = time.perf_counter()
                for _ in range(steps[name]):
                    assert next(batches).shape[1:] == (3, 224, 224)
                if number:  # The first round warms up.
                    rates[name].append(BATCH * steps[name] / (time.perf_counter() - start))
    ratios = {
        name: [own / pillow for own, pillow in zip(rates[name], rates["pillow"], strict=True)]
        for name in ("each", "batch")
    }
    result = {
        "machine": records.processor(),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "jpeg_kilobytes": round(kilobytes, 1),
        "decoding_once_images_per_second": round(decoding, 1),
        "images_per_core_second": {n: _spread(values) for n, values in rates.items()},
        "ratio_to_pillow": {name: _spread(values) for name, values in ratios.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {
        "median": round(median, 2),
        "lower_quartile": round(low, 2),
        "upper_quartile": round(high, 2),
    }


if __name__ == "__main__":
    main()
