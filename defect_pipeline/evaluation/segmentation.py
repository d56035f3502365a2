"""How well predicted instances agree with the annotated ones: COCO's average precision, IoU and Hausdorff distance.

IoU and HD are undefined in paper A, so both readings are given: over matched instances, as the paper's numbers suggest,
and strictly, over the defect area of every test image.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from defect_pipeline.lazy import pd


class Detections(Protocol):
    """What a segmentor says of one image."""

    @property
    def masks(self) -> np.ndarray: ...  # (n, H, W) bool; (0, H, W) where it sees nothing

    @property
    def boxes(self) -> np.ndarray: ...  # (n, 4): x0, y0, x1, y1 in px

    @property
    def scores(self) -> np.ndarray: ...  # (n,) in [0, 1]

    @property
    def labels(self) -> np.ndarray: ...  # (n,) category index


@dataclass(frozen=True)
class SegmentationFigures:
    """Figures over a test set, all in [0, 1]; NaN where no instance is annotated that could be found."""

    segm_map: float  # COCO AP, mask IoU 0.50:0.95
    segm_ap50: float
    bbox_map: float
    segm_ap_by_class: dict[str, float]  # COCO AP of masks
    iou: float  # paper-like: mean over matched instances, 0 where none is matched
    hd: float  # paper-like: mean Hausdorff distance / image diagonal over matched instances, 1 where none is matched
    strict_iou: float  # mean over all images of the IoU of the unions of all defects
    strict_hd: float
    strict_hd95: float
    n_images: int
    n_instances: int
    n_matched: int


def segmentation_figures(
    truth: Sequence[Sequence[tuple[int, np.ndarray]]],
    detections: Sequence[Detections],
    categories: Sequence[str],
    *,
    score: float = 0.5,
) -> SegmentationFigures:
    """Compare, image by image, annotated (category index, (H, W) bool mask) instances with detections.

    The average precisions use all detections; IoU and HD those of at least ``score``. Paper-like matching is greedy by
    score within a class, at a mask IoU of at least 0.5.
    """
    if len(truth) != len(detections):
        raise ValueError(f"{len(truth)} annotated images against {len(detections)} predictions")
    segm, bbox = (average_precision(truth, detections, len(categories), kind) for kind in ("segm", "bbox"))
    sure = [(d.masks[d.scores >= score], d.labels[d.scores >= score]) for d in detections]
    matched = [
        pair for instances, (masks, labels) in zip(truth, sure, strict=True) for pair in match(instances, masks, labels)
    ]
    unions = [
        (_union([mask for _, mask in instances], masks.shape[1:]), _union(list(masks), masks.shape[1:]))
        for instances, (masks, _) in zip(truth, sure, strict=True)
    ]
    return SegmentationFigures(
        segm_map=_mean(segm),
        segm_ap50=_mean(segm[0]),
        bbox_map=_mean(bbox),
        segm_ap_by_class={name: _mean(segm[:, :, k]) for k, name in enumerate(categories)},
        iou=float(np.mean([mask_iou(a, b) for a, b in matched])) if matched else 0.0,
        hd=float(np.mean([hausdorff(a, b) for a, b in matched])) if matched else 1.0,
        strict_iou=_mean(np.array([mask_iou(a, b) for a, b in unions])),
        strict_hd=_mean(np.array([hausdorff(a, b) for a, b in unions])),
        strict_hd95=_mean(np.array([hausdorff(a, b, percentile=95) for a, b in unions])),
        n_images=len(truth),
        n_instances=sum(len(instances) for instances in truth),
        n_matched=len(matched),
    )


def _union(masks: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.logical_or.reduce(masks) if masks else np.zeros(shape, bool)


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined: COCO marks with -1 what has no annotation."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


# --- Average precision ---------------------------------------------------------------------------------------------


def average_precision(
    truth: Sequence[Sequence[tuple[int, np.ndarray]]], detections: Sequence[Detections], num_classes: int, kind: str
) -> np.ndarray:
    """pycocotools' precision (10 IoU thresholds from 0.50, 101 recalls, num_classes) at 100 detections and any area.

    ``kind`` is "segm" or "bbox". Entries of a class without annotated instances are -1.
    """
    return _accumulated(_evaluation(truth, detections, num_classes, kind))


def _evaluation(
    truth: Sequence[Sequence[tuple[int, np.ndarray]]], detections: Sequence[Detections], num_classes: int, kind: str
) -> COCOeval:
    """Every image's detections matched to its instances."""
    images = [{"id": i, "height": d.masks.shape[1], "width": d.masks.shape[2]} for i, d in enumerate(detections)]
    annotated = [_annotation(i, k, mask) for i, instances in enumerate(truth) for k, mask in instances]
    detected = [
        _annotation(i, k, mask) | {"score": float(score), "bbox": _xywh(box)}
        for i, d in enumerate(detections)
        for mask, box, score, k in zip(d.masks, d.boxes, d.scores, d.labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(images, annotated, num_classes), _coco(images, detected, num_classes), kind)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.params.maxDets = [100]  # no figure for small, medium and large: a twelfth of the accumulation
        evaluation.evaluate()
    return evaluation


def _accumulated(evaluation: COCOeval) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0]


def resampled_map(
    truth: Sequence[Sequence[tuple[int, np.ndarray]]],
    detections: Sequence[Detections],
    num_classes: int,
    resamples: Sequence[np.ndarray],
) -> np.ndarray:
    """segm mAP (R,) of R resamples of the images, each given as indices that may repeat: for a bootstrap.

    Images are matched once; COCO's accumulation runs over each resample. Classes without an instance in a resample are
    left out of its mean, as COCO does.
    """
    evaluation = _evaluation(truth, detections, num_classes, "segm")
    matched, images = evaluation.evalImgs, len(truth)  # by class, then image
    found = []
    for chosen in resamples:
        evaluation.evalImgs = [matched[k * images + i] for k in range(num_classes) for i in chosen]
        evaluation.params.imgIds = evaluation._paramsEval.imgIds = list(range(len(chosen)))
        found.append(_mean(_accumulated(evaluation)))
    return np.array(found)


def group_resamples(groups: Sequence[str], resamples: int, seed: int) -> list[np.ndarray]:
    """Bootstrap resamples of images (as indices) that draw whole groups with replacement: images of one part go together."""
    members = pd.Series(range(len(groups))).groupby(np.asarray(groups)).agg(list).tolist()
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))]) for _ in range(resamples)
    ]


def _annotation(image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    segmentation = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    area, bbox = float(rle.area(segmentation)), rle.toBbox(segmentation).tolist()
    return {
        "image_id": image,
        "category_id": int(category),
        "segmentation": segmentation,
        "area": area,
        "bbox": bbox,
        "iscrowd": 0,
    }


def _xywh(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], num_classes: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": [annotation | {"id": i} for i, annotation in enumerate(annotations, start=1)],  # 0 reads as none
        "categories": [{"id": k, "name": str(k)} for k in range(num_classes)],
    }
    coco.createIndex()
    return coco


# --- Overlap and distance ------------------------------------------------------------------------------------------


def match(
    instances: Sequence[tuple[int, np.ndarray]], masks: np.ndarray, labels: np.ndarray, *, iou: float = 0.5
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (annotated mask, detected mask) of one image: each detection, surest first, takes the free annotated
    instance of its class that it overlaps most, if their IoU is at least ``iou``."""
    free = list(instances)
    pairs = []
    for mask, label in zip(masks, labels, strict=True):
        overlaps = [mask_iou(candidate, mask) if category == label else 0.0 for category, candidate in free]
        if overlaps and max(overlaps) >= iou:
            pairs.append((free.pop(int(np.argmax(overlaps)))[1], mask))
    return pairs


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks; 1 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def hausdorff(a: np.ndarray, b: np.ndarray, *, percentile: float = 100) -> float:
    """Symmetric Hausdorff distance of two (H, W) bool masks' boundaries in image diagonals, in [0, 1].

    With ``percentile`` 95, HD95: the larger of the two directed 95th percentiles. 0 where both masks are empty, 1 where
    one is.
    """
    if not a.any() or not b.any():
        return float(a.any() != b.any())
    edges = _boundary(a), _boundary(b)
    directed = [np.percentile(_distance_to(other)[edge], percentile) for edge, other in (edges, edges[::-1])]
    return float(max(directed) / np.hypot(*a.shape))


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Mask pixels with one of four neighbours outside the mask or the image."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def _distance_to(mask: np.ndarray) -> np.ndarray:
    """Exact Euclidean distance in px of every pixel to the nearest one of a mask."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
