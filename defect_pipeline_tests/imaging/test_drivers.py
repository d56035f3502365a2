"""The driver contract, and that no driver tells whether the image behind it was defective."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from defect_pipeline.imaging.drivers import (
    BACKGROUND_MAX,
    background,
    class_colours,
    driver,
    driver_problems,
    without_defects,
)
from defect_pipeline.imaging.geometry import crop_resize, resize_mask, square_crop
from defect_pipeline.imaging.io import read_image, read_mask

TILES = Path(__file__).parents[3] / "shared/data/magnetic-tile"
COLOURS = class_colours(["burn", "crack", "pit"])
SIDE, SIZE = 256, 128


def _surface(seed: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: shading, a seam and grain."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.normal(0, 30, (5, 5)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    grey = 130 + coarse + rng.normal(0, 8, (SIDE, SIDE))
    seam = int(rng.integers(40, 216))
    grey[:, seam : seam + 6] -= 50
    return np.repeat(np.clip(grey, 0, 255)[..., None], 3, axis=2).astype(np.uint8)


def _disc(x: int, y: int, radius: int) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(canvas, (x, y), radius, 1, -1)
    return canvas.astype(bool)


def _auc(first: list[float], second: list[float]) -> float:
    a, b = np.array(first)[:, None], np.array(second)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def test_colours_are_vivid_distinct_and_those_of_their_rank() -> None:
    colours = class_colours([str(rank) for rank in range(12)])
    assert all(max(colour) == 255 and min(colour) == 0 for colour in colours.values())
    apart = [np.abs(np.subtract(a, b)).max() for a, b in combinations(colours.values(), 2)]
    assert min(apart) > BACKGROUND_MAX
    assert list(class_colours(["x", "y", "z"]).values()) == list(colours.values())[:3]


@pytest.mark.parametrize("size", [64, 128, 256])
def test_background_is_structure_within_its_range(size: int) -> None:
    structure = background(_surface(0), size)
    assert structure.shape == (size, size) and structure.dtype == np.uint8
    assert structure.min() == 0 and structure.max() == BACKGROUND_MAX
    assert 0.02 < (structure < 25).mean() < 0.5


def test_background_follows_edges_and_not_exposure_or_grain() -> None:
    image = np.full((SIDE, SIDE, 3), 140, np.uint8)
    image[:, 120:128] = 90
    clean = background(image, SIZE)
    grain = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 1))
    noisy = np.clip(image + grain, 0, 255).astype(np.uint8)
    dim = np.clip(noisy * 0.5, 0, 255).astype(np.uint8)
    for view in (clean, background(noisy, SIZE), background(dim, SIZE)):
        assert view[:, 61:63].max() < 10 and (view[:, :50] == BACKGROUND_MAX).mean() > 0.97


def test_an_even_surface_has_no_structure() -> None:
    grain = np.random.default_rng(0).normal(120, 2, (SIDE, SIDE, 1)).repeat(3, axis=2)
    assert (background(grain.astype(np.uint8), SIZE) == BACKGROUND_MAX).mean() > 0.99


def test_masks_are_painted_in_their_colour_and_the_smaller_on_top() -> None:
    burn, crack = _disc(128, 128, 40), _disc(128, 128, 5)
    painted = driver(_surface(1), [("crack", crack), ("burn", burn)], SIZE, COLOURS)
    small = resize_mask(crack, (SIZE, SIZE))
    assert (painted[small] == COLOURS["crack"]).all()
    assert (painted[resize_mask(burn, (SIZE, SIZE)) & ~small] == COLOURS["burn"]).all()
    assert driver_problems(painted, COLOURS) == []


def test_driver_survives_a_png(tmp_path: Path) -> None:
    painted = driver(_surface(1), [("pit", _disc(60, 60, 9))], SIZE, COLOURS)
    cv2.imwrite(str(tmp_path / "driver.png"), painted[..., ::-1])
    assert (read_image(tmp_path / "driver.png") == painted).all()


def test_driver_refuses_what_would_be_bent_or_floored() -> None:
    with pytest.raises(ValueError, match="crop them first"):
        driver(_surface(0)[:, :200], [], SIZE, COLOURS)
    with pytest.raises(ValueError, match="crop them first"):
        driver(_surface(0), [("pit", _disc(60, 60, 9)[:100])], SIZE, COLOURS)
    with pytest.raises(ValueError, match="multiple of 8"):
        driver(_surface(0), [], 100, COLOURS)


def test_every_breach_of_the_contract_is_found() -> None:
    sound = driver(_surface(0), [("pit", _disc(60, 60, 9))], SIZE, COLOURS)
    assert driver_problems(sound, COLOURS) == []
    assert "multiples of 8" in driver_problems(sound[:-3], COLOURS)[0]
    assert "uint8" in driver_problems(sound[..., 0], COLOURS)[0]
    assert "uint8" in driver_problems(sound / 255, COLOURS)[0]
    bright, blended, tinted = sound.copy(), sound.copy(), sound.copy()
    bright[3, 4] = BACKGROUND_MAX + 1
    blended[np.all(sound == COLOURS["pit"], axis=2)] //= 2
    tinted[0, 0] = 10, 10, 11
    assert driver_problems(bright, COLOURS) == ["has 1 background pixels above 50 of 255"]
    assert "exactly a class colour" in driver_problems(blended, COLOURS)[0]
    assert "has 1 pixels that are neither" in driver_problems(tinted, COLOURS)[0]
    assert driver_problems(sound, class_colours(["burn"])), "the colour of a class of another list"


@pytest.mark.parametrize("mask", [_disc(128, 128, 3), _disc(0, 90, 30), _disc(120, 150, 100), _disc(255, 255, 12)])
def test_a_defect_below_its_mask_leaves_no_trace(mask: np.ndarray) -> None:
    clean = _surface(5)
    defective = clean.copy()
    defective[mask] = np.random.default_rng(1).integers(0, 256, (int(mask.sum()), 3))
    with_defect, without = (driver(image, [("pit", mask)], SIZE, COLOURS) for image in (defective, clean))
    assert (with_defect == without).all()
    assert (background(defective, SIZE) != background(clean, SIZE)).any(), "the defect is strong enough to show"


def test_a_mask_over_the_whole_image_leaves_nothing_to_see() -> None:
    everything = np.ones((SIDE, SIDE), dtype=bool)
    assert (driver(_surface(0), [("burn", everything)], SIZE, COLOURS) == COLOURS["burn"]).all()


def _darkness_around(structure: np.ndarray, mask: np.ndarray) -> float:
    """How dark the 3 px around the mask are, against the rest of the driver."""
    small = resize_mask(mask, (SIZE, SIZE)).astype(np.uint8)
    near = cv2.dilate(small, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))).astype(bool)
    ring = near & ~small.astype(bool)
    return float(structure[~near].mean() - structure[ring].mean())


def test_a_soft_defect_larger_than_its_mask_cannot_be_told_from_the_surroundings() -> None:
    """Real annotations end inside the halo of a defect: a statistic of the ring around the mask must not see it."""
    rng = np.random.default_rng(0)
    seen: dict[str, tuple[list[float], list[float]]] = {"hidden": ([], []), "plain": ([], [])}
    for seed in range(60):
        x, y = (int(place) for place in rng.integers(60, 196, 2))
        radius = int(rng.integers(3, 25))
        mask = _disc(x, y, radius)
        halo = cv2.GaussianBlur(_disc(x, y, radius + 3).astype(np.float32), (0, 0), 2)[..., None]
        defective = (_surface(seed) * (1 - 0.7 * halo)).astype(np.uint8)
        for place, image in enumerate((defective, _surface(1000 + seed))):
            painted = driver(image, [("pit", mask)], SIZE, COLOURS)[..., 1]
            seen["hidden"][place].append(_darkness_around(painted, mask))
            seen["plain"][place].append(_darkness_around(background(image, SIZE), mask))
    assert 0.38 < _auc(*seen["hidden"]) < 0.62
    assert _auc(*seen["plain"]) > 0.7, "without the hiding the statistic tells them apart"


def test_drivers_of_real_tiles_keep_the_contract() -> None:
    if not TILES.is_dir():
        pytest.skip("magnetic-tile data is not here")
    categories = ["MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven"]
    colours = class_colours(categories)
    for category in categories:
        for path in sorted((TILES / category / "Imgs").glob("*.jpg"))[::16]:
            image, mask = read_image(path), read_mask(path.with_suffix(".png"))
            box = square_crop(image.shape, mask)
            masks = [(category, crop_resize(mask, box, SIDE))]
            painted = driver(crop_resize(image, box, SIDE), masks, SIZE, colours)
            assert driver_problems(painted, colours) == []
            assert np.all(painted == colours[category], axis=2).any() == mask.any()


def test_without_defects_keeps_the_structure_and_shows_plain_surface_under_the_paint() -> None:
    mask = _disc(128, 128, 30)
    painted = driver(_surface(0), [("crack", mask)], SIZE, COLOURS)
    under = resize_mask(mask, (SIZE, SIZE))
    plain = without_defects(painted[None])[0]
    assert plain.dtype == np.uint8 and not driver_problems(plain, {})
    assert (plain[under] == BACKGROUND_MAX).all() and (plain[~under] == painted[~under]).all()
