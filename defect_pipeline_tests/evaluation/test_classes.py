import numpy as np

from defect_pipeline.assets.classes import ClassConfusion
from defect_pipeline.evaluation.classes import confusion


def features(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each class about a place of its own in 200 dimensions, of which all share a large mean."""
    centres = 10 + np.random.default_rng(0).normal(0, 1, (3, 200))
    return centres[labels] + rng.normal(0, 1, (len(labels), 200))


def test_a_probe_tells_classes_apart_and_a_small_one_is_not_drowned():
    rng = np.random.default_rng(1)
    train = np.repeat([0, 1, 2], [60, 60, 4])
    labels = np.repeat([0, 1, 2], 10)
    table = confusion(features(train, rng), train, features(labels, rng), labels, 3)
    assert table.sum() == 30 and (table.sum(axis=1) == 10).all() and (np.diag(table) >= 9).all()


def test_shuffled_classes_are_found():
    """The fault planted: what is called class 0 shows class 1, and the other way round."""
    rng = np.random.default_rng(2)
    train, labels = np.repeat([0, 1, 2], 20), np.repeat([0, 1, 2], 10)
    probe = features(train, rng), train
    real = confusion(*probe, features(labels, rng), labels, 3).tolist()
    sound = confusion(*probe, features(labels, rng), labels, 3).tolist()
    shuffled = confusion(*probe, features(np.array([1, 0, 2])[labels], rng), labels, 3).tolist()
    names = ["a", "b", "c"]
    assert ClassConfusion(names, sound, real).problems() == []
    found = ClassConfusion(names, shuffled, real).problems()
    assert len(found) == 2 and "a defects look like b" in found[0] and "b defects look like a" in found[1]


def test_what_real_defects_do_not_tell_is_not_held_against_synthetic_ones():
    assert ClassConfusion(["a", "b"], [[0, 9], [0, 9]], [[1, 4], [0, 5]]).problems() == []


def test_a_probe_that_scatters_a_class_proves_nothing():
    names, real = list("abcd"), (10 * np.eye(4, dtype=int)).tolist()
    scattered = [[15, 8, 13, 4], [10, 18, 4, 8], [9, 8, 20, 3], [11, 13, 12, 4]]
    assert ClassConfusion(names, scattered, real).problems() == []
    exchanged = ClassConfusion(names, [scattered[k] for k in (2, 1, 0, 3)], real).problems()
    assert exchanged == ["20 of 40 synthetic a defects look like c.", "15 of 40 synthetic c defects look like a."]
    one_for_all = ClassConfusion(names, [[1, 9, 0, 0]] * 4, real).problems()
    assert one_for_all == [f"9 of 10 synthetic {k} defects look like b." for k in "acd"]
