"""Masks must survive encoding, perturbation and placement: the mask is the annotation of a synthetic image."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.geometry import crop_resize, square_crop
from defect_pipeline.imaging.io import read_image, read_mask
from defect_pipeline.imaging.masks import (
    bbox,
    component_mask,
    decode,
    encode,
    instances_of,
    perturb_shape,
    read_hand_drawn,
    resized,
    sample_masks,
)

TILES = Path(__file__).parents[3] / "shared/data/magnetic-tile"
SIZE = 96


def _crack(*points: tuple[int, int], width: int = 1) -> np.ndarray:
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(canvas, [np.array(points)], False, 1, width)
    return canvas.astype(bool)


def _disc(x: int, y: int, radius: int) -> np.ndarray:
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(canvas, (x, y), radius, 1, -1)
    return canvas.astype(bool)


def _ring() -> np.ndarray:
    return _disc(48, 48, 14) & ~_disc(48, 48, 7)


SHAPES = {
    "crack": _crack((20, 20), (45, 50), (50, 80)),
    "disc": _disc(40, 50, 12),
    "ring": _ring(),
    "pit": _disc(70, 30, 1),
    "pixel": _disc(10, 80, 0),
    "edge": _disc(0, 50, 12),
    "corner": _disc(95, 95, 15),
    "band": np.arange(SIZE)[:, None] + np.zeros((1, SIZE), int) > 70,
}


def _pieces(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1


def _regions_of_the_rest(mask: np.ndarray) -> int:
    return cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4)[0] - 1


def test_code_is_json_text_that_pycocotools_reads() -> None:
    mask = np.random.default_rng(0).random((17, 31)) < 0.4
    counts = json.loads(json.dumps(encode(mask)))
    assert (decode(counts, 17, 31) == mask).all() and decode(counts, 17, 31).dtype == bool
    assert rle.area({"size": [17, 31], "counts": counts}) == mask.sum()


def test_instances_touch_at_corners_and_specks_can_be_left_out() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[1:3, 1:3] = mask[3, 3] = True  # joined by a corner: one instance
    mask[7, 9] = True
    areas = sorted(int(instance.sum()) for instance in instances_of(mask))
    assert areas == [1, 5]
    assert [int(instance.sum()) for instance in instances_of(mask, min_area=2)] == [5]
    assert (np.any(instances_of(mask), axis=0) == mask).all()
    assert instances_of(np.zeros((4, 4), dtype=bool)) == []


def test_bbox_agrees_with_pycocotools() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:10] = True
    assert bbox(mask) == [3, 2, 7, 3] == rle.toBbox({"size": [10, 12], "counts": encode(mask)}).tolist()
    assert all(type(side) is int for side in bbox(mask))
    assert bbox(mask & False) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", SHAPES)
def test_perturbed_shape_keeps_topology_area_and_place(name: str) -> None:
    shape = SHAPES[name]
    for seed in range(20):
        changed = perturb_shape(shape, np.random.default_rng(seed))
        assert changed.shape == shape.shape and changed.dtype == bool
        assert _pieces(changed) == _pieces(shape) == 1
        assert _regions_of_the_rest(changed) == _regions_of_the_rest(shape)
        assert 0.5 <= changed.sum() / shape.sum() <= 2
        moved = np.argwhere(changed).mean(axis=0) - np.argwhere(shape).mean(axis=0)
        assert np.abs(moved).max() < 0.15 * SIZE


@pytest.mark.parametrize("name", ["crack", "disc", "edge", "band"])
def test_perturbed_shapes_differ_and_repeat_with_the_seed(name: str) -> None:
    codes = [[encode(perturb_shape(SHAPES[name], np.random.default_rng(seed))) for seed in range(10)] for _ in range(2)]
    assert codes[0] == codes[1]
    assert len(set(codes[0]) - {encode(SHAPES[name])}) >= 9


@pytest.mark.parametrize("factor", [0.4, 0.7, 1.0, 1.3, 1.5])
@pytest.mark.parametrize("name", ["crack", "disc", "ring", "pit", "edge"])
def test_resized_shapes_keep_place_and_topology(name: str, factor: float) -> None:
    shape = SHAPES[name]
    changed = resized(shape, factor)
    assert changed.shape == shape.shape and changed.dtype == bool
    assert _pieces(changed) == 1 and _regions_of_the_rest(changed) == _regions_of_the_rest(shape)
    if factor == 1:
        assert np.array_equal(changed, shape)
    if name in ("crack", "disc"):
        (x, y, w, h), (was_x, was_y, was_w, was_h) = bbox(changed), bbox(shape)
        assert (w, h) == pytest.approx((factor * was_w, factor * was_h), abs=1.5)
        assert (x + w / 2, y + h / 2) == pytest.approx((was_x + was_w / 2, was_y + was_h / 2), abs=1)
    if name == "disc":
        assert changed.sum() == pytest.approx(factor**2 * shape.sum(), rel=0.35)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_resized_shapes_stay_cut_where_they_are_cut(factor: float) -> None:
    band, edge = SHAPES["band"], SHAPES["edge"]
    assert resized(edge, factor)[:, 0].any() and bbox(resized(edge, factor))[0] == 0
    x, _, w, _ = bbox(resized(band, factor))
    assert (x, w) == (0, SIZE)  # from edge to edge, as before
    assert resized(band, factor).sum() == pytest.approx(factor * band.sum(), rel=0.2)


@pytest.mark.parametrize("seed", range(10))
def test_a_shape_cut_by_the_edge_stays_cut_by_it(seed: int) -> None:
    band = perturb_shape(SHAPES["band"], np.random.default_rng(seed))
    assert band[-1].all() and band[:, 0].any() and band[:, -1].any()
    assert perturb_shape(SHAPES["edge"], np.random.default_rng(seed))[:, 0].sum() > 10


def test_samples_lie_inside_the_component_and_apart() -> None:
    component = _disc(48, 48, 40)
    sources = [[_disc(30, 30, 5), _crack((50, 50), (60, 75))], [_disc(60, 40, 8)]]
    samples = sample_masks(sources, component, 40, np.random.default_rng(1))
    assert len(samples) == 40
    assert sorted({len(instances) for instances in samples}) == [1, 2]
    for instances in samples:
        assert all(_pieces(mask) == 1 and not (mask & ~component).any() for mask in instances)
        assert _pieces(np.any(instances, axis=0)) == len(instances)


def test_what_does_not_fit_is_cut_to_the_component() -> None:
    component = np.zeros((SIZE, SIZE), dtype=bool)
    component[30:67] = True  # a little too low for the disc
    for (mask,) in sample_masks([[_disc(48, 48, 20)]], component, 10, np.random.default_rng(5)):
        assert mask.sum() > 300 and not (mask & ~component).any()


def test_every_source_is_used_equally_often() -> None:
    sources = [[_disc(48, 48, radius)] for radius in (2, 7, 16)]
    samples = sample_masks(sources, np.ones((SIZE, SIZE), dtype=bool), 30, np.random.default_rng(2))
    areas = np.array([instances[0].sum() for instances in samples])
    assert np.count_nonzero(areas < 45) == np.count_nonzero(areas > 350) == 10


def test_samples_differ_and_repeat_with_the_seed() -> None:
    everywhere = np.ones((SIZE, SIZE), dtype=bool)
    drawn = [sample_masks([[SHAPES["crack"]]], everywhere, 12, np.random.default_rng(3)) for _ in range(2)]
    codes = [[encode(instances[0]) for instances in samples] for samples in drawn]
    assert codes[0] == codes[1] and len(set(codes[0])) == 12


def test_a_shape_cut_by_the_edge_slides_along_an_edge() -> None:
    everywhere = np.ones((SIZE, SIZE), dtype=bool)
    for (mask,) in sample_masks([[SHAPES["edge"]]], everywhere, 20, np.random.default_rng(4)):
        assert mask[:, 0].sum() > 10 or mask[:, -1].sum() > 10


def test_a_shape_away_from_the_edge_is_not_moved_onto_it() -> None:
    everywhere = np.ones((SIZE, SIZE), dtype=bool)
    for (mask,) in sample_masks([[SHAPES["disc"]]], everywhere, 20, np.random.default_rng(4), shift=1.0):
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()


def test_nothing_fits_is_an_error_with_a_remedy() -> None:
    with pytest.raises(PipelineError, match="annotate more images"):
        sample_masks([[_disc(48, 48, 20)]], _disc(48, 48, 3), 2, np.random.default_rng(0))
    with pytest.raises(PipelineError, match="0 source masks"):
        sample_masks([], _disc(48, 48, 3), 2, np.random.default_rng(0))


def test_hand_drawn_masks_come_in_order_at_the_size_asked_for(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "b.png"), _disc(50, 40, 10).astype(np.uint8) * 255)
    wide = np.zeros((200, 600, 3), np.uint8)
    wide[20:180, 590] = 255  # one pixel wide, at the far end
    cv2.imwrite(str(tmp_path / "a.PNG"), wide)
    (tmp_path / "notes.txt").write_text("not a mask")
    crack, disc = read_hand_drawn(tmp_path, SIZE)
    assert (disc == _disc(50, 40, 10)).all()
    assert crack.shape == (SIZE, SIZE) and _pieces(crack) == 1 and crack.any(axis=1).sum() > 70


def test_a_hand_drawn_mask_without_a_drawing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="holds no PNG"):
        read_hand_drawn(tmp_path, SIZE)
    cv2.imwrite(str(tmp_path / "blank.png"), np.zeros((50, 50), np.uint8))
    with pytest.raises(PipelineError, match="blank.png is empty"):
        read_hand_drawn(tmp_path, SIZE)
    (tmp_path / "blank.png").write_bytes(b"no picture")
    with pytest.raises(PipelineError, match="blank.png"):
        read_hand_drawn(tmp_path, SIZE)


def _surface(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(130, 25, (SIZE, SIZE))
    return np.repeat(np.clip(noise, 0, 255)[..., None], 3, axis=2).astype(np.uint8)


def test_component_is_what_the_field_stop_leaves_free() -> None:
    stop = _disc(48, 48, 38)
    image = np.where(stop[..., None], _surface(0), 6).astype(np.uint8)
    image[44:52, 44:52] = 0  # a hole in the component belongs to it: no background reaches it
    image[30:66, 71:74] = image[64:67, 71:] = 0  # and so does a groove that runs into the field stop
    found = component_mask(image)
    assert np.count_nonzero(found != stop) < 0.06 * stop.sum()
    assert found[48, 48] and found[40:60, 72].all() and not found[0, 0]


def test_without_a_clear_background_all_is_component() -> None:
    assert component_mask(_surface(1)).all()
    assert component_mask(np.zeros((SIZE, SIZE, 3), np.uint8)).all()
    scratched = _surface(2)
    scratched[:30, 40] = 5  # a dark scratch that reaches the edge
    assert component_mask(scratched).all()


@pytest.mark.parametrize("category", ["MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven"])
def test_real_masks_are_placed_on_real_tiles(category: str) -> None:
    if not TILES.is_dir():
        pytest.skip("magnetic-tile data is not here")
    masks = [read_mask(path) for path in sorted((TILES / category / "Imgs").glob("*.png"))[::8]]
    sources = [instances_of(crop_resize(mask, square_crop(mask.shape, mask), 128)) for mask in masks if mask.any()]
    rng = np.random.default_rng(0)
    for path in sorted((TILES / "MT_Free" / "Imgs").glob("*.jpg"))[::120]:
        image = read_image(path)
        component = component_mask(crop_resize(image, square_crop(image.shape), 128))
        assert component.mean() > 0.5
        for instances in sample_masks(sources, component, 3, rng):
            assert all(mask.any() and not (mask & ~component).any() for mask in instances)
