"""Generators that know nothing beforehand, to hold the second system against (paper B, Table V); no dagster."""
