"""A system is a value: what is added to it in one place is known everywhere; a stage reaches what it declares, alone."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from defect_pipeline import definitions, systems
from defect_pipeline.assets.stage import Stage, in_order
from defect_pipeline.declared import MACHINE, Declared, UndeclaredError, declared_values
from defect_pipeline.pipeline import Pipeline
from defect_pipeline.profiles import EMBEDDED, Profile
from defect_pipeline.systems import SYSTEMS, sadf
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import grown

STAGES = list(dict.fromkeys(one for system in SYSTEMS for one in system.all_stages))


# --- The catalogue -------------------------------------------------------------------------------------------------


def test_names_tell_stages_and_jobs_apart():
    for named in (STAGES, dict.fromkeys(check for system in SYSTEMS for check in system.checks)):
        keys = [getattr(one, "stage", one).name + one.name for one in named]
        assert len(keys) == len(set(keys))
    jobs: dict[str, tuple[Stage, ...]] = {}
    for step in (step for system in SYSTEMS for step in system.all_steps):
        assert jobs.setdefault(step.job, step.stages) == step.stages


def test_the_first_system_is_the_chain_that_the_user_named():
    names = [one.name for step in systems.system_named("sadf").plan for one in step.stages]
    chain = (
        "inspection_images", "defect_free_pool", "topological_drivers", "concept_weights", "hypernetwork_weights",
        "sadf_coco", "segmentor",
    )  # fmt: skip
    assert [name for name in names if name in chain] == list(chain)
    assert names.index("hypernetwork_weights") < names.index("sadf_images") < names.index("fid_report")


def test_a_plan_makes_parents_first_and_knows_how_often():
    for system in SYSTEMS:
        done: set[Stage] = set()
        for step in system.plan:
            assert len({one.partitioned for one in step.stages}) == 1
            for one in step.stages:
                assert done >= set(one.parents) & set(system.stages), (one, one.parents)
                done.add(one)
        assert done == set(system.stages)


def test_another_system_is_refused_with_the_names():
    with pytest.raises(Exception, match="use one of sadf, stablesdg, union"):
        systems.system_named("sdaf")


# --- Adding to a system --------------------------------------------------------------------------------------------


def test_plan_and_ui_know_what_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So do check, report and card: see `summary`."""
    first = grown(monkeypatch)
    assert "brightness_report" in [one.name for one in first.plan[0].stages]
    made = definitions.definitions_for(Workplace.at(tmp_path))
    graph, key = made.resolve_asset_graph(), dg.AssetKey("brightness_report")
    assert graph.get(key).description == "How bright the train images are."
    assert dg.AssetCheckKey(key, "not_too_bright") in graph.asset_check_keys
    assert key in made.resolve_job_def("prepare").asset_layer.executable_asset_keys


# --- What a stage declares -----------------------------------------------------------------------------------------


def leaves(section: Any, above: str = "") -> dict[str, Any]:
    """Every value of a profile by its dotted name."""
    found: dict[str, Any] = {}
    for field in fields(section):
        value, name = getattr(section, field.name), f"{above}{field.name}"
        found |= leaves(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found


def changed(profile: Profile, name: str) -> Profile:
    """The profile with another value there, whether it makes sense or not."""

    def with_value(section: Any, rest: str) -> Any:
        head, _, below = rest.partition(".")
        value = getattr(section, head)
        new = with_value(value, below) if below else (*value, "new") if isinstance(value, tuple) else {"new": {}} if isinstance(value, dict) else f"{value}!"  # fmt: skip
        copied = object.__new__(type(section))
        copied.__dict__.update(section.__dict__ | {head: new})
        return copied

    return with_value(profile, name)


@pytest.mark.parametrize("one", STAGES, ids=lambda one: one.name)
def test_a_stage_can_read_what_its_digest_covers_and_nothing_else(one: Stage, tmp_path: Path):
    for name in leaves(EMBEDDED):
        reader = Declared(EMBEDDED, one.settings, one.name)
        other = changed(EMBEDDED, name)
        covered = declared_values(EMBEDDED, one.settings) != declared_values(other, one.settings)
        try:
            for attribute in name.split("."):
                reader = getattr(reader, attribute)
            readable = True
        except UndeclaredError:
            readable = False
        if name not in MACHINE and not name.endswith("per_class"):
            assert readable == covered, name


@pytest.mark.parametrize("one", STAGES, ids=lambda one: one.name)
def test_declared_names_exist_and_parents_come_first(one: Stage):
    declared_values(EMBEDDED, one.settings)
    assert set(one.options) <= set(Pipeline.model_fields)
    order = in_order(STAGES)
    assert all(order.index(parent) < order.index(one) for parent in one.parents)


def test_an_undeclared_setting_is_refused_with_the_name_of_the_stage():
    settings = Declared(EMBEDDED, ("drivers.size", "thresholds.kid"), "a stage")
    assert settings.drivers.size == EMBEDDED.drivers.size
    assert settings.device == EMBEDDED.device
    with pytest.raises(UndeclaredError, match="a stage reads Drivers.zoom, which it does not declare"):
        _ = settings.drivers.zoom
    with pytest.raises(UndeclaredError, match="Profile.synthesis"):
        _ = settings.synthesis


def test_of_thresholds_a_stage_sees_those_of_the_classes_too():
    from defect_pipeline.profiles import Thresholds

    profile = replace(EMBEDDED, thresholds=Thresholds(kid=1, fid=2, per_class={"pit": {"kid": 3, "fid": 4}}))
    settings = Declared(profile, ("thresholds.kid",), "a stage")
    assert settings.thresholds.limit("kid", "pit") == 3 and settings.thresholds.limit("kid", "burn") == 1
    with pytest.raises(UndeclaredError):
        settings.thresholds.limit("fid", "pit")


def test_the_code_version_covers_settings_so_that_dagster_knows_what_is_stale():
    pipeline = Pipeline(data="x", settings=EMBEDDED)
    other = Pipeline(data="x", settings=replace(EMBEDDED, stablesdg=replace(EMBEDDED.stablesdg, strength=0.7)))
    moved = {one.name for one in STAGES if one.code_version(pipeline) != one.code_version(other)}
    assert "strength_and_guidance" in moved and "stablesdg_fid_report" not in moved and "sadf_images" not in moved


def test_the_user_named_chain_is_what_the_first_systems_module_shows():
    assert sadf.masked.images is sadf.images and sadf.SADF.masked is sadf.masked
