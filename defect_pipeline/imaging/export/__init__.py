"""An annotated set in the formats that labelling and training tools read.

A writer `(folder, pictures, categories)` writes the annotations of pictures whose files lie at their `path` below the
folder. All of them put the pixels of a mask where they were; what a format has no word for is said in its module.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from defect_pipeline.imaging.export.coco import write_coco_polygons, write_coco_rle
from defect_pipeline.imaging.export.cvat import write_cvat
from defect_pipeline.imaging.export.label_studio import write_label_studio
from defect_pipeline.imaging.export.pictures import Picture
from defect_pipeline.imaging.export.yolo import write_yolo

WRITERS: dict[str, Callable[[Path, Sequence[Picture], Sequence[str]], None]] = {
    "coco": write_coco_rle,
    "coco-polygons": write_coco_polygons,
    "yolo": write_yolo,
    "cvat": write_cvat,
    "label-studio": write_label_studio,
}
