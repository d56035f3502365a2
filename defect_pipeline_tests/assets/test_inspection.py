"""What a look at the images costs when some have joined, and that half of the annotations are never taken for all."""

import json
import shutil
import time
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.automation.assets import asset_of
from defect_pipeline.automation.sensor import Snapshot, reason_to_wait
from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging import descriptions
from defect_pipeline.imaging.groups import Description, describe
from defect_pipeline.imaging.ingest import scan
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import EMBEDDED
from defect_pipeline.store import Store


def add(folder: Path, *stems: str) -> None:
    """Photographs of 64 x 64 px of noise, each with a mask."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 10:30] = 255
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        noise = np.random.default_rng(list(f"{folder.name}{stem}".encode())).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{stem}.jpg")
        Image.fromarray(mask).save(folder / f"{stem}.png")


def test_ten_images_that_join_are_ten_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(image: np.ndarray) -> Description:
        calls.append(image.shape)
        return describe(image)

    def look() -> dg.MaterializeResult:
        resources = {
            "store": Store(root=str(tmp_path / "store")),
            "pipeline": Pipeline(settings=EMBEDDED, data=str(tmp_path / "data")),
        }
        with dg.DagsterInstance.ephemeral() as instance:
            assert dg.materialize(
                [asset_of(inspection_images, resources["pipeline"])], resources=resources, instance=instance
            ).success
        return resources["store"].current("inspection_images").metadata

    monkeypatch.setattr(descriptions, "describe", counting)
    add(tmp_path / "data" / "pit", *"abcdef")
    add(tmp_path / "data" / "fray", *"abcdef")
    (tmp_path / "data" / "pit" / "f.jpg").write_bytes(b"damaged")
    assert look()["images"] == len(calls) == 11
    calls.clear()
    add(tmp_path / "data" / "fray", *"ghijklmnop")
    assert look()["images"] == 21 and len(calls) == 10
    calls.clear()
    (tmp_path / "data" / "pit" / "a.jpg").unlink()
    (tmp_path / "data" / "pit" / "a.png").unlink()
    metadata = look()
    assert metadata["images"] == 20 and metadata["rejected"] == 1 and not calls
    kept = list(Store(root=str(tmp_path / "store")).cache("inspection_images").iterdir())
    assert len(kept) == 20 + 1  # the gallery


def test_a_data_folder_that_was_moved_keeps_its_split_and_another_one_does_not(tmp_path: Path) -> None:
    store, data = Store(root=str(tmp_path / "store")), tmp_path / "data"
    for name in ("pit", "fray"):
        add(data / name, *"abcdefghij")

    def look(folder: Path, seed: int) -> dict[str, str]:
        resources = {"store": store, "pipeline": Pipeline(settings=EMBEDDED, data=str(folder), seed=seed)}
        with dg.DagsterInstance.ephemeral() as instance:
            assert dg.materialize(
                [asset_of(inspection_images, resources["pipeline"])], resources=resources, instance=instance
            ).success
        dataset = open_dataset(store.current("inspection_images"))
        assert dataset.root == folder
        return dict(dataset.images[["path", "split"]].itertuples(index=False, name=None))

    first = look(data, 0)
    other = look(shutil.copytree(data, tmp_path / "other"), 1)  # beside it
    assert first != other
    (tmp_path / "other").rename(tmp_path / "moved")
    assert look(tmp_path / "moved", 2) == other


def test_half_written_annotations_leave_the_last_good_table(tmp_path: Path) -> None:
    data, store = tmp_path / "data", Store(root=str(tmp_path / "store"))
    add(data, *"abcdef")
    square = [[10, 20, 30, 20, 30, 40, 10, 40]]
    document = {
        "images": [{"id": i, "file_name": f"{stem}.jpg"} for i, stem in enumerate("abcdef")],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "segmentation": square} for i in range(6)],
        "categories": [{"id": 1, "name": "pit"}],
    }
    file = data / "annotations.json"

    def look() -> None:
        resources = {"store": store, "pipeline": Pipeline(settings=EMBEDDED, data=str(data))}
        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize([asset_of(inspection_images, resources["pipeline"])], resources=resources, instance=instance)

    file.write_text(json.dumps(document))
    look()
    good = store.current("inspection_images")
    file.write_text(json.dumps(document)[:400])
    seen = {file.name: scan(data)[file.name]}
    assert "annotations.json: still being copied" in (reason_to_wait(Snapshot.of(seen), seen, time.time_ns()) or "")
    with pytest.raises(PipelineError, match=r"annotations\.json: is not valid JSON \(line 1.*export it again"):
        look()
    assert store.current("inspection_images") == good
    file.write_text(json.dumps(document))
    look()
    assert store.current("inspection_images").metadata["content"] == good.metadata["content"]
