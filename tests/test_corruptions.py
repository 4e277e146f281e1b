"""The corruptions of CIFAR-10-C, against the published constants and independent oracles."""

import colorsys
import hashlib
import io
import itertools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from dnrlib import UserError
from dnrlib.datasets import official
from dnrlib.evaluate import corruptions
from dnrlib.evaluate.corruptions import CORRUPTIONS, DEVIATIONS, GROUPS, corrupted

GOLDEN = Path(__file__).parent / "golden" / "corruptions.json"
SEVERITIES = range(1, 6)
DRAWN = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur"),
    *("motion_blur", "snow", "frost", "fog", "elastic_transform", "spatter"),
}
"""Those that draw random numbers."""


def pictures(n, seed=0):
    """Colour gradients with a rectangle and a diagonal stroke (uint8, n x 32 x 32 x 3), the same on
    every machine: all fractions are exact."""
    draw = np.random.RandomState(seed)
    ramps = np.clip(1 - np.abs(np.arange(32)[:, None] / 8 - np.arange(5)), 0, 1)
    nodes = draw.randint(0, 256, (n, 5, 5, 3))
    found = np.rint(np.einsum("yi,xj,nijc->nyxc", ramps, ramps, nodes)).astype(np.uint8)
    rows, columns = np.indices((32, 32))
    for image in found:
        top, left, tall, wide = draw.randint((2, 2, 6, 6), (20, 20, 16, 16))
        image[top : top + tall, left : left + wide] = draw.randint(0, 256, 3)
        image[np.abs(rows - columns + draw.randint(-12, 12)) < 2] = draw.randint(0, 256, 3)
    return found


def corrupt(image, name, severity, number):
    """One image, which has that number in its pool."""
    return corrupted(image[None], name, severity, number)[0]


def plain(level, n=1):
    return np.full((n, 32, 32, 3), level, np.uint8)


def stream(name, number):
    return np.random.RandomState(zlib.crc32(f"{name}/{number}".encode()))


def levels(values):
    """Values in 0..1 as grey levels without their fraction."""
    return np.floor(np.clip(values, 0, 1) * 255 + 1e-6).astype(np.uint8)


# --------------------------------------------------------------------------------------------------
# All corruptions


def test_names_and_groups_are_those_of_cifar10c():
    files = [Path(path).stem for path in official.facts()["cifar10c"].tree]
    assert [*CORRUPTIONS, "labels"] == files
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(CORRUPTIONS)
    assert [len(group) for group in GROUPS.values()] == [4, 5, 5, 5]
    assert set(DEVIATIONS) <= {"all", *CORRUPTIONS}


def test_constants_are_the_published_ones():
    """Typed from the published generator, not from the module."""
    expected = {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.1],
        "shot_noise": [500, 250, 100, 75, 50],
        "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
        "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
        "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
        "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
        "jpeg_compression": [80, 65, 58, 50, 40],
        "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
        "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
        "spatter": [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
        "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    }
    for name, constants in expected.items():
        assert list(CORRUPTIONS[name].constants) == constants, name
    assert {*CORRUPTIONS} - {*expected} == {"zoom_blur", "elastic_transform"}
    zooms = CORRUPTIONS["zoom_blur"].constants
    # One more than one would count: numpy's arange with a step of 0.01 overshoots.
    assert [len(factors) for factors in zooms] == [7, 12, 16, 21, 26]
    assert [factors[-1] for factors in zooms] == pytest.approx([1.06, 1.11, 1.15, 1.2, 1.25])
    elastic = [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6)]
    assert np.array(CORRUPTIONS["elastic_transform"].constants) == pytest.approx(
        np.array([*elastic, (3.2, 0.96, 0.96)])
    )


def digests():
    """The first 16 hex digits of the SHA-256 of four corrupted images at all severities."""
    images = pictures(4)
    return {
        name: hashlib.sha256(
            b"".join(corrupted(images, name, severity).tobytes() for severity in SEVERITIES)
        ).hexdigest()[:16]
        for name in CORRUPTIONS
    }


def test_corrupted_images_are_pinned():
    """Golden. If they change on purpose: python -m tests.test_corruptions"""
    assert digests() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_pool_is_corrupted_as_its_images_are_one_by_one(name):
    """Also across the border of a chunk, and with the severities in any order."""
    images = pictures(66)
    before = images.copy()
    for severity in (5, 1, 3):
        found = corrupted(images, name, severity)
        assert found.dtype == np.uint8
        assert found.shape == images.shape
        for number in (65, 0, 1, 63, 64):
            one = corrupt(images[number], name, severity, number)
            assert np.array_equal(one, found[number]), (severity, number)
    assert np.array_equal(images, before)
    assert corrupted(images[:0], name, 1).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_draws_follow_the_number_of_the_image(name):
    image = pictures(1)[0]
    found = {corrupt(image, name, 5, number).tobytes() for number in range(8)}
    # Two angles of motion blur may touch the same pixels.
    assert len(found) > 5 if name in DRAWN else len(found) == 1


def distances(name, images):
    return {
        severity: np.abs(corrupted(images, name, severity).astype(int) - images).mean()
        for severity in SEVERITIES
    }


ORDERS = {
    # Severity 5 shuffles as often as 4 and then blurs more, which smooths the shuffled pixels.
    "glass_blur": [(1, 2, 3, 4), (3, 5)],
    # 3 and 4 have the same sigma; the wider kernel of 4 adds weights below 1e-6.
    "motion_blur": [(1, 2, 3, 5), (2, 4, 5)],
    # From 3 on the image fades while the ice brightens, which cancel in part.
    "frost": [(1, 2), (1, 3), (1, 4), (1, 5)],
    # The affine map, which moves the most, weakens while the local shifts grow.
    "elastic_transform": [(5, 4, 3, 2, 1)],
    # Water at 1 to 3, mud at 4 and 5, which is less and harder to see through.
    "spatter": [(1, 2, 3), (4, 5)],
    # Paler at 1 and 2, more colourful from 3 on.
    "saturate": [(1, 2), (3, 4, 5)],
}
"""Severities from near to far, where the published constants do not give 1, 2, 3, 4, 5."""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_are_further_away_at_higher_severities(name):
    """Mean absolute distance; and the exceptions are ones."""
    found = distances(name, pictures(64))
    for order in ORDERS.get(name, [tuple(SEVERITIES)]):
        chain = [found[severity] for severity in order]
        assert all(near < far for near, far in itertools.pairwise(chain)), found
    assert (name in ORDERS) == any(found[s] >= found[s + 1] for s in range(1, 5)), found


@pytest.mark.parametrize("name", [*GROUPS["blur"], "elastic_transform"])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_plain_image_is_not_changed_by(name, level):
    for severity in SEVERITIES:
        assert (corrupted(plain(level, 3), name, severity) == level).all()


def test_every_grey_level_survives_the_way_there_and_back():
    assert (corruptions._bytes(np.arange(256) / 255) == np.arange(256)).all()
    assert corruptions._bytes(np.array([-1, 0.5, 0.999, 2])).tolist() == [0, 127, 254, 255]


# --------------------------------------------------------------------------------------------------
# Noise


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.04), (5, 0.1)])
def test_gaussian_noise_has_its_deviation_and_is_clipped(severity, deviation):
    found = corrupted(plain(128, 20), "gaussian_noise", severity).astype(float)
    assert found.mean() == pytest.approx(127.5, abs=0.3)
    assert found.std() == pytest.approx(255 * deviation, rel=0.02)
    white = corrupted(plain(255, 20), "gaussian_noise", severity)
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.06), (5, 0.2)])
def test_speckle_noise_is_proportional_to_the_light(severity, deviation):
    assert (corrupted(plain(0), "speckle_noise", severity) == 0).all()
    for level in (40, 120):
        found = corrupted(plain(level, 20), "speckle_noise", severity).astype(float)
        assert found.std() == pytest.approx(level * deviation, rel=0.03)
        assert found.mean() == pytest.approx(level - 0.5, abs=0.3)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (3, 100), (5, 50)])
@pytest.mark.parametrize("level", [0, 10, 100])
def test_shot_noise_counts_photons(level, severity, photons):
    """Every count by its probability, and mean and variance x / photons of a value x."""
    found = corrupted(plain(level, 20), "shot_noise", severity).ravel()
    poisson = stats.poisson(level / 255 * photons)
    values, shares = np.unique(found, return_counts=True)
    counts = np.ceil(values / 255 * photons - 1e-6)
    if photons < 256:
        # Otherwise several counts fall on one grey level.
        assert shares / len(found) == pytest.approx(poisson.pmf(counts), abs=0.006)
    assert found.mean() == pytest.approx(level, abs=0.7)
    assert found.std() == pytest.approx(255 * np.sqrt(level / 255 / photons), rel=0.03)
    white = corrupted(plain(255, 20), "shot_noise", severity)
    whole = stats.poisson(photons).sf(photons - 1)
    assert (white == 255).mean() == pytest.approx(whole, abs=0.006)


@pytest.mark.parametrize(("severity", "share"), list(enumerate([0.01, 0.02, 0.03, 0.05, 0.07], 1)))
def test_impulse_noise_hits_its_share_of_the_values(severity, share):
    found = corrupted(plain(128, 40), "impulse_noise", severity)
    assert set(np.unique(found)) == {0, 128, 255}
    assert (found != 128).mean() == pytest.approx(share, rel=0.05)
    assert (found == 255).sum() / (found != 128).sum() == pytest.approx(0.5, abs=0.02)
    channels = (found != 128).sum(-1)
    assert (channels == 1).sum() > 10 * (channels == 3).sum()


def test_severities_share_their_random_numbers():
    hits = [corrupted(plain(128, 4), "impulse_noise", s) for s in SEVERITIES]
    for weak, strong in itertools.pairwise(hits):
        assert (strong[weak != 128] == weak[weak != 128]).all()
    for name in ("gaussian_noise", "shot_noise", "speckle_noise"):
        weak, strong = (corrupted(plain(128, 4), name, s).ravel() for s in (1, 5))
        assert np.corrcoef(weak, strong)[0, 1] > 0.97, name


# --------------------------------------------------------------------------------------------------
# Blur


def blurred(image, taps, border):
    """An image in 0..1 correlated with a kernel, the slow way, on an image padded as numpy does."""
    reach = len(taps) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), border)
    found = np.zeros(image.shape)
    for row in range(len(taps)):
        for column in range(len(taps)):
            found += taps[row, column] * padded[row : row + 32, column : column + 32]
    return found


def gaussian(sigma, reach):
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.outer(taps, taps) / taps.sum() ** 2


@pytest.mark.parametrize(
    ("severity", "sigma", "reach"), [(1, 0.4, 2), (2, 0.6, 2), (3, 0.7, 3), (4, 0.8, 3), (5, 1, 4)]
)
def test_gaussian_blur_is_cut_off_at_4_sigma_and_repeats_the_border(severity, sigma, reach):
    for image in pictures(3):
        wanted = levels(blurred(image / 255, gaussian(sigma, reach), "edge"))
        assert np.array_equal(corrupt(image, "gaussian_blur", severity, 0), wanted)


def lens(severity):
    """By hand: one pixel, a cross, a square; smoothed by three taps."""
    kernel = np.zeros((5, 5))
    if severity <= 3:
        kernel[1:4, 1:4] = gaussian({1: 0.4, 2: 0.5, 3: 0.6}[severity], 1)
    if severity == 4:
        for row, column in ((2, 2), (1, 2), (3, 2), (2, 1), (2, 3)):
            kernel[row - 1 : row + 2, column - 1 : column + 2] += gaussian(0.2, 1) / 5
    if severity == 5:
        kernel[1:4, 1:4] = 1 / 9
    return kernel


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_disk_and_mirrors_at_the_border(severity):
    for image in pictures(3):
        wanted = levels(blurred(image / 255, lens(severity), "reflect"))
        assert np.array_equal(corrupt(image, "defocus_blur", severity, 0), wanted)


@pytest.mark.parametrize(("severity", "sigma", "times"), [(1, None, 1), (4, 0.25, 2), (5, 0.4, 2)])
def test_glass_blur_moves_pixels_as_the_published_exchange_does(severity, sigma, times):
    """Pixel by pixel and in place, with an exchange of views."""
    for number, image in enumerate(pictures(3)):
        taps = gaussian(sigma, int(4 * sigma + 0.5)) if sigma else np.ones((1, 1))
        wanted = levels(blurred(image / 255, taps, "edge"))
        shifts = stream("glass_blur", number).randint(-1, 1, (times, 30, 30, 2))
        for step in range(times):
            for i in range(30):
                for j in range(30):
                    here = 31 - i, 31 - j
                    there = tuple(np.add(here, shifts[step, i, j]))
                    wanted[here], wanted[there] = wanted[there], wanted[here]
        wanted = levels(blurred(wanted / 255, taps, "edge"))
        assert np.array_equal(corrupt(image, "glass_blur", severity, number), wanted)


@pytest.mark.parametrize(("radius", "sigma", "taps"), [(6, 1, 13), (8, 2, 17), (14, 12, 29)])
def test_the_kernel_of_motion_blur_is_half_a_gaussian(radius, sigma, taps):
    kernel = corruptions._half_gaussian(radius, sigma)
    assert len(kernel) == taps
    assert kernel.sum() == pytest.approx(1)
    assert kernel[3] / kernel[0] == pytest.approx(np.exp(-4.5 / sigma**2))


@pytest.mark.parametrize(
    ("angle", "down", "right"),
    [(0, 0, -1), (90, -1, 0), (45, -0.7071, -0.7071), (-35, 0.5736, -0.8192)],
)
def test_motion_blur_leaves_a_trail_along_its_angle(angle, down, right):
    """Of one bright pixel; a pixel sees what lies ahead of it."""
    image = np.zeros((1, 32, 32, 1))
    image[0, 16, 16] = 255
    found = corruptions._motion(image, [angle], 9, 2.5)[0, ..., 0]
    kernel = 255 * corruptions._half_gaussian(9, 2.5)
    wanted = np.zeros((32, 32))
    for step in range(16):
        wanted[round(16 + step * down), round(16 + step * right)] += kernel[step]
    np.testing.assert_allclose(found, wanted, atol=0.501)


def test_motion_blur_draws_angles_up_to_45_degrees():
    """So that a pixel is smeared to the left, never to the right and never straight up or down."""
    image = plain(0)[0]
    image[16, 16] = 255
    found = np.stack([corrupt(image, "motion_blur", 5, number)[..., 0] for number in range(60)])
    assert (found[:, :, 17:] == 0).all()
    rows = np.array([np.average(np.arange(32), weights=one.sum(1)) - 16 for one in found])
    columns = np.array([16 - np.average(np.arange(32), weights=one.sum(0)) for one in found])
    assert (np.abs(rows) < columns + 0.3).all()
    assert rows.min() < -1
    assert rows.max() > 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_of_zooms(severity):
    """By scipy's zoom of images; the image itself counts twice, as published."""
    image = pictures(1)[0] / 255
    factors = CORRUPTIONS["zoom_blur"].constants[severity - 1]
    total = image.copy()
    for factor in factors:
        kept = int(np.ceil(32 / factor))
        start = (32 - kept) // 2
        part = image[start : start + kept, start : start + kept]
        zoomed = ndimage.zoom(part, (factor, factor, 1), order=1)
        start = (len(zoomed) - 32) // 2
        total += zoomed[start : start + 32, start : start + 32]
    wanted = levels(total / (len(factors) + 1))
    assert np.array_equal(corrupt(pictures(1)[0], "zoom_blur", severity, 0), wanted)


# --------------------------------------------------------------------------------------------------
# Weather


def by_pixel(image, change):
    """`change` of hue, saturation and value, by Python's own colour module."""
    pixels = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
        for pixel in (image.reshape(-1, 3) / 255).tolist()
    ]
    return levels(np.array(pixels)).reshape(image.shape)


def picture_with_greys():
    image = pictures(1)[0]
    image[0] = np.arange(0, 256, 8)[:, None]
    return image


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_of_every_pixel(severity):
    image, more = picture_with_greys(), [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
    wanted = by_pixel(image, lambda h, s, v: (h, s, min(v + more, 1)))
    assert np.array_equal(corrupt(image, "brightness", severity, 0), wanted)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate_changes_the_saturation_of_every_pixel(severity):
    """A grey turns red where saturation is added: its hue is 0."""
    image = picture_with_greys()
    times, more = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][severity - 1]
    wanted = by_pixel(image, lambda h, s, v: (h, min(s * times + more, 1), v))
    assert np.array_equal(corrupt(image, "saturate", severity, 0), wanted)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_only_brightens_and_falls_twice(severity):
    """The same flakes once more, turned by half a turn; between them a black image turns grey."""
    images = pictures(8)
    assert (corrupted(images, "snow", severity) >= images).all()
    black = corrupted(plain(0, 8), "snow", severity)
    assert np.array_equal(black, black[:, ::-1, ::-1])
    assert np.ptp(black, axis=-1).max() == 0
    share = [0.95, 0.9, 0.9, 0.85, 0.8][severity - 1]
    assert black.min() == int(255 * (1 - share) * 0.5 + 1e-6)
    assert black.max() > 60


def test_snow_weighs_the_channels_as_the_eye_does():
    image = plain(0)[0]
    image[..., 1] = 100
    found = corrupt(image, "snow", 5, 0)
    grey = 1.5 * 0.587 * 100 / 255 + 0.5
    assert found[..., 0].min() == int(255 * 0.2 * grey)
    assert found[..., 1].min() == int(0.8 * 100 + 0.2 * 255 * grey)


def test_frost_is_a_bluish_texture_added_to_the_faded_image():
    ice = corruptions._ice()
    assert ice.min() >= 0
    assert ice.max() <= 1
    red, green, blue = ice.mean((0, 1, 2))
    assert 0.35 < red < green < blue < 0.6
    assert 0.15 < ice.mean(-1).std() < 0.25
    shares = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]
    for severity, (image, added) in zip(SEVERITIES, shares, strict=True):
        black = corrupted(plain(0, 30), "frost", severity).astype(int)
        assert black.max() <= 255 * added
        assert black.mean() == pytest.approx(added * 255 * ice.mean(), rel=0.25)
        grey = corrupted(plain(60, 30), "frost", severity).astype(int)
        assert np.abs(grey - black - image * 60).max() <= 1


def test_plasma_is_the_diamond_square_algorithm():
    """Point by point; on a torus."""
    draws = np.random.RandomState(0).uniform(-1, 1, (3, 1023))
    found = corruptions._plasma(draws, 2)
    assert (found.min((1, 2)) == 0).all()
    assert (found.max((1, 2)) == 1).all()
    for numbers, one in zip(draws, found, strict=True):
        numbers, heights = iter(numbers), np.zeros((32, 32))
        step, height = 32, 100.0
        while step > 1:
            half = step // 2
            for y, x, around in (
                (half, half, ((-half, -half), (-half, half), (half, -half), (half, half))),
                (0, half, ((0, -half), (0, half), (-half, 0), (half, 0))),
                (half, 0, ((0, -half), (0, half), (-half, 0), (half, 0))),
            ):
                for row in range(y, 32, step):
                    for column in range(x, 32, step):
                        mean = sum(
                            heights[(row + dy) % 32, (column + dx) % 32] for dy, dx in around
                        )
                        heights[row, column] = mean / 4 + height**2 * next(numbers)
            step, height = half, height / 2
        heights -= heights.min()
        np.testing.assert_allclose(one, heights / heights.max(), atol=1e-9)


@pytest.mark.parametrize(("severity", "density"), [(1, 0.2), (3, 0.75), (5, 1.5)])
def test_fog_keeps_the_brightest_level_and_lifts_the_darkest(severity, density):
    assert (corrupted(plain(0, 2), "fog", severity) == 0).all()
    found = corrupted(plain(255, 4), "fog", severity)
    assert found.max() == 255
    assert found.min() == int(255 / (1 + density))
    images, decay = pictures(3), {1: 3, 3: 2.5, 5: 1.75}[severity]
    draws = [stream("fog", number).uniform(-1, 1, 1023) for number in range(3)]
    clouds = corruptions._plasma(np.stack(draws), decay)
    for image, cloud, one in zip(images, clouds, corrupted(images, "fog", severity), strict=True):
        peak = image.max() / 255
        wanted = (image / 255 + density * cloud[..., None]) * peak / (peak + density)
        assert np.array_equal(one, levels(wanted))


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_gives_back_light_of_its_colour(severity):
    black = corrupted(plain(0, 40), "spatter", severity).astype(int)
    assert (black.max((1, 2)).max(0) == (87, 119, 119)).all()
    assert 0.002 < (black.max(-1) > 20).mean() < 0.3
    images = pictures(8)
    assert (corrupted(images, "spatter", severity) >= images).all()


@pytest.mark.parametrize("severity", [4, 5])
def test_mud_covers_what_is_behind_it(severity):
    white = corrupted(plain(255, 40), "spatter", severity).astype(int)
    covered = (white < 255).any(-1)
    assert 0.005 < covered.mean() < 0.3
    assert (white.min((0, 1, 2)) == (63, 42, 20)).all()
    # At least 0.8 of each pixel or nothing.
    assert white[covered].max(0) == pytest.approx([101, 84, 67], abs=2)


def test_water_without_a_drop_is_dark():
    with np.errstate(all="raise"):
        assert (corruptions._water(np.zeros((2, 32, 32), int)) == 0).all()
        assert np.isfinite(corruptions._water(np.full((1, 32, 32), 200))).all()


def test_water_is_lit_from_one_side():
    """A large drop that runs out of the image: its light by the definitions, point by point."""
    liquid = np.zeros((1, 32, 32), int)
    liquid[0, 3:, 2:30] = 200
    found = corruptions._water(liquid)[0]
    edge = [(y, x) for y in range(3, 32) for x in range(2, 30) if y == 3 or x in (2, 29)]
    rows, columns = np.indices((32, 32))
    distance = np.min([np.hypot(rows - y, columns - x) for y, x in edge], axis=0)
    distance = np.minimum(distance, 20)[..., None]
    mean = np.floor(blurred(distance, np.full((3, 3), 1 / 9), "reflect") + 1e-6).astype(int)
    least = (mean == mean.min()).sum()
    ranks = [((mean <= level).sum() - least) * 255 / (1024 - least) for level in mean.ravel()]
    equal = np.rint(ranks).reshape(mean.shape)
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.clip(blurred(equal, kernel, "reflect"), 0, 255)
    lit = np.rint(blurred(lit, np.full((3, 3), 1 / 9), "reflect"))[..., 0] * liquid[0]
    np.testing.assert_allclose(found, lit / lit.max(), atol=1e-9)


def test_histograms_are_equalised_as_opencv_does():
    found = corruptions._equalised(np.array([[[5, 5], [6, 7]], [[9, 9], [9, 9]]]))
    assert found.tolist() == [[[0, 0], [128, 255]], [[9, 9], [9, 9]]]


# --------------------------------------------------------------------------------------------------
# Digital


def test_contrast_shrinks_towards_the_mean_of_each_channel():
    image = plain(0)[0]
    image[:16, :, 0] = 200
    image[:, :8, 1] = 100
    for severity, factor in zip(SEVERITIES, [0.75, 0.5, 0.4, 0.3, 0.15], strict=True):
        found = corrupt(image, "contrast", severity, 0)
        assert set(found[:16, :, 0].ravel()) == {int(100 + 100 * factor + 1e-6)}
        assert set(found[16:, :, 0].ravel()) == {int(100 - 100 * factor + 1e-6)}
        assert set(found[:, :8, 1].ravel()) == {int(25 + 75 * factor + 1e-6)}
        assert (found[..., 2] == 0).all()


@pytest.mark.parametrize(("severity", "size"), list(enumerate([30, 28, 27, 24, 20], 1)))
def test_pixelate_is_pillows_box(severity, size):
    image = pictures(1)[0]
    box = Image.Resampling.BOX
    wanted = Image.fromarray(image).resize((size, size), box).resize((32, 32), box)
    assert np.array_equal(corrupt(image, "pixelate", severity, 0), wanted)


@pytest.mark.parametrize(("severity", "quality"), list(enumerate([80, 65, 58, 50, 40], 1)))
def test_jpeg_compression_is_pillows(severity, quality):
    image, file = pictures(1)[0], io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=quality)
    assert np.array_equal(corrupt(image, "jpeg_compression", severity, 0), Image.open(file))


@pytest.mark.parametrize(
    ("severity", "strength", "sigma", "corners"),
    [(1, 0, 0, 2.56), (2, 1.6, 6.4, 2.24), (5, 3.2, 0.96, 0.96)],
)
def test_elastic_transform_by_scipy(severity, strength, sigma, corners):
    """Forth instead of back, channel by channel, with scipy's interpolation at every point."""
    for number, image in enumerate(pictures(3)):
        draw = stream("elastic_transform", number)
        old = np.array([(26, 26, 1), (26, 6, 1), (6, 6, 1)])
        new = old[:, :2] + draw.uniform(-corners, corners, (3, 2))
        forth = np.vstack([np.linalg.solve(old, new).T, (0, 0, 1)])
        rows, columns = np.indices((32, 32))
        x, y, _ = np.linalg.inv(forth) @ (columns.ravel(), rows.ravel(), np.ones(1024))
        right, down = (
            strength
            * ndimage.gaussian_filter(
                draw.uniform(-1, 1, (32, 32)), sigma, mode="reflect", truncate=3
            )
            for _ in range(2)
        )
        wanted = np.empty((32, 32, 3))
        for channel in range(3):
            turned = ndimage.map_coordinates(
                image[..., channel] / 255, (y, x), order=1, mode="mirror"
            ).reshape(32, 32)
            wanted[..., channel] = ndimage.map_coordinates(
                turned, (rows + down, columns + right), order=1, mode="reflect"
            )
        found = corrupt(image, "elastic_transform", severity, number)
        assert np.array_equal(found, levels(wanted))
        assert found.mean() == pytest.approx(image.mean(), abs=12)


# --------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((2, 32, 32, 3)), "float64, 2 x 32 x 32 x 3"),
        (np.zeros((2, 28, 28, 3), np.uint8), "uint8, 2 x 28 x 28 x 3"),
        (np.zeros((2, 3, 32, 32), np.uint8), "uint8, 2 x 3 x 32 x 32"),
        (np.zeros((32, 32, 3), np.uint8), "uint8, 32 x 32 x 3"),
    ],
)
def test_other_images_are_refused(images, got):
    with pytest.raises(UserError, match=f"defined for 32 x 32 RGB images .*: got {got}$"):
        corrupted(images, "contrast", 1)


def test_unknown_names_and_severities_are_refused():
    with pytest.raises(UserError, match=r"'rain' is no corruption; .*gaussian_noise, .* saturate$"):
        corrupted(plain(0), "rain", 1)
    for severity in (0, 6, 2.5, "3"):
        with pytest.raises(UserError, match=r"choose 1 .* to 5"):
            corrupt(plain(0)[0], "contrast", severity, 0)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(digests(), indent=1) + "\n")
