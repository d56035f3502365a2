"""A store as a run leaves it that was stopped before its classes were joined; made by hand, in no time."""

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from defect_pipeline.assets.copying import Copying
from defect_pipeline.assets.fid import Report
from defect_pipeline.evaluation.distances import Moments, compare
from defect_pipeline.evaluation.faithfulness import twin_figures
from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.dataset import INSTANCE_COLUMNS, Dataset
from defect_pipeline.imaging.masks import encode
from defect_pipeline.store import Store
from defect_pipeline.workplace import Workplace

SIZE, IMAGES = 64, 8
NASTY = "<script>alert('1')</script>"
REJECTED = {"path": "<img src=x onerror=alert(2)>.png", "reason": 'is no "image"', "remedy": "give it <again>"}
MASK = np.zeros((SIZE, SIZE), bool)
MASK[20:40, 10:30] = True
DIGEST = "0123456789abcdef"


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def stopped(tmp_path: Path) -> Workplace:
    """Classes "pit" and NASTY; of each the images 6 and 7 were rejected, and image k lies k from the train images."""
    place = Workplace(tmp_path / "store", data=str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    place.open()
    classes = tuple(sorted(("pit", NASTY)))
    with place.store.create("inspection_images", DIGEST) as draft:
        dataset(tmp_path / "data", classes).save(draft.path)
        draft.metadata |= {"root": str(tmp_path / "data"), "content": "c0ffee", "code_version": "1", "seed": 0}
    for number, k in enumerate(classes):
        write_class(place.store, classes, k, 100 * number)
    return place


def dataset(root: Path, classes: tuple[str, ...]) -> Dataset:
    images, instances = [], []
    for number in range(4 * len(classes)):
        name = f"{number}.png"
        cv2.imwrite(str(root / name), picture(1000 + number))
        images.append(
            {"path": name, "sha256": f"{number:064x}", "width": SIZE, "height": SIZE, "defect_class": classes[number % len(classes)],
             "group": str(number), "split": "train" if number < 4 else "test"}
        )  # fmt: skip
        row = (number + 1, classes[number % len(classes)], encode(MASK), int(MASK.sum()), [10, 20, 20, 20], "mask", 0)
        instances.append(dict(zip(INSTANCE_COLUMNS, row, strict=True)))
    index = pd.RangeIndex(1, len(images) + 1, name="image_id")
    return Dataset(root, pd.DataFrame(images, index=index), pd.DataFrame(instances), classes, pd.DataFrame([REJECTED]))


def write_class(store: Store, classes: tuple[str, ...], k: str, seed: int) -> None:
    names = [f"{n:04d}_00.png" for n in range(IMAGES)]
    made_from = {"sadf_images": DIGEST}
    with store.create("sadf_images", DIGEST, k) as draft:
        (draft.path / "images").mkdir()
        for n, name in enumerate(names):
            cv2.imwrite(str(draft.path / "images" / name), picture(seed + n))
        write_coco(draft.path, names, k, classes)
    numbers = np.arange(IMAGES, dtype=float)
    twins = pd.DataFrame(
        {"inside": 20 - numbers, "ratio": 10 - numbers, "ratio_near": 3.0, "area": 0.1, "image": names}
    )
    with store.create("faithfulness_report", DIGEST, k, parents=made_from) as draft:
        twins.to_parquet(draft.path / "twins.parquet")
        (draft.path / "report.json").write_text(json.dumps(asdict(twin_figures(twins))))
        (draft.path / "pictures").mkdir()
        cv2.imwrite(str(draft.path / "pictures" / "best.png"), picture(seed))
    copies = pd.DataFrame(
        {"image": names, "copy": False, "feature_distance": numbers, "hash_distance": 9, "nearest": "a"}
    )
    with store.create("copy_report", DIGEST, k, parents=made_from) as draft:
        copies.to_parquet(draft.path / "copies.parquet")
        report = Copying(0.0, float("nan"), float("nan"), 3.5, 0.2, IMAGES, 2)
        (draft.path / "report.json").write_text(json.dumps(asdict(report)))
    with store.create("sadf_accepted", DIGEST, k, parents=made_from) as draft:
        reasons = ["unseen" if n > 5 else "" for n in range(IMAGES)]
        twins.merge(copies, on="image").assign(on_component=1.0, reason=reasons).to_parquet(
            draft.path / "verdicts.parquet"
        )
        write_coco(draft.path, names[:6], k, classes)
        draft.metadata |= {"accepted": 6, "images": IMAGES}
    rng = np.random.default_rng(seed)
    real, synthetic = (rng.normal(size=(n, 4)) for n in (6, IMAGES))
    with store.create("fid_report", DIGEST, k, parents=made_from | {"sadf_accepted": DIGEST}) as draft:
        found = compare(real, synthetic, extractor="a net", seed=0, resamples=50, halvings=5)
        (draft.path / "report.json").write_text(json.dumps(asdict(Report(found, found, found))))
        for name, part in (("held_out", real), ("accepted", synthetic)):
            Moments.of(part).save(draft.path / f"{name}.npz")


def write_coco(folder: Path, names: list[str], k: str, classes: tuple[str, ...]) -> None:
    records = [{"file_name": f"images/{name}", "width": SIZE, "height": SIZE} for name in names]
    (folder / "annotations.json").write_text(json.dumps(coco_dict(records, [[(k, MASK)]] * len(names), classes)))
