"""The first system: controllable synthesis (Valvano et al., paper A). The chain, from images to a segmentor."""

from defect_pipeline.assets.concept import concept_weights
from defect_pipeline.assets.drivers import topological_drivers
from defect_pipeline.assets.experiments import downstream, generators
from defect_pipeline.assets.faithfulness import faithfulness_report
from defect_pipeline.assets.hypernetwork import hypernetwork_weights
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.masked import Masked
from defect_pipeline.assets.masks import mask_bank
from defect_pipeline.assets.order import order_report
from defect_pipeline.assets.pool import defect_free_pool
from defect_pipeline.assets.quality import agreement_report, autoencoder_report, kid_ladder, variety_report
from defect_pipeline.assets.shapes import shape_report
from defect_pipeline.assets.synthesis import PaintedFrom, painted_images
from defect_pipeline.summary import tables
from defect_pipeline.summary.quality import quality_of
from defect_pipeline.system import Quality, Sheet, System, Table
from defect_pipeline.systems.masked import (
    Sheets,
    checks_of,
    closing_of,
    count_of,
    figures_of,
    held_out_of,
    shelves_of,
)

pool = defect_free_pool
bank = mask_bank
drivers = topological_drivers(pool, bank)
concept = concept_weights(drivers)
hypernetwork = hypernetwork_weights(drivers, concept)
painted_from = PaintedFrom(pool, bank, drivers, concept, hypernetwork)
images = painted_images(painted_from, name="sadf_images", group="synthesis")
faithfulness = faithfulness_report(painted_from, images, name="faithfulness_report", group="evaluation")
masked = Masked.following(pool, bank, drivers, images, faithfulness)

# What the generator is worth, on demand.
ladder = kid_ladder(painted_from, images)
agreement = agreement_report(painted_from, images, masked.segmentor)
variety = variety_report(painted_from)
order = order_report(painted_from)

painted_and_judged = (
    pool, bank, drivers, concept, hypernetwork, images, faithfulness, masked.copies, masked.accepted,
)  # fmt: skip
chain = (*painted_and_judged, masked.fid, masked.joined)
table_1_cell, table_1, table_2_cell, table_2 = downstream.tables(masked, chain)
table_3_cell, table_3 = generators.variety_tables(chain, variety)
table_4_cell, table_4 = generators.order_tables(chain, order)

_sheets = Sheets.of(masked)
_learned = Sheet(hypernetwork, "fixed drivers over steps", "How the generator learned", "What it paints for the same drivers as its training goes on.")  # fmt: skip

SADF = System(
    name="sadf",
    title="SADF: masks and drivers",
    painted="on augmented defect-free photographs (controllable synthesis, arXiv 2401.03152)",
    stages=(inspection_images, pool, bank, drivers, concept, hypernetwork, images, faithfulness, *masked.judged),
    jobs=("prepare", "draw", "learn", "synthesise", "join"),
    checks=checks_of(masked),
    closing=closing_of(masked),
    figures=figures_of(masked),
    overview=_sheets.overview,
    of_classes=_sheets.of_classes,
    results=(
        _sheets.tests,
        _learned,
        _sheets.segmentor_loss,
        Sheet(concept, "loss", "Loss of the concept"),
        Sheet(hypernetwork, "loss", "Loss of the hypernetwork"),
    ),
    shelves=shelves_of(masked),
    held_out=held_out_of(masked),
    count=count_of(masked),
    masked=masked,
    images=images,
    judged=masked.fid,
    quality=Quality(
        (ladder, agreement, variety, shape_report, autoencoder_report, order),
        quality_of(
            ladder=ladder,
            agreement=agreement,
            variety=variety,
            shapes=shape_report,
            autoencoder=autoencoder_report,
            order=order,
            faithfulness=faithfulness,
        ),
        (
            Sheet(autoencoder_report, "crops", "Held-out crops, decoded"),
            _learned,
            Sheet(images, "contact sheet", "What was painted"),
            Sheet(images, "contact sheet with masks", "The same with their masks"),
            Sheet(ladder, "ladder", "Step by step"),
            Sheet(ladder, "from noise", "All from noise"),
            Sheet(faithfulness, "best", "Where the defect stands out most"),
            Sheet(faithfulness, "worst", "Where it stands out least"),
            Sheet(masked.copies, "nearest training defects", "Nearest to training defects"),
            Sheet(agreement, "twins", "Twins, all from noise"),
            Sheet(variety, "one driver, ten seeds", "One driver, ten seeds"),
            Sheet(shape_report, "shapes", "Masks of each strategy"),
            Sheet(order, "images", "Condition alone, and after the concept"),
        ),
    ),  # fmt: skip
    tables=(
        Table("1", table_1, tables.segmentor_table, (table_1_cell,)),
        Table("2", table_2, tables.segmentor_table, (table_2_cell,)),
        Table("3", table_3, tables.variety_table, (table_3_cell,)),
        Table("4", table_4, tables.order_table, (table_4_cell,)),
    ),
)
