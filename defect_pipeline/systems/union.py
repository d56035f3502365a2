"""Both systems in one: StableSDG's adapted backbone, steered by the first system's drivers (paper B's future work)."""

from defect_pipeline.assets.drivers import topological_drivers
from defect_pipeline.assets.experiments import union as comparison
from defect_pipeline.assets.faithfulness import faithfulness_report
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.stablesdg.adapt import lora_weights, token_embedding
from defect_pipeline.assets.stablesdg.tune import strength_and_guidance
from defect_pipeline.assets.synthesis import painted_images
from defect_pipeline.assets.union.canvases import union_canvases
from defect_pipeline.assets.union.generate import UnionFrom
from defect_pipeline.assets.union.learn import union_weights
from defect_pipeline.summary import tables
from defect_pipeline.system import Sheet, System, Table
from defect_pipeline.systems import sadf, stablesdg
from defect_pipeline.systems.masked import (
    Sheets,
    checks_of,
    closing_of,
    count_of,
    figures_of,
    held_out_of,
    shelves_of,
)

canvases = union_canvases
drivers = topological_drivers(canvases, canvases, name="union_drivers", group="union")
weights = union_weights(drivers)
painted_from = UnionFrom(drivers, weights)
images = painted_images(painted_from, name="union_images", group="union")
faithfulness = faithfulness_report(painted_from, images, name="union_faithfulness_report", group="union")
masked = Masked.following(
    canvases, canvases, drivers, images, faithfulness, prefix="union_", sets="union", group="union"
)
adapted = (token_embedding, lora_weights, strength_and_guidance)
own = (canvases, drivers, weights, images, faithfulness, *masked.judged)
second = (*adapted, stablesdg.images, stablesdg.copies)
compared = (
    *sadf.painted_and_judged,
    *second,
    canvases,
    drivers,
    weights,
    images,
    faithfulness,
    masked.copies,
    masked.accepted,
)
table_union = comparison.table_union(sadf.masked, masked, stablesdg.images, stablesdg.copies, compared)

_sheets = Sheets.of(masked)

UNION = System(
    name="union",
    title="StableSDG's generator, steered by masks and drivers",
    painted="from noised photographs by a generator of each class (StableSDG), steered by masks (controllable synthesis, "
    "arXiv 2401.03152)",
    stages=(inspection_images, *adapted, *own),
    jobs=("register", "unite", "join_union"),
    checks=checks_of(masked),
    closing=closing_of(masked),
    figures=figures_of(masked),
    overview=_sheets.overview,
    of_classes=(
        *_sheets.of_classes,
        Sheet(
            strength_and_guidance,
            "strength and guidance",
            "Strength and guidance",
            "KID and copies of each pair that was tried.",
        ),
        Sheet(
            weights,
            "fixed drivers over steps",
            "How the generator learned",
            "What it paints for the same drivers as its training goes on.",
        ),
    ),  # fmt: skip
    results=(_sheets.tests, _sheets.segmentor_loss),
    shelves=shelves_of(masked),
    held_out=held_out_of(masked),
    count=count_of(masked),
    masked=masked,
    images=images,
    judged=masked.fid,
    tables=(Table("union", table_union, tables.union_table),),
)
