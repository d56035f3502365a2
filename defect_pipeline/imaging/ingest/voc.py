"""The Pascal VOC layout: an XML of boxes for each image, and optionally a mask."""

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

import numpy as np

from defect_pipeline.imaging.ingest.survey import (
    DEFECT_FREE,
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Entry,
    Shape,
    Survey,
    suffix_of,
)
from defect_pipeline.imaging.io import SUFFIXES, UnusableFileError, read_bytes

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def voc_entries(survey: Survey) -> list[Entry]:
    """The images that have a readable XML; all others are rejected."""
    images = {_stem(path): path for path in survey.below(*IMAGE_FOLDERS) if suffix_of(path) in SUFFIXES}
    drawn = {_stem(path): path for path in survey.below(*MASK_FOLDERS) if suffix_of(path) in SUFFIXES}
    folders = sorted({path.split("/")[0] for path in images.values()}) or ["images"]
    entries: dict[str, Entry] = {}
    for path in voc_files(survey):
        try:
            document = _load_xml(survey, path)
        except UnusableFileError as error:
            survey.reject(path, error.reason, error.remedy)
            continue
        try:  # the stem first: many tools leave a stale <filename> behind
            image = images.get(_stem(path)) or survey.locate(document.findtext("filename") or _stem(path), folders)
        except UnusableFileError as error:
            survey.reject(error.path, error.reason, error.remedy)
            continue
        if image in entries:
            survey.reject(path, f"is a second annotation of {image}", "keep one XML for each image")
        else:
            entries[image] = _entry(survey, document, image, drawn.get(_stem(image), ""))
    remedy = f"add one (without objects if it shows no defect), or move the image to {DEFECT_FREE}/"
    survey.reject_rest(entries.values(), "has no usable XML of the same stem", remedy)
    return list(entries.values())


def voc_files(survey: Survey) -> list[str]:
    """The XML files; none where the folder has another layout."""
    return [path for path in survey.below("annotations") if suffix_of(path) == ".xml"]


def _load_xml(survey: Survey, path: str) -> ET.Element:
    survey.guard(path)
    try:
        return ET.fromstring(read_bytes(survey.root / path))
    except ET.ParseError as error:
        line, column = error.position
        reason = f"is not valid XML (line {line}, column {column}: {error})"
        raise UnusableFileError(path, reason, "export it again") from None


def _entry(survey: Survey, document: ET.Element, image: str, mask: str) -> Entry:
    objects = list(document.iter("object"))
    shapes = []
    for number, element in enumerate(objects, start=1):
        category = (element.findtext("name") or "").strip()
        left, top, right, bottom = (_number(element.findtext(f"bndbox/{side}")) for side in _SIDES)
        if category:  # VOC counts pixels from 1 and includes the last
            shapes.append(Shape(f"box {number}", category, (left - 1, top - 1, right, bottom)))
        else:
            survey.reject(image, f"box {number}: no class name", "name its class in the XML")
    width, height = (_number(document.findtext(f"size/{side}")) for side in ("width", "height"))
    size = (int(width), int(height)) if width > 0 and height > 0 else None
    return Entry(image, mask, tuple(shapes), bool(objects), size)


def _number(text: str | None) -> float:
    """NaN for anything but a finite number."""
    try:
        number = float(text or "nan")
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def _stem(path: str) -> str:
    return PurePosixPath(path).stem
