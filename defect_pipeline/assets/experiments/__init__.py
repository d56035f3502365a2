"""Hours, on demand: the tables of paper A on the user's own data, over seeds; importing a module registers its stages."""

from defect_pipeline.assets.experiments.downstream import table_1, table_1_cell, table_2, table_2_cell
from defect_pipeline.assets.experiments.generators import table_3, table_3_cell, table_4, table_4_cell

tables = [table_1_cell, table_1, table_2_cell, table_2, table_3_cell, table_3, table_4_cell, table_4]
