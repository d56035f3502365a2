"""Annotated masks, perturbed and placed, or drawn by hand → one mask set for each synthetic image to come."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.pool import defect_free_pool
from defect_pipeline.assets.stage import Build, stage
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.crops import Crop, defect_crops, windows
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.io import read_image
from defect_pipeline.imaging.masks import (
    SHIFT,
    Vary,
    component_mask,
    decode,
    encode,
    instances_of,
    like_annotated,
    read_hand_drawn,
    sample_masks,
)
from defect_pipeline.imaging.placement import Placement
from defect_pipeline.imaging.shapes import ShapeModel
from defect_pipeline.imaging.sheets import contact_sheet, overlay
from defect_pipeline.imaging.subsets import Subset
from defect_pipeline.lazy import pd
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import Drivers, Masks, Profile


@dataclass(frozen=True)
class BankEntry:
    """A pool image (path within the pool) and the masks [(category, (S, S) bool)] to paint on it."""

    background: str
    masks: list[tuple[str, np.ndarray]]

    def mask(self) -> np.ndarray:
        """(S, S) bool: the union of all masks."""
        return np.any([mask for _, mask in self.masks], axis=0)


def annotated(settings: Profile, seed: int) -> Subset:
    """The train images of a class that masks and generator are made from."""
    return Subset(("train",), "own class", "ranked", most=settings.drivers.images, seed=seed)


def drawings_digest(pipeline: Pipeline) -> str:
    """sha256 over what was drawn by hand, so that a redrawn mask or map is noticed."""
    digest = hashlib.sha256()
    for folder in (Path(named) for named in (pipeline.drawn_masks, pipeline.placement_maps) if named):
        if not folder.is_dir():
            raise PipelineError(
                f"{folder} is no folder: name the one that holds what you drew, or leave the option out."
            )
        for file in sorted(folder.rglob("*.png")):
            digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()


def _drawn(folder: str, name: str) -> Path | None:
    """Where something drawn by hand would lie; None without a folder, and for a class whose name leads out of it."""
    return Path(folder) / name if folder and name not in ("", "..") and Path(name).name == name else None


@stage(
    parents=(inspection_images, defect_free_pool),
    settings=("masks", "drivers"),
    options=("drawn_masks", "placement_maps"),
    files=drawings_digest,
    images=annotated,
    group="drivers",
    kinds={"opencv"},
    partitioned=True,
    version="2",
)
def mask_bank(build: Build) -> None:
    """Where the synthetic defects of a class go: train masks, perturbed, or of a shape model, or drawn ones."""
    k, masks, drivers = build.defect_class, build.settings.masks, build.settings.drivers
    pool, n = build.read(defect_free_pool).path, masks.per_class
    backgrounds = sorted(path.relative_to(pool).as_posix() for path in (pool / "images").glob("*.png"))
    rng = np.random.default_rng([build.seed, *k.encode()])
    chosen = [backgrounds[i] for i in rng.permutation(max(n, len(backgrounds)))[:n] % len(backgrounds)]
    drawn, painted = _drawn(build.options.drawn_masks, k), _drawn(build.options.placement_maps, f"{k}.png")
    if drawn and drawn.is_dir():
        by_hand = read_hand_drawn(drawn, drivers.size)
        sets = [instances_of(by_hand[i % len(by_hand)]) for i in range(n)]
        strategy = "drawn by hand (ii)"
    else:
        crops = mask_sources(build.dataset, k, masks.framing, drivers, build.seed + 1)
        sources = [[mask for name, mask in crop.masks if name == k] for crop in crops]
        likely = _likely(crops, k, masks.placement, painted)
        vary = _vary(sources, masks)
        chosen, sets = _placed(pool, chosen, sources, n, rng, likely=likely, vary=vary)
        strategy = masks.strategy
    bank = [BankEntry(path, [(k, mask) for mask in own]) for path, own in zip(chosen, sets, strict=True)]
    write_bank(build, bank, pool, strategy)


def write_bank(build: Build, bank: list[BankEntry], pool: Path, strategy: str) -> None:
    """Fill the artifact with entries whose backgrounds lie in ``pool``; ``strategy`` says where they come from."""
    rows = [
        {"driver": k, "background": entry.background, "category": category, "counts": encode(mask), "side": len(mask)}
        for k, entry in enumerate(bank)
        for category, mask in entry.masks
    ]
    pd.DataFrame(rows).to_parquet(build.path / "masks.parquet")
    areas = [float(entry.mask().mean() * 100) for entry in bank]
    build.metadata |= {
        "mask sets": len(bank),
        "instances": len(rows),
        "strategy": strategy,
        "median area in %": float(np.median(areas)),
    }
    shown = [overlay(read_image(pool / entry.background), entry.masks, build.colours) for entry in bank[:18]]
    build.picture("masks on the pool", contact_sheet(shown, columns=6))


def read_placement(path: Path, size: int) -> np.ndarray:
    """A hand-drawn map, (size, size) float32: the brighter, the likelier. Raises PipelineError when it is all black."""
    grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
    if not grey.any():
        raise PipelineError(f"{path} is black: paint where the defect may occur, the brighter the likelier.")
    return cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def read_bank(directory: Path) -> list[BankEntry]:
    """The entries of a `mask_bank` artifact, one for each synthesis driver, in order."""
    table = pd.read_parquet(directory / "masks.parquet")
    return [
        BankEntry(
            rows["background"].iloc[0],
            [
                (category, decode(counts, side, side))
                for category, counts, side in rows[["category", "counts", "side"]].itertuples(index=False)
            ],
        )
        for _, rows in table.groupby("driver")
    ]


def _placed(
    pool: Path,
    backgrounds: list[str],
    sources: list[list[np.ndarray]],
    n: int,
    rng: np.random.Generator,
    *,
    likely: Callable[[np.ndarray], np.ndarray | None],
    vary: Vary,
) -> tuple[list[str], list[list[np.ndarray]]]:
    """n backgrounds with a mask set each; a background that shows too little of the component is passed over.

    Raises PipelineError when nothing fits anywhere.
    """
    chosen: list[str] = []
    sets: list[list[np.ndarray]] = []
    unfit: set[str] = set()
    for path in itertools.cycle(backgrounds):
        if len(sets) == n:
            return chosen, sets
        image = read_image(pool / path)
        places = likely(image)
        movable, shift = (sources, SHIFT) if places is None else (_whole(sources), 1.0)
        try:
            sets += sample_masks(movable, component_mask(image), 1, rng, shift=shift, vary=vary, likely=places)
            chosen.append(path)
        except PipelineError:
            unfit.add(path)
            if unfit.issuperset(backgrounds):
                raise
    return chosen, sets


def _whole(sources: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Those that the edge of the picture does not cut, for where it does they stay; all where there are no others."""
    inside = (slice(1, -1), slice(1, -1))
    return [s for s in sources if all(mask[inside].sum() == mask.sum() for mask in s)] or sources


def _vary(sources: list[list[np.ndarray]], settings: Masks) -> Vary:
    """What makes a new instance of an annotated one."""
    if settings.strategy == "shape model":
        return ShapeModel.fit([mask for masks in sources for mask in masks]).vary
    return like_annotated(settings.sizes)


def _likely(
    crops: list[Crop], defect_class: str, placement: str, drawn: Path | None
) -> Callable[[np.ndarray], np.ndarray | None]:
    """A background to the map of likely places on it: drawn by hand or learned; None where all are alike."""
    if drawn and drawn.is_file():
        return lambda image: read_placement(drawn, image.shape[0])
    if placement == "learned":
        return Placement.fit((crop.image, crop.class_mask(defect_class)) for crop in crops).map
    return lambda image: None


def mask_sources(dataset: Dataset, defect_class: str, framing: str, drivers: Drivers, seed: int) -> list[Crop]:
    """Crops, or windows, of the train images that show this class. Raises PipelineError without any."""
    train = [i for i in dataset.of_class(defect_class) if dataset.images.at[i, "split"] == "train"]
    if framing == "windows":
        seen = (window for i in train for window in windows(dataset, i, drivers.size))
        crops = [window for window in seen if any(name == defect_class for name, _ in window.masks)]
    else:
        crops = list(
            defect_crops(
                dataset, train, defect_class, drivers.size, per_image=drivers.crops, zoom=drivers.zoom, seed=seed
            )
        )
    if not crops:
        raise PipelineError(
            f"Class {defect_class!r} has no train image with a visible defect under {dataset.root}; annotate more "
            "images of it, or take the class out."
        )
    return crops
