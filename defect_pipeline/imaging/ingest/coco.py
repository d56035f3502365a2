"""The COCO layout: one JSON file beside the images or above `images/`."""

import json
from collections import Counter, defaultdict
from typing import Any

from defect_pipeline.errors import PipelineError
from defect_pipeline.imaging.ingest.survey import DEFECT_FREE, Entry, Shape, Survey, is_free, suffix_of
from defect_pipeline.imaging.io import UnusableFileError, read_bytes


def coco_document(survey: Survey) -> tuple[str, dict[str, Any]] | None:
    """(file name, document) if the folder has the COCO layout; any other file that is no JSON is rejected.

    Raises PipelineError if annotations.json cannot be read, or where several files have the layout.
    """
    if "annotations.json" in survey.files:
        document = _load_json(survey, "annotations.json")
        if not _is_coco(document):
            problem = "lacks one of COCO's lists `images`, `annotations` and `categories`"
            raise PipelineError(f"{survey.root / 'annotations.json'} {problem}; export it again as COCO instances.")
        return "annotations.json", document
    found = []
    for path in [path for path in survey.files if "/" not in path and suffix_of(path) == ".json"]:
        try:
            document = _load_json(survey, path)
        except UnusableFileError as error:  # maybe the annotations, half written; but any JSON may lie about
            survey.reject(path, error.reason, error.remedy)
            continue
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
        raise UnusableFileError(file, f"is not valid JSON ({where})", "export it again") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UnusableFileError(file, f"cannot be read as JSON ({error})", "export it again") from None


def _is_coco(document: Any) -> bool:
    return isinstance(document, dict) and all(
        isinstance(document.get(key), list) and all(isinstance(entry, dict) for entry in document[key])
        for key in ("images", "annotations", "categories")
    )


def coco_entries(survey: Survey, name: str, document: dict[str, Any]) -> list[Entry]:
    """The images that the document (of the file `name`) tells apart; all others are rejected."""
    paths = _images(survey, name, document["images"])
    shapes, defective = _shapes(survey, name, document, paths)
    sizes = {str(image.get("id")): (image.get("width"), image.get("height")) for image in document["images"]}
    entries = []
    for number, path in paths.items():
        size = sizes[number] if all(isinstance(side, int) and side > 0 for side in sizes[number]) else None
        if number in defective and is_free(path):
            survey.reject(path, f"has annotations but lies in {DEFECT_FREE}/", "move it out, or remove its annotations")
        else:
            entries.append(Entry(path, "", tuple(shapes[number]), number in defective, size))
    remedy = f"list it there, or move it to {DEFECT_FREE}/ if it shows no defect"
    survey.reject_rest(entries, f"is not listed in {name}", remedy)
    return entries


def _images(survey: Survey, name: str, images: list[dict[str, Any]]) -> dict[str, str]:
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


def _shapes(
    survey: Survey, name: str, document: dict[str, Any], paths: dict[str, str]
) -> tuple[dict[str, list[Shape]], set[str]]:
    """Per image id (as text) the shapes of known category; and the ids of all images that have any annotation."""
    categories = _categories(survey, name, document["categories"])
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


def _categories(survey: Survey, name: str, categories: list[dict[str, Any]]) -> dict[str, str]:
    """Category id (as text) -> name, without the ids that stand for two names."""
    names: dict[str, set[str]] = defaultdict(set)
    for category in categories:
        names[str(category.get("id"))].add(str(category.get("name") or "").strip())
    for number, given in names.items():
        if len(given) > 1 or "" in given:
            survey.reject(name, f"category id {number} has no single name", "give each category its own id and name")
    return {number: given.pop() for number, given in names.items() if len(given) == 1 and "" not in given}
