"""Hours, on demand: the tables of both papers on the user's own data; importing a module registers its stages."""

from defect_pipeline.assets.experiments.adaptation import (
    table_ii,
    table_ii_cell,
    table_iii,
    table_iii_cell,
    table_iv,
    table_iv_cell,
)
from defect_pipeline.assets.experiments.comparison import table_v, table_v_cell
from defect_pipeline.assets.experiments.downstream import table_1, table_1_cell, table_2, table_2_cell
from defect_pipeline.assets.experiments.generators import table_3, table_3_cell, table_4, table_4_cell
from defect_pipeline.assets.experiments.recognition import figure_9, figure_9_cell, table_vi, table_vi_cell
from defect_pipeline.assets.experiments.union import table_union

tables = [
    table_1_cell, table_1, table_2_cell, table_2, table_3_cell, table_3, table_4_cell, table_4,
    table_ii_cell, table_ii, table_iii_cell, table_iii, table_iv_cell, table_iv, table_v_cell, table_v,
    table_vi_cell, table_vi, figure_9_cell, figure_9, table_union,
]  # fmt: skip
