"""Orchestration: what Dagster, store and checks add to the methods, in the whole chain with trainings of two steps."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import dagster as dg

from defect_pipeline import profiles
from defect_pipeline.automation.instance import open_instance
from defect_pipeline.automation.jobs import run_everything
from defect_pipeline.definitions import definitions_for
from defect_pipeline.systems.sadf import SADF
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.benchmarks.data import artifacts, draw
from defect_pipeline_tests.benchmarks.timing import Row, seconds

SHORT = replace(
    profiles.EMBEDDED,
    name="short",
    pool=profiles.Pool(variants=2, images=3),
    masks=profiles.Masks(per_class=3),
    drivers=replace(profiles.EMBEDDED.drivers, size=64, crops=2),
    concept=replace(profiles.EMBEDDED.concept, steps=2, batch=2, prior_images=2, window=32),
    hypernetwork=replace(profiles.EMBEDDED.hypernetwork, steps=2, batch=2, window=32),
    synthesis=replace(profiles.EMBEDDED.synthesis, steps=2),
    segmentor=replace(profiles.EMBEDDED.segmentor, steps=2, passes=0, batch=2),
    filter=profiles.Filter(visible=0, ratio=0, on_component=0),
    thresholds=profiles.Thresholds(kid=1e9, fid=1e9, in_mask=0, copies=1, accepted=0),  # an open gate
)


def whole_run(repeats: int) -> Row:
    """A run in an empty store, against the seconds that its stages took by themselves."""
    whole, methods = [], []
    for _ in range(repeats):
        with _opened() as (place, instance):
            whole.append(_run(place, instance))
            alone = _seconds(place)
            methods.append(sum(alone))
    steps = len(alone)
    added = median(all_of_it - sum_of_it for all_of_it, sum_of_it in zip(whole, methods, strict=True)) / steps
    return Row("a run of so many steps", steps, whole, methods, f"its methods alone: {added * 1e3:.0f} ms a step less")


def run_again(repeats: int) -> Row:
    """The same run when all is there."""
    with _opened() as (place, instance):
        _run(place, instance)
        times = [_run(place, instance) for _ in range(repeats)]
        return Row("a run of steps that are not stale", len(_seconds(place)), times, [], "")


@contextmanager
def _opened() -> Iterator[tuple[Workplace, dg.DagsterInstance]]:
    """A component of two classes of defects, and an empty store for it."""
    logging.getLogger("defect_pipeline").setLevel(logging.WARNING)
    with TemporaryDirectory() as directory, patch.dict(profiles.PROFILES, {SHORT.name: SHORT}):
        base = Path(directory)
        for seed, (name, marked) in enumerate({"alpha": 1, "beta": 1, "clean": 0}.items()):
            draw(base / "data" / name, 12, marked=marked, seed=seed)
        place = Workplace.at(base / "store", data=str(base / "data"), profile=SHORT.name)
        place.open()
        with open_instance(place.store_root) as instance:
            yield place, instance


def _run(place: Workplace, instance: dg.DagsterInstance) -> float:
    definitions = definitions_for(place)
    failures: list[str] = []

    def run() -> None:
        failures.extend(run_everything(definitions, instance, place.store, place.pipeline, SADF))

    took = seconds(run)
    assert not failures, " ".join(failures)
    return took


def _seconds(place: Workplace) -> list[float]:
    """Of each stage and class, as its artifact says."""
    return [artifact.metadata["seconds"] for artifact in artifacts(place.store, SADF.plan)]
