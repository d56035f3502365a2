"""What the generator itself is worth over seeds: paper A, Table 3 (variety) and Table 4 (concept before condition)."""

from collections.abc import Sequence
from functools import partial

from defect_pipeline.assets.experiments.rows import bars_of, interval, keep_rows, keep_table, rows_of, table_stage
from defect_pipeline.assets.experiments.shares import SEEDS, chain_of, train_groups
from defect_pipeline.assets.inspection import inspection_images
from defect_pipeline.assets.order import ORDERS, Judged
from defect_pipeline.assets.stage import PICTURES, Build, Stage, stage
from defect_pipeline.imaging.io import read_image
from defect_pipeline.lazy import pd

SEED_CELLS = {f"seed {seed}": seed for seed in SEEDS}
FEW = "10%"  # of the groups: where the paper asks whether the concept helps


cells_stage = partial(
    stage, parents=(inspection_images,), settings=("splits",), group="experiments", kinds={"torch", "diffusers"},
    version="2", cells=tuple(SEED_CELLS), gpu=True,
)  # fmt: skip


def variety_tables(chain: Sequence[Stage], variety: Stage) -> tuple[Stage, Stage]:
    """The stages of Table 3 and of its cells, which make the ``chain`` and its report of ``variety``."""

    @cells_stage(makes=(*chain, variety))
    def table_3_cell(build: Build) -> None:
        """How different ten images of one driver are, for ten drivers of each class, with one seed and all groups."""
        seed = SEED_CELLS[build.partition or ""]
        made = chain_of(build, "100%", seed).make(variety)
        keep_rows(build, [{"seed": seed, "class": k, **row} for k, one in made.items() for row in one.load(list[dict])])

    @table_stage(table_3_cell)
    def table_3(build: Build) -> None:
        """Table 3: the variety of images all from noise, as shipped, and inpainted, over classes and seeds."""
        rows = rows_of(build, table_3_cell, tuple(SEED_CELLS))
        figures = ("l2", "l2_under_masks", "mutual_information", "kid", "fid")
        table = pd.DataFrame(
            [
                {"images": name} | {k: v for f in figures for k, v in interval(own[f], f, build.seed).items()}
                | {"n": own["n"].sum(), "seeds": own["seed"].nunique()}
                for name, own in rows.groupby("images", sort=False)
            ]
        )  # fmt: skip
        keep_table(build, "table_3", table, rows)
        build.picture("table_3", bars_of(table, "images", "l2", "L2 between ten images of a driver (grey levels)"))

    return table_3_cell, table_3


def order_tables(chain: Sequence[Stage], order: Stage) -> tuple[Stage, Stage]:
    """The stages of Table 4 and of its cells, which make the ``chain`` and its report of the ``order`` of learning."""

    @cells_stage(makes=(*chain, order))
    def table_4_cell(build: Build) -> None:
        """Condition only against concept, then condition, with a tenth of the groups and one seed."""
        seed = SEED_CELLS[build.partition or ""]
        made_from = chain_of(build, FEW, seed)
        made = made_from.make(order)[None]
        cell = {"seed": seed, "groups": len(train_groups(made_from.dataset))}
        keep_rows(build, [{**cell, **vars(one)} for one in made.load(list[Judged])])
        build.picture("images", read_image(made.path / PICTURES / "images.png"))

    @table_stage(table_4_cell)
    def table_4(build: Build) -> None:
        """Table 4, #1 and #2: KID and FID by order of learning, and what the concept changes, seed by seed."""
        rows = rows_of(build, table_4_cell, tuple(SEED_CELLS))
        by_cell, lines, seed = rows.set_index(["seed", "defect_class"]), [], build.seed
        for name in ORDERS:
            own, alone = (by_cell[by_cell["order"] == one] for one in (name, ORDERS[0]))
            line: dict[str, float | str] = {"order": name}
            for figure in ("kid", "fid"):
                change = own[figure] - alone[figure]
                line |= interval(own[figure], figure, seed) | interval(change, f"{figure} change", seed)
            lines.append(line | {"n": own["n"].sum(), "groups": own["groups"].mean(), "seeds": rows["seed"].nunique()})
        table = pd.DataFrame(lines)
        keep_table(build, "table_4", table, rows)
        build.picture("table_4", bars_of(table, "order", "kid", "KID to held-out images, all from noise"))

    return table_4_cell, table_4
