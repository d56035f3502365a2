"""Pascal VOC: masks divided among boxes, and every fault a row."""

from pathlib import Path

import numpy as np

from defect_pipeline.imaging.ingest import ingest
from defect_pipeline_tests.imaging.ingest.helpers import H, W, assert_same, drawn_mask, id_of, picture, spot, write_xml


def test_voc(voc: Path) -> None:
    dataset = ingest(voc)
    assert dataset.rejected.empty and dataset.categories == ("pit", "scratch")
    assert dataset.images["defect_class"].tolist() == ["scratch", "scratch", "pit", ""]
    # the third part touches no box: it goes to the nearest
    assert [name for name, _ in dataset.masks(1)] == ["pit", "scratch", "scratch"]
    rows = dataset.instances[dataset.instances["image_id"] == 2]
    assert rows["source"].tolist() == ["mask", "box"]  # nothing is masked in b's second box: it is filled
    np.testing.assert_array_equal(dataset.class_mask(2, "scratch"), spot(15, 20, 3, 3))
    np.testing.assert_array_equal(dataset.class_mask(3, "pit"), spot())


def test_voc_folder_names_in_capitals_and_reruns(voc: Path, opened: list[str]) -> None:
    (voc / "Annotations").rename(voc / "ANNOTATIONS")
    (voc / "JPEGImages").rename(voc / "IMAGES")
    (voc / "Masks").rename(voc / "MASKS")
    first = ingest(voc)
    assert len(first.images) == 4 and len(opened) == 6
    assert_same(ingest(voc, first), first)
    write_xml(voc / "ANNOTATIONS" / "a.xml", ("burn", 1, 1, W, H))
    second = ingest(voc, first)
    assert [name for name, _ in second.masks(1)] == ["burn"] * 3 and len(opened) == 6


def test_faults_in_voc(voc: Path, tmp_path: Path) -> None:
    notes = voc / "Annotations"
    for stem in ("nan", "empty", "unnoted", "size", "broken"):
        picture(voc / "JPEGImages" / f"{stem}.jpg")
    write_xml(notes / "nan.xml", ("pit", "nan", 1, 9, 9), ("pit", 2, 2, 9, 9), ("", 2, 2, 9, 9), ("pit", 9, 9, 5, 5))
    write_xml(notes / "empty.xml", ("pit", 2, 2, 9, 9))
    drawn_mask(voc / "Masks" / "empty.png", np.zeros((H, W)))
    write_xml(notes / "size.xml", ("pit", 2, 2, 9, 9), size=(W, H + 9))
    write_xml(notes / "away.xml", ("pit", 2, 2, 9, 9), filename="../../x.jpg")
    write_xml(notes / "gone.xml", ("pit", 2, 2, 9, 9), filename="gone.jpg")
    (notes / "broken.xml").write_text("<annotation>\n<object></annotation>")
    drawn_mask(voc / "Masks" / "orphan.png", spot())
    dataset = ingest(voc)
    rows = dataset.rejected.groupby("path")["reason"].agg(" | ".join).to_dict()
    assert {"box 1", "box 3", "box 4"} <= {part[:5] for part in rows["JPEGImages/nan.jpg"].split(" | ")}
    assert len(dataset.masks(id_of(dataset, "JPEGImages/nan.jpg"))) == 1
    assert "empty mask" in rows["JPEGImages/empty.jpg"] and "32x33" in rows["JPEGImages/size.jpg"]
    assert "outside" in rows["../../x.jpg"] and "missing" in rows["gone.jpg"]
    assert "line 2" in rows["Annotations/broken.xml"] and "no usable XML" in rows["JPEGImages/unnoted.jpg"]
    assert "Masks/orphan.png" in rows and len(dataset.images) == 5


def test_entities_that_grow_without_bound_are_not_expanded(voc: Path) -> None:
    """A few hundred bytes that ask for a thousand million words."""
    nested = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE annotation [<!ENTITY e0 "word">{nested}]><annotation><filename>&e9;</filename></annotation>'
    (voc / "Annotations" / "bomb.xml").write_text(bomb)
    dataset = ingest(voc)
    (row,) = dataset.rejected.to_dict("records")
    assert row["path"] == "Annotations/bomb.xml" and "amplification" in row["reason"] and len(dataset.images) == 4
