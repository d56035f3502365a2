"""Partitions per defect class: dynamic, since a new class may arrive with new images."""

import dagster as dg

DEFECT_CLASS = "defect_class"
defect_classes = dg.DynamicPartitionsDefinition(name=DEFECT_CLASS)
