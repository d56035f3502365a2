import dagster as dg

from defect_pipeline.automation.regeneration import RunState, due
from defect_pipeline.definitions import defs


def run(job: str, wanted: str | None = None, partition: str | None = None, under_way: bool = False) -> RunState:
    return RunState(job, partition, wanted, under_way)


def test_only_the_first_stale_step_is_due():
    states = [[run("prepare")], [run("draw", "x", "pit"), run("draw", None, "crack")], [run("learn", "y")]]
    assert [r.job for r in due(states)] == ["draw"]


def test_later_steps_wait_for_runs_under_way():
    assert due([[run("prepare", None, under_way=True)], [run("draw", "x", "pit")]]) == []
    states = [[run("draw", "x", "pit", under_way=True), run("draw", "y", "crack")], [run("learn", "z")]]
    assert [r.partition for r in due(states)] == ["crack"]


def test_nothing_is_due_when_nothing_is_stale():
    assert due([[run("prepare")], [run("draw", None, "pit")]]) == []


def test_a_missing_later_step_is_not_looked_at_before_its_turn():
    def steps():
        yield [run("prepare", "x")]
        raise AssertionError("the classes are not known yet")

    assert len(due(steps())) == 1


def test_the_definitions_load_and_mark_gpu_steps():
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    for name in ("concept_weights", "hypernetwork_weights", "sadf_images", "segmentor"):
        node = graph.get(dg.AssetKey(name))
        assert node.pools == {"gpu"}, name
        assert "dagster-k8s/config" in node.assets_def.op.tags and "dagster-ray/config" in node.assets_def.op.tags
        assert node.owners and node.kinds and node.description and node.group_name
