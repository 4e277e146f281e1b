"""The 19 corruptions of CIFAR-10-C at 5 severities, for any RGB images of 32 x 32 pixels.

Constants and order of operations are those of Hendrycks and Dietterich, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations" (ICLR 2019), as in their generator
`ImageNet-C/create_c/make_cifar_c.py` (github.com/hendrycks/robustness, Apache-2.0). The code is our
own, on numpy, scipy and Pillow; `DEVIATIONS` says where its result differs.

What is drawn depends on the corruption and on the number of the image in its pool, never on the
severity: the five versions of an image share their random numbers.
"""

import functools
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage, sparse, spatial, special, stats

from .. import UserError

SIDE = 32
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "glass_blur", "gaussian_blur", "motion_blur", "zoom_blur"),
    "weather": ("brightness", "snow", "frost", "fog", "spatter"),
    "digital": ("contrast", "elastic_transform", "jpeg_compression", "pixelate", "saturate"),
}
"""The corruptions as Figure 5 of the DNR paper groups them."""
GROUPED = tuple(name for members in GROUPS.values() for name in members)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Those that are not among the 15 of the benchmark."""
DEVIATIONS = {
    "all": "The published generator drew from numpy's unseeded global stream, here every draw "
    "follows from the corruption and the image's number; all arithmetic is in double precision, "
    "and one millionth of a grey level is added before the fraction is cut off, so that rounding "
    "errors never cost a whole level.",
    "shot_noise": "The Poisson counts invert the distribution function at one uniform number per "
    "value, which serves all severities, instead of numpy's rejection sampler.",
    "defocus_blur": "scipy correlates, with OpenCV's kernel and border (reflect-101).",
    "glass_blur": "scipy's Gaussian with the settings of scikit-image (border repeated, cut off at "
    "4 sigma).",
    "motion_blur": "ImageMagick's motion blur is written anew: a one-sided Gaussian of "
    "2 ceil(radius) + 1 taps along the angle, offsets rounded to pixels, border repeated, result "
    "rounded to whole levels.",
    "zoom_blur": "The zooms, which are linear, are applied as one matrix per severity.",
    "snow": "The flakes are smeared by our own version of ImageMagick's motion blur.",
    "frost": "The published photographs of frost are not redistributed: five synthetic sheets of "
    "ice take their place, cropped at random in the same way.",
    "brightness": "The change of V in HSV is applied in closed form.",
    "elastic_transform": "The affine map interpolates exactly, OpenCV in steps of 1/32 pixel.",
    "gaussian_blur": "scipy's Gaussian with the settings of scikit-image (border repeated, cut off "
    "at 4 sigma).",
    "spatter": "The edges of the liquid are its pixels next to a dry one instead of what OpenCV's "
    "Canny detector finds, distances to them are exact instead of OpenCV's 5 x 5 approximation, "
    "and liquid brighter than white is white instead of wrapping around.",
    "saturate": "The change of S in HSV is applied in closed form.",
}
"""Where results differ from the published generator, by corruption; "all" holds for each."""


class Corruption(NamedTuple):
    """A corruption of a pool of images."""

    apply: Callable[[np.ndarray, Any, Iterable[np.random.RandomState]], np.ndarray]
    """From images (0..1, n x 32 x 32 x 3), the constant of a severity, and one stream per image to
    images, which are then cut to 0..1. A stream is spent when the next one is taken."""
    constants: tuple[Any, ...]
    """One per severity, from 1 on."""


CORRUPTIONS: dict[str, Corruption] = {}
"""By name; in the order of CIFAR-10-C, the 15 of the benchmark and then the 4 extra ones."""


def corrupted(images: np.ndarray, name: str, severity: int, first: int = 0) -> np.ndarray:
    """A pool of images (uint8, n x 32 x 32 x 3) corrupted, as a new array of the same shape and
    type.

    `first` is the number of the first image in its pool: from its number all that is random in an
    image is drawn. Raises `UserError` for other images, an unknown name or a severity other than 1
    to 5.
    """
    if (images.dtype, images.ndim, images.shape[-3:]) != (np.uint8, 4, (SIDE, SIDE, 3)):
        raise UserError(
            "corruptions are defined for 32 x 32 RGB images (uint8, n x 32 x 32 x 3): got "
            f"{images.dtype}, {' x '.join(map(str, images.shape))}"
        )
    if name not in CORRUPTIONS:
        raise UserError(f"{name!r} is no corruption; choose one of: {', '.join(CORRUPTIONS)}")
    corruption = CORRUPTIONS[name]
    if severity not in range(1, len(corruption.constants) + 1):
        raise UserError(f"severity={severity!r} is none; choose 1 (weakest) to 5 (strongest)")
    constant = corruption.constants[int(severity) - 1]
    result = np.empty_like(images)
    # In chunks that stay in the cache; beyond it every pass waits for the memory.
    for start in range(0, len(images), 64):
        part = images[start : start + 64]
        streams = _streams(name, range(first + start, first + start + len(part)))
        result[start : start + 64] = _bytes(corruption.apply(part / 255, constant, streams))
    return result


def _streams(name: str, numbers: Iterable[int]) -> Iterator[np.random.RandomState]:
    """numpy's frozen generator, seeded for one image after the other."""
    # One object for all: making one asks the system for entropy, 60 times the work of a new seed.
    stream = np.random.RandomState(0)
    for number in numbers:
        stream.seed(zlib.crc32(f"{name}/{number}".encode()))
        yield stream


def _corruption(*constants: Any):
    """Enters a function into the table under its own name, with its constants by severity."""

    def enter(function):
        CORRUPTIONS[function.__name__] = Corruption(function, constants)
        return function

    return enter


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values cut to 0..1 as grey levels, without their fraction (as the published arrays)."""
    # More than any rounding error, so that processors agree, and less than anyone can see.
    return (np.clip(values, 0, 1) * 255 + 1e-6).astype(np.uint8)


def _normal(streams: Iterable[np.random.RandomState], *shape: int) -> np.ndarray:
    return np.stack([stream.standard_normal(shape) for stream in streams])


def _gaussian(values: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred along the axes 1 and 2, as scikit-image does by default."""
    return ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=4, axes=(1, 2))


def _hsv(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """V and S of HSV (n x 32 x 32 x 1), and in place of the hue how far each channel is from the
    largest one, 0..1 (n x 32 x 32 x 3): a pixel is V (1 - S away)."""
    value = pixels.max(-1, keepdims=True)
    spread = value - pixels.min(-1, keepdims=True)
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    away = np.divide(value - pixels, spread, out=np.zeros_like(pixels), where=spread > 0)
    # A grey has hue 0, which is red.
    away[..., 1:] += spread == 0
    return value, saturation, away


def _zoom(factor: float) -> np.ndarray:
    """The matrix (32 x 32) that magnifies the middle of a row of pixels by linear interpolation."""
    kept = int(np.ceil(SIDE / factor))
    start = (SIDE - kept) // 2
    zoomed = ndimage.zoom(np.eye(SIDE)[start : start + kept], (factor, 1), order=1)
    start = (len(zoomed) - SIDE) // 2
    return zoomed[start : start + SIDE]


def _half_gaussian(radius: float, sigma: float) -> np.ndarray:
    """The weights of ImageMagick's motion blur, from the pixel itself onwards."""
    weights = np.exp(-(np.arange(2 * np.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def _motion(levels: np.ndarray, angles: Iterable[float], radius: float, sigma: float) -> np.ndarray:
    """Grey levels (n x 32 x 32 x any) smeared at one angle per image, in degrees; whole levels."""
    weights = _half_gaussian(radius, sigma)
    # What is beyond weighs less than a thousandth of a level.
    weights = weights[weights > 1e-6]
    steps, reach = np.arange(len(weights)), len(weights) - 1
    padded = np.pad(levels.astype(float), ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge")
    smeared = np.zeros(levels.shape)
    for angle, source, target in zip(np.deg2rad(list(angles)), padded, smeared, strict=True):
        downs = np.ceil(steps * np.sin(angle) - 0.5).astype(int) + reach
        rights = np.ceil(steps * np.cos(angle) - 0.5).astype(int) + reach
        for weight, down, right in zip(weights, downs, rights, strict=True):
            target += weight * source[down : down + SIDE, right : right + SIDE]
    return np.floor(smeared + (0.5 + 1e-6))


@_corruption(0.04, 0.06, 0.08, 0.09, 0.10)
def gaussian_noise(pixels, deviation, streams):
    return pixels + deviation * _normal(streams, SIDE, SIDE, 3)


@_corruption(500, 250, 100, 75, 50)
def shot_noise(pixels, photons, streams):
    """`photons` are what a white value receives on average."""
    grey = np.arange(256)[:, None]
    counts = np.arange(photons + 10 * np.sqrt(photons))
    # Of each grey level the distribution function of its counts, plus the level: flat, they are one
    # increasing sequence.
    table = special.pdtr(counts, grey / 255 * photons)
    table[:, -1] = 1
    levels = _bytes(pixels).astype(int)
    keys = levels + np.stack([stream.random_sample(pixels.shape[1:]) for stream in streams])
    places = np.searchsorted((grey + table).ravel(), keys, side="right")
    return (places - levels * len(counts)) / photons


@_corruption(0.01, 0.02, 0.03, 0.05, 0.07)
def impulse_noise(pixels, share, streams):
    """That share of all values becomes 0 or 255, each with probability 1/2."""
    hit, salt = np.stack([s.random_sample((2, *pixels.shape[1:])) for s in streams], 1)
    return np.where(hit < share, salt < 0.5, pixels)


def _lens(radius: float, sigma: float) -> np.ndarray:
    """The kernel (5 x 5, sum 1) of a lens out of focus: a disk with smoothed edges."""
    # The published kernel is 17 x 17 and zero outside of these.
    at = np.arange(-2, 3)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    return ndimage.correlate(disk / disk.sum(), np.outer(taps, taps), mode="constant")


@_corruption((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
def defocus_blur(pixels, lens, streams):
    kernel = _lens(*lens)[None, :, :, None]
    return ndimage.correlate(pixels, kernel, mode="mirror")


@_corruption((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
def glass_blur(pixels, constant, streams):
    sigma, reach, times = constant
    found = _bytes(_gaussian(pixels, sigma))
    at = np.arange(SIDE - reach, reach, -1)
    shape = (times, len(at), len(at), 2)
    shifts = np.stack([stream.randint(-reach, reach, shape) for stream in streams], 1)
    numbers = np.arange(len(pixels))[:, None, None]
    # The published exchange of two views writes the first pixel and leaves the second as it is. Its
    # sources, to the left or above (randint never draws its upper end), are passed later, so
    # that one pass over the image is one gather.
    for downs, rights in np.moveaxis(shifts, -1, 1):
        source = found[numbers, at[:, None] + downs, at + rights]
        found[:, at[:, None], at] = source
    return _gaussian(found / 255, sigma)


@_corruption((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
def motion_blur(pixels, constant, streams):
    angles = [stream.uniform(-45, 45) for stream in streams]
    return _motion(_bytes(pixels), angles, *constant) / 255


@functools.lru_cache(maxsize=5)
def _zooms(factors: tuple[float, ...]) -> sparse.csr_array:
    """The mean of an image, of the image again and of it zoomed by all factors, as a matrix."""
    total = sparse.eye_array(SIDE**2, format="csr")
    for zoom in map(_zoom, factors):
        total += sparse.kron(sparse.csr_array(zoom), zoom, format="csr")
    return total / (len(factors) + 1)


@_corruption(*(tuple(np.arange(1, end, 0.01)) for end in (1.06, 1.11, 1.16, 1.21, 1.26)))
def zoom_blur(pixels, factors, streams):
    columns = pixels.reshape(-1, SIDE**2, 3).swapaxes(0, 1)
    blurred = _zooms(factors) @ columns.reshape(SIDE**2, -1)
    return blurred.reshape(columns.shape).swapaxes(0, 1).reshape(pixels.shape)


@_corruption(
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
def snow(pixels, constant, streams):
    """Flakes in random places, smeared downwards, on an image that is whitened."""
    mean, deviation, factor, threshold, radius, sigma, share = constant
    drawn = [(s.standard_normal((SIDE, SIDE)), s.uniform(-135, -45)) for s in streams]
    layers, angles = zip(*drawn, strict=True)
    zoom = _zoom(factor)
    flakes = zoom @ (mean + deviation * np.stack(layers)) @ zoom.T
    flakes = _bytes(np.where(flakes < threshold, 0, flakes))[..., None]
    flakes = _motion(flakes, angles, radius, sigma) / 255
    grey = (pixels @ [0.299, 0.587, 0.114])[..., None]
    white = share * pixels + (1 - share) * np.maximum(pixels, grey * 1.5 + 0.5)
    return white + flakes + flakes[:, ::-1, ::-1]


@functools.cache
def _ice(sheets: int = 5, side: int = 160) -> np.ndarray:
    """Synthetic sheets of ice (sheets x side x side x 3, 0..1): bright, bluish seams between
    crystals of several sizes, over a mist."""
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    ice = np.zeros((sheets, side, side))
    for sheet, draw in zip(ice, _streams("frost/sheet", range(sheets)), strict=True):
        for size in (20, 9, 4):
            # Stretched and turned, so that the crystals are needles.
            angle = draw.uniform(0, np.pi)
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            points = grid @ turn.T / (2 * size, size)
            seeds = draw.uniform(0, side, (int((side / size) ** 2 / 2), 2)) @ turn.T
            near, next_ = spatial.KDTree(seeds / (2 * size, size)).query(points, 2)[0].T
            sheet += np.sqrt(size) * np.exp(-6 * (next_ - near)).reshape(side, side)
            mist = ndimage.gaussian_filter(draw.standard_normal((side, side)), size, mode="wrap")
            sheet += 0.5 * np.sqrt(size) * mist / mist.std()
    ice = (ice - ice.mean((1, 2), keepdims=True)) / ice.std((1, 2), keepdims=True)
    return np.clip((0.45 + 0.22 * ice)[..., None] * (0.92, 1, 1.08), 0, 1)


@_corruption((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
def frost(pixels, shares, streams):
    ice = _ice()
    crops = []
    for stream in streams:
        sheet = ice[stream.randint(len(ice))]
        top, left = stream.randint(0, len(sheet) - SIDE, 2)
        crops.append(sheet[top : top + SIDE, left : left + SIDE])
    return shares[0] * pixels + shares[1] * np.stack(crops)


def _plasma(drawn: np.ndarray, decay: float) -> np.ndarray:
    """Clouds in 0..1 (n x 32 x 32) by the diamond-square algorithm, from numbers drawn in -1..1
    (n x 1023)."""
    heights = np.zeros((len(drawn), SIDE, SIDE))
    cells, wibble = 1, 100.0
    while cells < SIDE:
        step, half = SIDE // cells, SIDE // cells // 2
        now, drawn = np.split(drawn, [3 * cells**2], axis=1)
        # Drawn in -wibble..wibble and multiplied by it once more, as published.
        centre, top, left = wibble**2 * now.reshape(-1, 3, cells, cells).swapaxes(0, 1)
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, 1)
        middles = (pairs + np.roll(pairs, -1, 2)) / 4 + centre
        heights[:, half::step, half::step] = middles
        around = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 2)
        heights[:, ::step, half::step] = around / 4 + top
        around = middles + np.roll(middles, 1, 2) + corners + np.roll(corners, -1, 1)
        heights[:, half::step, ::step] = around / 4 + left
        cells, wibble = 2 * cells, wibble / decay
    heights -= heights.min((1, 2), keepdims=True)
    return heights / heights.max((1, 2), keepdims=True)


@_corruption((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
def fog(pixels, constant, streams):
    density, decay = constant
    clouds = _plasma(np.stack([s.uniform(-1, 1, SIDE**2 - 1) for s in streams]), decay)
    brightest = pixels.max((1, 2, 3), keepdims=True)
    return (pixels + density * clouds[..., None]) * brightest / (brightest + density)


@_corruption(0.05, 0.1, 0.15, 0.2, 0.3)
def brightness(pixels, more, streams):
    value, saturation, away = _hsv(pixels)
    return np.minimum(value + more, 1) * (1 - saturation * away)


@_corruption(0.75, 0.5, 0.4, 0.3, 0.15)
def contrast(pixels, factor, streams):
    means = pixels.mean((1, 2), keepdims=True)
    return (pixels - means) * factor + means


def _sampled(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, border: str) -> np.ndarray:
    """Images (n x 32 x 32 x 3) at positions between pixels (each n x 32 x 32), linearly
    interpolated."""
    numbers = np.arange(len(pixels))[:, None, None, None]
    at = np.broadcast_arrays(numbers, rows[..., None], columns[..., None], np.arange(3))
    return ndimage.map_coordinates(pixels, at, order=1, mode=border)


@_corruption(
    (0, 0, SIDE * 0.08),
    (SIDE * 0.05, SIDE * 0.2, SIDE * 0.07),
    (SIDE * 0.08, SIDE * 0.06, SIDE * 0.06),
    (SIDE * 0.1, SIDE * 0.04, SIDE * 0.05),
    (SIDE * 0.1, SIDE * 0.03, SIDE * 0.03),
)
def elastic_transform(pixels, constant, streams):
    """Three points move at random and carry the image along, then every pixel moves on its own."""
    strength, sigma, corners = constant
    drawn = [(s.uniform(-1, 1, (3, 2)), s.uniform(-1, 1, (2, SIDE, SIDE))) for s in streams]
    moves, shifts = (np.stack(values) for values in zip(*drawn, strict=True))
    points = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])
    # Where the points went, as x, y, 1; the map back says what a pixel shows.
    moved = np.concatenate([points + corners * moves, np.ones((len(pixels), 3, 1))], -1)
    back = np.linalg.solve(moved, np.broadcast_to(points, (len(pixels), 3, 2)))
    rows, columns = np.indices((SIDE, SIDE)).astype(float)
    sources = np.stack([columns, rows, np.ones_like(rows)], -1) @ back[:, None]
    turned = _sampled(pixels, sources[..., 1], sources[..., 0], "mirror")
    shifts = strength * ndimage.gaussian_filter(
        shifts, sigma, mode="reflect", truncate=3, axes=(2, 3)
    )
    return _sampled(turned, rows + shifts[:, 1], columns + shifts[:, 0], "reflect")


@_corruption(0.95, 0.9, 0.85, 0.75, 0.65)
def pixelate(pixels, share, streams):
    small = int(SIDE * share)

    box = Image.Resampling.BOX
    shrunk = [Image.fromarray(levels).resize((small, small), box) for levels in _bytes(pixels)]
    return np.stack([image.resize((SIDE, SIDE), box) for image in shrunk]) / 255


@_corruption(80, 65, 58, 50, 40)
def jpeg_compression(pixels, quality, streams):
    files = [io.BytesIO() for _ in pixels]
    for levels, file in zip(_bytes(pixels), files, strict=True):
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return np.stack([Image.open(file) for file in files]) / 255


@_corruption(0.06, 0.1, 0.12, 0.16, 0.2)
def speckle_noise(pixels, deviation, streams):
    return pixels * (1 + deviation * _normal(streams, SIDE, SIDE, 3))


@_corruption(0.4, 0.6, 0.7, 0.8, 1)
def gaussian_blur(pixels, sigma, streams):
    return _gaussian(pixels, sigma)


def _equalised(levels: np.ndarray) -> np.ndarray:
    """Whole numbers (n x 32 x 32, 0..255) spread over 0..255 by their ranks in each image, as
    OpenCV does: the lowest becomes 0, the highest 255; an image of one level stays."""
    flat = levels.reshape(len(levels), -1)
    ranks = stats.rankdata(flat, "max", axis=1)
    lowest = ranks.min(1, keepdims=True)
    above = flat.shape[1] - lowest
    spread = np.rint((ranks - lowest) * 255 / np.maximum(above, 1))
    return np.where(above > 0, spread, flat).astype(int).reshape(levels.shape)


def _box(values: np.ndarray) -> np.ndarray:
    return ndimage.uniform_filter(values.astype(float), 3, mode="mirror", axes=(1, 2))


def _water(liquid: np.ndarray) -> np.ndarray:
    """How much light drops of liquid (n x 32 x 32 grey levels, 0 where dry) give back, by pixel in
    0..1: bright on one side, dark on the other."""
    wet = liquid > 0
    cross = [[[0, 1, 0], [1, 1, 1], [0, 1, 0]]]
    inner = ndimage.binary_erosion(wet, cross, border_value=1)
    # All images at once, further from each other than counts; a layer of edges in front because
    # the distance to nothing is undefined.
    plain = np.pad(~wet | inner, ((1, 0), (0, 0), (0, 0)))
    distance = ndimage.distance_transform_edt(plain, sampling=(1000, 1, 1))[1:]
    levels = _equalised((_box(np.minimum(distance, 20)) + 1e-6).astype(int))
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = ndimage.correlate(levels, kernel[None], mode="mirror")
    light = liquid * np.rint(_box(np.clip(lit, 0, 255)))
    return light / np.maximum(light.max((1, 2), keepdims=True), 1)


@_corruption(
    (0.62, 0.1, 0.7, 0.7, 0.5, 0),
    (0.65, 0.1, 0.8, 0.7, 0.5, 0),
    (0.65, 0.3, 1, 0.69, 0.5, 0),
    (0.65, 0.1, 0.7, 0.69, 0.6, 1),
    (0.65, 0.1, 0.5, 0.68, 0.6, 1),
)
def spatter(pixels, constant, streams):
    """Drops of water at the severities 1 to 3, mud at 4 and 5."""
    mean, deviation, sigma, threshold, strength, mud = constant
    liquid = _gaussian(mean + deviation * _normal(streams, SIDE, SIDE), sigma)
    if not mud:
        light = strength * _water(_bytes(np.where(liquid < threshold, 0, liquid)).astype(int))
        return pixels + light[..., None] * (np.array([175, 238, 238]) / 255)
    cover = _gaussian((liquid > threshold).astype(float), strength)
    cover = np.where(cover < 0.8, 0, cover)[..., None]
    return pixels * (1 - cover) + cover * (np.array([63, 42, 20]) / 255)


@_corruption((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
def saturate(pixels, constant, streams):
    factor, more = constant
    value, saturation, away = _hsv(pixels)
    return value * (1 - np.clip(saturation * factor + more, 0, 1) * away)
