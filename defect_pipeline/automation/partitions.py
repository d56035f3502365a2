"""Partitions per defect class: dynamic, since a new class may arrive with new images."""

import dagster as dg

defect_classes = dg.DynamicPartitionsDefinition(name="defect_class")
