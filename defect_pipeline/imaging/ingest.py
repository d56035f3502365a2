"""A folder of inspection images to a Dataset. Three layouts are recognised by looking:

COCO           `annotations.json` (or one other *.json with COCO's keys) beside the images or above `images/`:
               polygons, uncompressed and compressed RLE. An image without annotations is defect-free.
Class folders  an image and a mask of the same stem anywhere below a folder that names the class. The mask is the PNG
               of the two, or the file in a folder called `masks`. A class whose masks are all empty is defect-free.
Pascal VOC     `Annotations/*.xml`, `Images` or `JPEGImages`, optionally `Masks` (names in any case). Each connected
               part of a mask is an instance of the box that it shares most pixels with. A box in which nothing is
               masked is filled, as all boxes are where there is no mask. An XML without objects means defect-free.

In all three, images below `defect_free/` are defect-free. What cannot be used is listed in `rejected`.

Rotated images: annotations and mask files are taken as drawn on the displayed (EXIF-rotated) image where their size
fits it, else as drawn on the stored pixels, and turned along.
"""

import hashlib
import json
import os
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging import masks
from defect_pipeline.imaging.dataset import INSTANCE_COLUMNS, REJECTED_COLUMNS, Dataset
from defect_pipeline.imaging.io import SUFFIXES, UnusableFileError, decode, oriented, read_bytes, read_mask

DEFECT_FREE = "defect_free"
_WHOLE = (0.0, 0.0, float("inf"), float("inf"))
_VOC_SIDES = ("xmin", "ymin", "xmax", "ymax")
_IMAGE_FOLDERS, _MASK_FOLDERS = ("images", "imgs", "jpegimages"), ("masks", "mask")


# --- what the folder holds ------------------------------------------------------------------------


def scan(root: Path) -> dict[str, tuple[int, int]]:
    """path (posix, below `root`) -> (size in bytes, mtime_ns) of every image, JSON and XML file; nothing is decoded.

    Hidden files and folders are passed over. Linked folders are not entered but stand in the result
    by their own path; broken links have (0, 0).
    """
    files = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        relevant = [name for name in names if name[0] != "." and _suffix(name) in SUFFIXES | {".json", ".xml"}]
        for name in relevant + links:
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
                stamp = status.st_size, status.st_mtime_ns
            except OSError:
                stamp = 0, 0
            files[Path(os.path.relpath(path, root)).as_posix()] = stamp
    return dict(sorted(files.items()))


@dataclass(frozen=True)
class Shape:
    """One defect as annotated: a COCO segmentation, or a box (x0, y0, x1, y1) in px, x1 and y1 exclusive."""

    name: str  # how `rejected` calls it
    category: str
    outline: Any
    iscrowd: int = 0

    @property
    def source(self) -> str:
        if isinstance(self.outline, tuple):
            return "box"
        return "polygon" if isinstance(self.outline, list) else "rle"


@dataclass(frozen=True)
class Entry:
    """One image of the folder and what the layout says of it; paths are posix, below the root."""

    image: str
    mask: str = ""
    shapes: tuple[Shape, ...] = ()
    defective: bool = False  # the layout says so, even where none of its annotations can be used
    size: tuple[int, int] | None = None  # (width, height) that the annotations were made for; None: as displayed


@dataclass(frozen=True)
class Pixels:
    """What is kept of a decoded image: hash, displayed size, EXIF orientation, and the parts of its mask as RLE."""

    sha256: str
    width: int
    height: int
    orientation: int
    parts: tuple[str, ...] = ()


@dataclass
class Survey:
    """The folder under ingest: its files, and the rows that will be `Dataset.rejected`."""

    root: Path  # resolved
    files: dict[str, tuple[int, int]]
    rejected: list[tuple[str, str, str]] = field(default_factory=list)

    def reject(self, path: str, reason: str, remedy: str) -> None:
        self.rejected.append((path, reason, remedy))

    def images(self) -> list[str]:
        return [path for path in self.files if _suffix(path) in SUFFIXES]

    def below(self, *folders: str) -> list[str]:
        """The files below a top-level folder of one of these names, in any case."""
        return [path for path in self.files if "/" in path and path.split("/")[0].lower() in folders]

    def locate(self, name: str, folders: Iterable[str]) -> str:
        """The path of the file that annotations call `name`, sought in these folders. Raises UnusableFileError."""
        plain = name.replace("\\", "/")
        if PurePosixPath(plain).is_absolute() or PureWindowsPath(plain).is_absolute() or "\0" in plain:
            raise UnusableFileError(name, "is an absolute path", "write the path relative to the data folder")
        for folder in folders:
            target = Path(os.path.realpath(self.root / folder / plain))
            if not target.is_relative_to(self.root):
                raise UnusableFileError(name, "leads outside the data folder", "copy the file into the folder")
            path = target.relative_to(self.root).as_posix()
            if path in self.files:
                return path
        raise UnusableFileError(
            name, "is listed but missing", f"add the image (as {', '.join(sorted(SUFFIXES))}) or delist it"
        )

    def guard(self, path: str) -> None:
        """Raises UnusableFileError for a link that leads outside the folder."""
        link = self.root / path
        if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(self.root):
            reason = "is a link that leads outside the data folder"
            raise UnusableFileError(path, reason, "copy the file into the folder")


def _reject_rest(survey: Survey, entries: Iterable[Entry], reason: str, remedy: str) -> None:
    """Lists the images that the layout neither uses nor has listed yet."""
    spoken_for = {path for entry in entries for path in (entry.image, entry.mask)} | {row[0] for row in survey.rejected}
    for path in survey.images():
        if path not in spoken_for and not _is_free(path):
            survey.reject(path, reason, remedy)


def _is_free(path: str) -> bool:
    return "/" in path and path.split("/")[0].lower() == DEFECT_FREE


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


# --- COCO -----------------------------------------------------------------------------------------


def _coco_document(survey: Survey) -> tuple[str, dict[str, Any]] | None:
    """(file name, document) if the folder has the COCO layout. Raises PipelineError if that file is unreadable."""
    if "annotations.json" in survey.files:
        document = _load_json(survey, "annotations.json")
        if not _is_coco(document):
            problem = "lacks one of COCO's lists `images`, `annotations` and `categories`"
            raise PipelineError(f"{survey.root / 'annotations.json'} {problem}; export it again as COCO instances.")
        return "annotations.json", document
    found = []
    for path in [path for path in survey.files if "/" not in path and _suffix(path) == ".json"]:
        try:
            document = _load_json(survey, path)
        except PipelineError:
            continue  # any JSON may lie about in the other layouts
        if _is_coco(document):
            found.append((path, document))
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise PipelineError(f"{survey.root} holds several COCO files ({names}); merge them into annotations.json.")
    return found[0] if found else None


def _load_json(survey: Survey, path: str) -> Any:
    survey.guard(path)
    file = survey.root / path
    try:
        return json.loads(read_bytes(file))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise PipelineError(f"{file} is not valid JSON ({where}); export it again.") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise PipelineError(f"{file} cannot be read as JSON ({error}); export it again.") from None


def _is_coco(document: Any) -> bool:
    return isinstance(document, dict) and all(
        isinstance(document.get(key), list) and all(isinstance(entry, dict) for entry in document[key])
        for key in ("images", "annotations", "categories")
    )


def _coco_entries(survey: Survey, name: str, document: dict[str, Any]) -> list[Entry]:
    paths = _coco_images(survey, name, document["images"])
    shapes, defective = _coco_shapes(survey, name, document, paths)
    sizes = {str(image.get("id")): (image.get("width"), image.get("height")) for image in document["images"]}
    entries = []
    for number, path in paths.items():
        size = sizes[number] if all(isinstance(side, int) and side > 0 for side in sizes[number]) else None
        if number in defective and _is_free(path):
            survey.reject(path, f"has annotations but lies in {DEFECT_FREE}/", "move it out, or remove its annotations")
        else:
            entries.append(Entry(path, "", tuple(shapes[number]), number in defective, size))  # type: ignore[arg-type]
    remedy = f"list it there, or move it to {DEFECT_FREE}/ if it shows no defect"
    _reject_rest(survey, entries, f"is not listed in {name}", remedy)
    return entries


def _coco_images(survey: Survey, name: str, images: list[dict[str, Any]]) -> dict[str, str]:
    """Image id (as text) -> path of the images that are there and told apart by both."""
    pairs: dict[tuple[str, str], None] = {}  # a set that keeps the order
    for number, image in enumerate(images, start=1):
        if "id" not in image or not isinstance(image.get("file_name"), str):
            survey.reject(name, f"entry {number} of `images` has no id or file_name", "add both, or remove the entry")
            continue
        try:
            pair = str(image["id"]), survey.locate(image["file_name"], ("", "images"))
        except UnusableFileError as error:
            survey.reject(image["file_name"], error.reason, error.remedy)
            continue
        if pair in pairs:
            survey.reject(pair[1], f"duplicate image id {pair[0]}: listed twice", "remove one of the two entries")
        pairs[pair] = None
    # Which of the two an annotation means cannot be known, and a guess would teach a wrong label: neither is used.
    ids, files = Counter(number for number, _ in pairs), Counter(path for _, path in pairs)
    for image_id, path in pairs:
        if ids[image_id] > 1:
            survey.reject(
                path, f"duplicate image id {image_id}: {ids[image_id]} images have it", "number the images anew"
            )
        elif files[path] > 1:
            survey.reject(path, f"is listed under {files[path]} image ids", "keep one of the entries")
    return {number: path for number, path in pairs if ids[number] == 1 and files[path] == 1}


def _coco_shapes(
    survey: Survey, name: str, document: dict[str, Any], paths: dict[str, str]
) -> tuple[dict[str, list[Shape]], set[str]]:
    """Per image id (as text) the shapes of known category; and the ids of all images that have any annotation."""
    categories = _coco_categories(survey, name, document["categories"])
    images = {str(image.get("id")) for image in document["images"]}
    shapes: dict[str, list[Shape]] = defaultdict(list)
    defective, seen = set(), set()
    for number, annotation in enumerate(document["annotations"], start=1):
        image, label = str(annotation.get("image_id")), str(annotation.get("id", f"#{number}"))
        category = categories.get(str(annotation.get("category_id")))
        path = paths.get(image, name)
        defective.add(image)
        if image not in images:
            survey.reject(name, f"annotation {label}: no image has the id {image}", "correct or remove the annotation")
        elif image not in paths:
            continue  # its image is listed already
        elif label in seen:
            survey.reject(path, f"duplicate annotation id {label}", "give each annotation its own id")
        elif category is None:
            reason = f"annotation {label}: unknown category id {annotation.get('category_id')}"
            survey.reject(path, reason, f"add it to `categories` in {name}, or correct the annotation")
        else:
            crowd = int(bool(annotation.get("iscrowd")))
            shapes[image].append(Shape(f"annotation {label}", category, annotation.get("segmentation"), crowd))
        seen.add(label)
    return shapes, defective


def _coco_categories(survey: Survey, name: str, categories: list[dict[str, Any]]) -> dict[str, str]:
    """Category id (as text) -> name, without the ids that stand for two names."""
    names: dict[str, set[str]] = defaultdict(set)
    for category in categories:
        names[str(category.get("id"))].add(str(category.get("name") or "").strip())
    for number, given in names.items():
        if len(given) > 1 or "" in given:
            survey.reject(name, f"category id {number} has no single name", "give each category its own id and name")
    return {number: given.pop() for number, given in names.items() if len(given) == 1 and "" not in given}


# --- class folders, and defect_free/ --------------------------------------------------------------


def _pairs(paths: Iterable[str]) -> dict[tuple[str, ...], tuple[list[str], list[str]]]:
    """Place and stem -> (images, masks) found for it; a sound pair has one of each."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in paths:
        *folders, name = path.split("/")
        plain = [part for part in folders if part.lower() not in _IMAGE_FOLDERS + _MASK_FOLDERS]
        groups[*plain, os.path.splitext(name)[0]].append(path)
    return {place: _images_and_masks(group) for place, group in groups.items()}


def _images_and_masks(group: list[str]) -> tuple[list[str], list[str]]:
    marked = [path for path in group if any(part.lower() in _MASK_FOLDERS for part in path.split("/")[:-1])]
    if not marked and len(group) > 1:
        marked = [path for path in group if _suffix(path) == ".png"]
    return [path for path in group if path not in marked], marked


def _class_folder_entries(survey: Survey) -> list[Entry]:
    """The sound pairs; each mask belongs to the class of its top-level folder, as a box around everything would say."""
    entries = []
    for place, (images, found) in _pairs(path for path in survey.images() if not _is_free(path)).items():
        if len(place) == 1:
            for path in images + found:
                survey.reject(path, "lies in no class folder", f"move it to the folder of its class, or {DEFECT_FREE}/")
        elif len(images) == len(found) == 1:
            shape = Shape("mask", place[0], _WHOLE)
            entries.append(Entry(images[0], found[0], (shape,), True))
        else:
            _reject_odd(survey, images, found)
    return entries


def _defect_free_entries(survey: Survey, listed: set[str]) -> list[Entry]:
    """What lies in defect_free/ and is not `listed` already; a mask may stand beside an image, and must be empty."""
    entries = []
    for images, found in _pairs(path for path in survey.images() if _is_free(path) and path not in listed).values():
        if len(images) == 1 and len(found) <= 1:
            entries.append(Entry(images[0], "".join(found)))
        else:
            _reject_odd(survey, images, found)
    return entries


def _reject_odd(survey: Survey, images: list[str], found: list[str]) -> None:
    for path in images + found:
        if len(images) + len(found) > 1:
            survey.reject(path, "shares its stem with other images or masks", "keep one image and one mask of a stem")
        elif images:
            survey.reject(path, "is an image without a mask", "add a PNG mask of the same stem")
        else:
            survey.reject(path, "is a mask without an image", "add the image of the same stem, or remove the mask")


def _without_empty_classes(entries: list[Entry], pixels: dict[str, Pixels]) -> list[Entry]:
    """A class whose masks are all empty is the defect-free one."""
    marked = {shape.category for e in entries if e.image in pixels and pixels[e.image].parts for shape in e.shapes}
    empty = [not any(shape.category in marked for shape in entry.shapes) for entry in entries]
    return [replace(e, shapes=(), defective=False) if free else e for e, free in zip(entries, empty, strict=True)]


# --- Pascal VOC -----------------------------------------------------------------------------------


def _voc_entries(survey: Survey) -> list[Entry]:
    images = {_stem(path): path for path in survey.below(*_IMAGE_FOLDERS) if _suffix(path) in SUFFIXES}
    drawn = {_stem(path): path for path in survey.below(*_MASK_FOLDERS) if _suffix(path) in SUFFIXES}
    folders = sorted({path.split("/")[0] for path in images.values()}) or ["images"]
    entries: dict[str, Entry] = {}
    for path in _voc_files(survey):
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
            entries[image] = _voc_entry(survey, document, image, drawn.get(_stem(image), ""))
    remedy = f"add one (without objects if it shows no defect), or move the image to {DEFECT_FREE}/"
    _reject_rest(survey, entries.values(), "has no usable XML of the same stem", remedy)
    return list(entries.values())


def _voc_files(survey: Survey) -> list[str]:
    return [path for path in survey.below("annotations") if _suffix(path) == ".xml"]


def _load_xml(survey: Survey, path: str) -> ET.Element:
    survey.guard(path)
    try:
        return ET.fromstring(read_bytes(survey.root / path))
    except ET.ParseError as error:
        line, column = error.position
        reason = f"is not valid XML (line {line}, column {column}: {error})"
        raise UnusableFileError(path, reason, "export it again") from None


def _voc_entry(survey: Survey, document: ET.Element, image: str, mask: str) -> Entry:
    objects = list(document.iter("object"))
    shapes = []
    for number, element in enumerate(objects, start=1):
        category = (element.findtext("name") or "").strip()
        left, top, right, bottom = (_number(element.findtext(f"bndbox/{side}")) for side in _VOC_SIDES)
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


# --- pixels ---------------------------------------------------------------------------------------


def _read_all(
    survey: Survey, entries: list[Entry], previous: Dataset | None, on_progress: Callable[[int, int], None] | None
) -> dict[str, Pixels]:
    """image -> Pixels of the readable images; what `previous` knows by path, size and time is not opened."""
    known = {} if previous is None else _known(survey, previous)
    pixels, new = {}, []
    for entry in entries:
        if (entry.image, entry.mask) in known:
            pixels[entry.image] = known[entry.image, entry.mask]
        else:
            new.append(entry)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing leave Python's lock
        results = pool.map(lambda entry: _read(survey, entry), new)
        for done, (entry, result) in enumerate(zip(new, results, strict=True), start=1):
            if isinstance(result, UnusableFileError):
                survey.reject(entry.image, result.reason, result.remedy)
            else:
                pixels[entry.image] = result
            if on_progress:
                on_progress(done, len(new))
    return pixels


def _known(survey: Survey, previous: Dataset) -> dict[tuple[str, str], Pixels]:
    """(image, mask) -> Pixels, for those whose files have the size and time that they had."""
    parts: dict[Any, list[str]] = defaultdict(list)
    drawn = previous.instances[previous.instances["source"] == "mask"]
    for image_id, counts in zip(drawn["image_id"], drawn["counts"], strict=True):
        parts[image_id].append(counts)
    known = {}
    for image_id, row in previous.images.to_dict("index").items():
        mask = row["mask_path"]
        same_mask = not mask or survey.files.get(mask) == (row["mask_size"], row["mask_mtime_ns"])
        if same_mask and survey.files.get(row["path"]) == (row["size"], row["mtime_ns"]):
            kept = Pixels(row["sha256"], row["width"], row["height"], row["orientation"], tuple(parts[image_id]))
            known[row["path"], mask] = kept
    return known


def _read(survey: Survey, entry: Entry) -> Pixels | UnusableFileError:
    """Decodes an image and its mask; returns the error instead of raising it, to come back through the pool."""
    try:
        survey.guard(entry.image)
        data = read_bytes(survey.root / entry.image)
        picture, orientation = decode(data, survey.root / entry.image)
    except UnusableFileError as error:
        return error
    height, width = picture.shape[:2]
    pixels = Pixels(hashlib.sha256(data).hexdigest(), width, height, orientation)
    if not entry.mask:
        return pixels
    try:
        survey.guard(entry.mask)
        drawn = read_mask(survey.root / entry.mask)
        turn = _turn((drawn.shape[1], drawn.shape[0]), pixels)
    except UnusableFileError as error:
        return UnusableFileError(entry.image, f"its mask {entry.mask} {error.reason}", error.remedy)
    return replace(pixels, parts=tuple(masks.encode(part) for part in masks.instances_of(oriented(drawn, turn))))


def _turn(size: tuple[int, int], pixels: Pixels) -> int:
    """The orientation (1-8) that turns a drawing of `size` (width, height) like the image. Raises UnusableFileError."""
    displayed = pixels.width, pixels.height
    if size == displayed:
        return 1
    if size == displayed[::-1] and pixels.orientation >= 5:
        return pixels.orientation
    reason = f"is drawn for {size[0]}x{size[1]} px, the image has {displayed[0]}x{displayed[1]}"
    raise UnusableFileError("", reason, "export both at one size")


# --- instances ------------------------------------------------------------------------------------


def _instances(survey: Survey, entry: Entry, pixels: Pixels) -> list[dict[str, Any]]:
    """Rows of the instance table (image_id left out). Raises UnusableFileError if the image cannot be used."""
    if entry.mask and entry.defective and not pixels.parts:
        remedy = "paint the defect brighter than 127 of 255, or move the image to the defect-free ones"
        raise UnusableFileError(entry.image, f"empty mask {entry.mask} on a defective image", remedy)
    if pixels.parts and not entry.defective:
        remedy = "name the class, or clear the mask"
        raise UnusableFileError(entry.image, f"its mask {entry.mask} marks a defect of no class", remedy)
    filled = _filled(survey, entry, pixels)
    if entry.defective and not filled:
        raise UnusableFileError(
            entry.image, "none of its annotations can be used", "correct the annotations listed for it"
        )
    if not pixels.parts:
        return [_row(shape.category, mask, shape.source, shape.iscrowd) for shape, mask in filled]
    parts = [masks.decode(counts, pixels.height, pixels.width) for counts in pixels.parts]
    rows = [_row(_owner(part, filled), part, "mask") for part in parts]
    unmasked = [(shape, box) for shape, box in filled if not any((part & box).any() for part in parts)]
    return rows + [_row(shape.category, box, shape.source) for shape, box in unmasked]


def _filled(survey: Survey, entry: Entry, pixels: Pixels) -> list[tuple[Shape, np.ndarray]]:
    """The shapes that can be drawn, each with its (H, W) bool mask on the displayed image. Raises UnusableFileError."""
    if not entry.shapes:
        return []
    width, height = entry.size or (pixels.width, pixels.height)
    try:
        turn = _turn((width, height), pixels)
    except UnusableFileError as error:
        raise UnusableFileError(entry.image, f"its annotation {error.reason}", error.remedy) from None
    filled = []
    for shape in entry.shapes:
        try:
            filled.append((shape, oriented(_fill(shape.outline, height, width), turn)))
        except (ValueError, TypeError) as error:
            survey.reject(entry.image, f"{shape.name}: {error}", "correct or remove the annotation")
    return filled


def _owner(part: np.ndarray, boxes: list[tuple[Shape, np.ndarray]]) -> str:
    """Category of the box that shares most pixels with the part of a mask; of the nearest box where none shares any."""
    overlaps = [np.count_nonzero(part & box) for _, box in boxes]
    if any(overlaps):
        return boxes[int(np.argmax(overlaps))][0].category
    centres = [np.argwhere(mask).mean(axis=0) for mask in (part, *(box for _, box in boxes))]
    return boxes[int(np.argmin(np.linalg.norm(centres[1:] - centres[0], axis=1)))][0].category


def _row(category: str, mask: np.ndarray, source: str, iscrowd: int = 0) -> dict[str, Any]:
    return {
        "category": category,
        "counts": masks.encode(mask),
        "area": int(mask.sum()),
        "bbox": masks.bbox(mask),
        "source": source,
        "iscrowd": iscrowd,
    }


def _fill(outline: Any, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a box or COCO segmentation. Raises ValueError or TypeError, saying what is wrong with it."""
    if isinstance(outline, tuple):
        mask = _fill_box(outline, height, width)
    elif isinstance(outline, list) and outline:
        mask = _fill_polygons(outline, height, width)
    elif isinstance(outline, dict):
        mask = _fill_rle(outline, height, width)
    else:
        raise ValueError("no segmentation")
    if not mask.any():
        raise ValueError("covers no pixel of the image (zero area)")
    return mask


def _fill_box(box: tuple[float, float, float, float], height: int, width: int) -> np.ndarray:
    if np.isnan(box).any():
        raise ValueError("degenerate box (not four numbers)")
    left, right = (round(min(max(x, 0), width)) for x in box[0::2])
    top, bottom = (round(min(max(y, 0), height)) for y in box[1::2])
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _fill_polygons(polygons: list[Any], height: int, width: int) -> np.ndarray:
    for polygon in polygons:
        points = np.asarray(polygon, dtype=float)
        if points.ndim != 1 or points.size < 6 or points.size % 2:
            raise ValueError("degenerate polygon (fewer than 3 points)")
        if not np.isfinite(points).all():
            raise ValueError("degenerate polygon (NaN or infinite)")
        if np.abs(points).max() > 2 * max(height, width):  # pycocotools' memory grows with the outline's length
            raise ValueError("polygon far outside the image")
        x, y = points[0::2] - points[0], points[1::2] - points[1]
        if abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) < 1e-9:
            raise ValueError("degenerate polygon (zero area)")
    parts = coco_mask.frPyObjects([[float(side) for side in polygon] for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def _fill_rle(rle: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Both COCO forms. Unpacked here, since pycocotools trusts the counts and reads on past the end of damaged ones."""
    if list(rle.get("size", ())) != [height, width]:
        raise ValueError(f"RLE of size {rle.get('size')} on an image of {[height, width]} (height, width)")
    counts = rle.get("counts")
    runs = np.asarray(_unpacked(counts) if isinstance(counts, str) else counts)
    whole = height * width
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or ((runs < 0) | (runs > whole)).any() or runs.sum() != whole:
        raise ValueError("RLE counts do not add up to the image")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T  # column by column


def _unpacked(counts: str) -> list[int]:
    """Run lengths of compressed counts: 5 bits a character, a bit for "more", each run less the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 40:
            raise ValueError("RLE counts are damaged")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("RLE counts are cut off")
    return runs


# --- the whole ------------------------------------------------------------------------------------


def ingest(
    root: Path,
    previous: Dataset | None = None,
    *,
    min_defective: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """The Dataset of a folder in one of the three layouts (see the module).

    Images that `previous` holds with the same path, size and modification time are not opened again, nor are their
    masks; COCO and VOC annotations are always read anew. `on_progress(done, total)` counts the images that are opened.
    Raises PipelineError if the folder has no such layout, or if no class is left with `min_defective` usable images.
    """
    if not root.is_dir():
        raise PipelineError(f"{root} is not a folder; give the folder that holds the inspection images.")
    survey = _survey(root)
    entries, class_folders = _entries(survey)
    pixels = _read_all(survey, entries, previous, on_progress)
    if class_folders:
        entries = _without_empty_classes(entries, pixels)
    dataset = _tables(survey, root, entries, pixels)
    shown = dataset.instances.groupby("category")["image_id"].nunique()
    if shown.max() < min_defective or shown.empty:
        first = "; ".join(f"{path}: {reason}" for path, reason, _ in survey.rejected[:3])
        left_out = f" ({len(survey.rejected)} files or annotations were left out: {first} ...)" if first else ""
        raise PipelineError(
            f"{root}: no defect class is left with {min_defective} usable images{left_out}; mend these, or add images."
        )
    return dataset


def _survey(root: Path) -> Survey:
    survey = Survey(root.resolve(), scan(root))
    for path in [path for path in survey.files if (survey.root / path).is_dir()]:
        del survey.files[path]
        survey.reject(path, "is a link to a folder, which is not followed", "copy the folder to its place")
    return survey


def _entries(survey: Survey) -> tuple[list[Entry], bool]:
    """The images, and whether the layout is class folders. Raises PipelineError if the folder has no layout."""
    coco = _coco_document(survey)
    class_folders = not coco and not _voc_files(survey)
    if coco:
        entries = _coco_entries(survey, *coco)
    elif class_folders:
        entries = _class_folder_entries(survey)
    else:
        entries = _voc_entries(survey)
    if class_folders and not entries:
        raise PipelineError(
            f"{survey.root} has none of the three layouts read here; give it annotations.json (COCO), a folder "
            "for each class with images and mask PNGs of the same stem, or Annotations/*.xml with Images/ (Pascal VOC)."
        )
    listed = {entry.image for entry in entries} | {path for path, _, _ in survey.rejected}
    return entries + _defect_free_entries(survey, listed), class_folders


def _tables(survey: Survey, root: Path, entries: list[Entry], pixels: dict[str, Pixels]) -> Dataset:
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for entry in sorted((entry for entry in entries if entry.image in pixels), key=lambda entry: entry.image):
        try:
            rows = _instances(survey, entry, pixels[entry.image])
        except UnusableFileError as error:
            survey.reject(entry.image, error.reason, error.remedy)
            continue
        images.append(_image_row(survey, entry, pixels[entry.image]))
        instances += [{"image_id": len(images)} | row for row in rows]
    images_of: dict[str, set[int]] = defaultdict(set)
    for row in instances:
        images_of[row["category"]].add(row["image_id"])
    rarest_first = sorted(images_of, key=lambda name: (len(images_of[name]), name))
    for image_id, image in enumerate(images, start=1):
        image["defect_class"] = next((name for name in rarest_first if image_id in images_of[name]), "")
    return Dataset(
        root=root,
        images=pd.DataFrame(images, index=pd.RangeIndex(1, len(images) + 1, name="image_id")),
        instances=pd.DataFrame(instances, columns=list(INSTANCE_COLUMNS)),
        categories=tuple(sorted(images_of)),
        rejected=pd.DataFrame(sorted(survey.rejected), columns=list(REJECTED_COLUMNS), dtype=str),
    )


def _image_row(survey: Survey, entry: Entry, pixels: Pixels) -> dict[str, Any]:
    size, mtime_ns = survey.files[entry.image]
    mask_size, mask_mtime_ns = survey.files.get(entry.mask, (0, 0))
    return {
        "path": entry.image,
        "sha256": pixels.sha256,
        "width": pixels.width,
        "height": pixels.height,
        "defect_class": "",
        "orientation": pixels.orientation,
        "size": size,
        "mtime_ns": mtime_ns,
        "mask_path": entry.mask,
        "mask_size": mask_size,
        "mask_mtime_ns": mask_mtime_ns,
    }
