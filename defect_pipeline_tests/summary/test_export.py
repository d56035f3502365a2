"""`defect-pipeline export` on a store of two classes: what is in the folder, what the card says, what is refused."""

import csv
import errno
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard

from defect_pipeline.assets.copying import Copying
from defect_pipeline.cli import main
from defect_pipeline.evaluation.distances import Comparison, Moments
from defect_pipeline.evaluation.faithfulness import TwinFigures
from defect_pipeline.generator.canvases import image_seed
from defect_pipeline.imaging.coco import coco_dict
from defect_pipeline.imaging.dataset import Dataset
from defect_pipeline.imaging.masks import encode
from defect_pipeline.store import Draft, Store
from defect_pipeline.summary import export
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.imaging.export.readers import READERS
from defect_pipeline_tests.support import grown, stage_named

CLASSES = ("crack", "pit | deep")
SIDE = 32
SEED = 7
REJECTED = "0001_00.png"  # of the first class


def mask_of(number: int, driver: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4 + driver : 12, 3 + 9 * number : 10 + 9 * number] = True
    return mask


def keep(place: Workplace, asset: str, partition: str | None, fill, digest: str = "0123456789abcdef") -> None:
    with place.store.create(asset, digest, partition) as draft:
        draft.metadata["code_version"] = "1"
        fill(draft)


def inspection_images(place: Workplace, draft: Draft) -> None:
    """A photograph with a defect, for validation, and one without."""
    rows = {"path": ["b/ö 1.png", "free.png"], "sha256": ["ab" * 32, "cd" * 32], "group": ["g1", "g2"]}
    sides = {"height": 20, "width": 30, "defect_class": [CLASSES[0], ""], "split": ["val", "train"]}
    mask = np.zeros((20, 30), bool)
    mask[5:9, 6:20] = True
    instance = {
        "image_id": 1, "category": CLASSES[0], "counts": encode(mask), "area": 56, "bbox": [6, 5, 14, 4], "source": "mask",
        "iscrowd": 0,
    }  # fmt: skip
    images = pd.DataFrame(rows | sides, index=pd.Index([1, 2], name="image_id"))
    rejected = pd.DataFrame(columns=["path", "reason", "remedy"])
    Dataset(place.data_root, images, pd.DataFrame([instance]), CLASSES, rejected).save(draft.path)
    for path in images["path"]:
        (place.data_root / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place.data_root / path), np.full((20, 30), 90, np.uint8))
    draft.metadata |= {"root": str(place.data_root), "content": "data"}


def joined_set(place: Workplace, draft: Draft) -> None:
    (draft.path / "images").mkdir()
    for file, wanted in (("annotations.json", False), ("annotations_unfiltered.json", True)):
        records, masks = [], []
        for number, k in enumerate(CLASSES):
            for driver in (0, 1):
                name = f"{driver:04d}_00.png"
                if not wanted and (number, name) == (0, REJECTED):
                    continue
                record = {"file_name": f"images/{number}_{name}", "width": SIDE, "height": SIDE, "driver": driver}
                records.append(record | {"defect_class": k, "synthetic": True})
                masks.append([(k, mask_of(number, driver))])
                cv2.imwrite(str(draft.path / f"images/{number}_{name}"), np.full((SIDE, SIDE), 99, np.uint8))
        (draft.path / file).write_text(json.dumps(coco_dict(records, masks, CLASSES)))


def class_artifacts(place: Workplace, number: int) -> None:
    k, names = CLASSES[number], ["0000_00.png", "0001_00.png"]
    rejected = number == 0

    def bank(draft: Draft) -> None:
        rows = [
            {"driver": d, "background": f"images/{d:04d}_03.png", "category": k, "counts": encode(mask_of(number, d)), "side": SIDE}
            for d in (0, 1)
        ]  # fmt: skip
        pd.DataFrame(rows).to_parquet(draft.path / "masks.parquet")

    def verdicts(draft: Draft) -> None:
        reasons = ["", "copy" if rejected else ""]
        pd.DataFrame({"image": names, "reason": reasons}).to_parquet(draft.path / "verdicts.parquet")

    def distances(draft: Draft) -> None:
        found = Comparison(0.125, 0.1, 0.15, 61.5, 70.0, 0.05, float("nan"), 9, 2, 1, "features of a test")
        parts = dict.fromkeys(("held_out", "train", "unfiltered"), asdict(found))
        (draft.path / "report.json").write_text(json.dumps(parts))
        for part in ("accepted", "held_out"):
            Moments.of(np.random.default_rng(0).normal(size=(4, 3))).save(draft.path / f"{part}.npz")

    def twins(draft: Draft) -> None:
        pd.DataFrame({"image": names}).to_parquet(draft.path / "twins.parquet")
        (draft.path / "report.json").write_text(json.dumps(asdict(TwinFigures(30.0, 12.5, 9.0, 0.05, 2))))

    def copies(draft: Draft) -> None:
        pd.DataFrame({"image": names}).to_parquet(draft.path / "copies.parquet")
        (draft.path / "report.json").write_text(json.dumps(asdict(Copying(0.5, 0.1, 9.0, 0.2, 0.3, 2, 11))))

    made = {
        "mask_bank": bank, "topological_drivers": lambda draft: None, "sadf_images": lambda draft: None, "sadf_accepted": verdicts, "fid_report": distances,
        "faithfulness_report": twins, "copy_report": copies,
    }  # fmt: skip
    for asset, fill in made.items():
        keep(place, asset, k, fill)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    base = tmp_path_factory.mktemp("export")
    (base / "data").mkdir()
    (base / "store").mkdir()
    place = Workplace(base / "store", data=str(base / "data"), seed=SEED)
    (base / "store" / "pipeline.json").write_text(json.dumps({"data": place.data, "seed": SEED}))
    keep(place, "inspection_images", None, lambda draft: inspection_images(place, draft))
    for asset in ("defect_free_pool", "concept_weights", "hypernetwork_weights"):
        keep(place, asset, None, lambda draft: None)
    for number in range(len(CLASSES)):
        class_artifacts(place, number)
    digest = stage_named("sadf_coco").digest(place.store, place.pipeline, None)
    keep(place, "sadf_coco", None, lambda draft: joined_set(place, draft), digest)
    return place


@pytest.fixture
def run(made: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Export to a folder; what is said on stderr, "" when it went well."""

    def command(form: str, *options: str, to: Path = tmp_path / "out", store: Path = made.store_root) -> str:
        capfd.readouterr()
        code = main(["export", "--store", str(store), "--format", form, "--to", str(to), *options])
        said = capfd.readouterr().err
        assert (code == 0) == (said == "")
        return " ".join(said.split())

    return command


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return {row["file_name"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("form", READERS)
def test_the_accepted_images_with_their_masks(form: str, run, tmp_path: Path) -> None:
    assert run(form) == ""
    read = READERS[form](tmp_path / "out")
    assert sorted(read) == [f"images/train/synthetic_{name}.png" for name in ("0_0000_00", "1_0000_00", "1_0001_00")]
    for path, found in read.items():
        number, driver = int(path[-13]), int(path[-8])
        [(name, mask)] = found.instances
        assert found.synthetic and name == CLASSES[number] and (mask == mask_of(number, driver)).all()
        assert cv2.imread(str(tmp_path / "out" / path), cv2.IMREAD_GRAYSCALE).mean() == 99
    assert set(rows_of(tmp_path / "out")) == set(read)


def test_every_image_says_what_made_it(run, tmp_path: Path) -> None:
    assert run("coco", "--unfiltered", "--with-real") == ""
    rows = rows_of(tmp_path / "out")
    rejected = rows[f"images/train/synthetic_0_{REJECTED}"]
    assert rejected == {
        "file_name": f"images/train/synthetic_0_{REJECTED}", "split": "train", "synthetic": "True", "defect_class": "crack",
        "seed": str(image_seed(SEED, "crack", REJECTED)), "driver": "1", "rejected_as": "copy",
        "source": "defect_free_pool/images/0001_03.png", "group": "",
    }  # fmt: skip
    real = rows["images/val/real_00001.png"]
    assert (real["synthetic"], real["source"], real["group"]) == ("False", "b/ö 1.png", "g1")
    document = json.loads((tmp_path / "out/annotations/instances_train.json").read_text("utf-8"))
    assert {image["rejected_as"] for image in document["images"]} == {"", "copy"}


def test_real_images_keep_their_side_and_masks(run, tmp_path: Path) -> None:
    assert run("yolo", "--with-real") == ""
    data = yaml.safe_load((tmp_path / "out/data.yaml").read_text("utf-8"))
    assert (data["train"], data["val"]) == ("images/train", "images/val")
    read = READERS["yolo"](tmp_path / "out")
    real = {path: found for path, found in read.items() if not found.synthetic}
    assert set(real) == {"images/val/real_00001.png", "images/train/real_00002.png"}
    [(name, mask)] = real["images/val/real_00001.png"].instances
    assert name == "crack" and mask.sum() == 56 and mask[5:9, 6:20].all()
    assert real["images/train/real_00002.png"].instances == [] and len(read) == 5


def test_the_card_is_a_dataset_card_with_the_figures_of_the_store(made: Workplace, run, tmp_path: Path) -> None:
    assert run("coco", "--license", "cc-by-4.0") == ""
    text = (tmp_path / "out/README.md").read_text("utf-8")
    card = DatasetCard(text)
    assert card.data.license == "cc-by-4.0" and "synthetic" in card.data.tags and card.data.size_categories == ["n<1K"]
    table = [[cell.strip() for cell in line.split(" | ")] for line in card.text.splitlines() if line.startswith("|")]
    cells = {tuple(cell.strip("| ") for cell in row) for row in table}
    assert ("train", "synthetic", "crack", "1", "1") in cells
    assert ("crack", "2", "1", "0", "0", "1", "0") in cells  # painted, accepted, then the reasons
    figures = ("0.125 (0.100 … 0.150)", "0.050", "61.5", "-", "2 / 9", "12.5 (2)", "50% (2)")
    assert ("crack", *figures) in cells and ("pit \\| deep", *figures) in cells
    assert "features of a test" in text and "8 synthetic, 8 real" in text and "--seed 7" in text
    assert "defect-pipeline export --format coco --to FOLDER\n" in text
    for asset, partition in (("sadf_coco", None), ("sadf_images", "crack")):
        assert made.store.current(asset, partition).digest in text
    assert str(made.data_root) not in text  # the card goes out of the house, the folders' names need not


def test_another_export_replaces_the_first_and_leaves_nothing_of_it(run, tmp_path: Path) -> None:
    assert run("yolo") == "" and run("cvat") == ""
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md", "annotations.xml", "export.json", "images", "labels.json", "metadata.csv", "profile.toml",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("what", ["added", "changed", "foreign"])
def test_a_folder_that_holds_anything_else_is_refused_and_kept(what: str, run, tmp_path: Path) -> None:
    if what != "foreign":
        assert run("yolo") == ""
    odd = tmp_path / "out" / {"added": "notes.txt", "changed": "data.yaml", "foreign": "export.json"}[what]
    odd.parent.mkdir(exist_ok=True)
    odd.write_text("[]")
    before = sorted(tmp_path.rglob("*"))
    assert "is not of an export, or was changed since; move it away, or name another folder with --to." in run("coco")
    assert odd.read_text() == "[]" and sorted(tmp_path.rglob("*")) == before


def test_what_fails_half_way_leaves_what_was_there(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run("yolo") == ""
    monkeypatch.setitem(export.WRITERS, "coco", full)
    assert "is full" in (said := run("coco")) and "name another folder with --to" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out/data.yaml").exists()


def test_what_cannot_be_exported_is_said(made: Workplace, run, tmp_path: Path) -> None:
    assert "where synthetic ones would be taken for real" in run("coco", to=made.data_root / "synthetic")
    (tmp_path / "file").touch()
    assert "cannot be written (Not a directory); name another folder with --to." in run(
        "coco", to=tmp_path / "file/out"
    )
    assert "is a file; name a folder with --to." in run("coco", to=tmp_path / "file")
    store = tmp_path / "store"
    shutil.copytree(made.store_root, store)
    again = Workplace.at(store)
    keep(again, "sadf_accepted", "crack", lambda draft: None, "fedcba9876543210")
    assert "is older than what it was made from; run `defect-pipeline run` first." in run("coco", store=store)
    (store / "pipeline.json").write_text(json.dumps({"data": made.data, "system": "stablesdg"}))
    assert "whose images have no masks; export a run of --system sadf or union." in run("coco", store=store)
    assert "There is no sadf_coco" in run("coco", store=tmp_path / "empty")
    assert Store(root=str(store)).partitions("sadf_coco") == ["all"]


def test_a_set_that_is_stale_behind_a_closed_gate_is_said_to_be_so(made: Workplace, run, tmp_path: Path) -> None:
    store = shutil.copytree(made.store_root, tmp_path / "store")
    Workplace.at(store, overrides=["thresholds.per_class.crack.kid=-10"]).open()
    assert "What holds a run back: no_group_on_two_sides" in run("coco", store=store)


def test_the_card_knows_a_check_that_joined_the_system(
    made: Workplace, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = grown(monkeypatch).stages[-1]
    added.materialize(made.store, made.pipeline)
    assert run("coco") == ""
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| not_too_bright | all classes | passed |" in card and "brightest" in card
