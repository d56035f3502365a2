"""Hours, on demand: the tables of paper A on the user's own data, over seeds; importing a module registers its stages."""

from defect_pipeline.assets.experiments.downstream import downstream_cell, downstream_report
from defect_pipeline.assets.experiments.generators import ablation_cell, ablation_report, variety_cell, variety_summary

tables = [
    downstream_cell,
    downstream_report,
    variety_cell,
    variety_summary,
    ablation_cell,
    ablation_report,
]
