"""Which stage of the union takes the place of which stage of the first system."""

from defect_pipeline.assets.stage import Pipeline
from defect_pipeline.store import Artifact, Store

INSTEAD = {
    "defect_free_pool": "union_canvases",
    "mask_bank": "union_canvases",
    "topological_drivers": "union_drivers",
    "hypernetwork_weights": "union_weights",
    "sadf_images": "union_images",
    "faithfulness_report": "union_faithfulness_report",
    "copy_report": "union_copy_report",
    "sadf_accepted": "union_accepted",
    "fid_report": "union_fid_report",
    "class_report": "union_class_report",
    "sadf_coco": "union_coco",
    "segmentor": "union_segmentor",
    "segmentation_report": "union_segmentation_report",
}


class UnionStore(Store):
    """A store in which the names of the first system's stages mean the union's: who can read the one can read the other."""

    def current(self, asset: str, partition: str | None = None) -> Artifact:
        """The union's artifact in the place of the first system's of that name."""
        return super().current(INSTEAD.get(asset, asset), partition)


def seen_as_first(store: Store, pipeline: Pipeline) -> Store:
    """The store as it is, or as `UnionStore` where the pipeline is the union's."""
    return UnionStore(root=store.root) if pipeline.system == "union" else store
