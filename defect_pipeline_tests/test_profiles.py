"""Settings: files, overrides, what is refused and how, and that what is printed can be read."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from defect_pipeline import profiles
from defect_pipeline.cli import main
from defect_pipeline.errors import PipelineError
from defect_pipeline.profiles import (
    EMBEDDED,
    EMBEDDED_BACKBONE,
    SD15,
    TABLE_I,
    Profile,
    Thresholds,
    load_profile,
    profile_toml,
    settings_page,
)
from defect_pipeline.workplace import Workplace

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = Thresholds(kid=0.7, fid=350.0, per_class={"pit": {"kid": 0.1}})


@pytest.fixture
def read(tmp_path: Path):
    def write(text: str, name: str = "mine.toml") -> Profile:
        (tmp_path / name).write_text(text)
        return load_profile(str(tmp_path / name))

    return write


# --- Files ---------------------------------------------------------------------------------------------------------


def test_a_file_names_what_differs_from_its_base(read) -> None:
    found = read('base = "sd15"\n[synthesis]\nsteps = 12')
    assert found == replace(SD15, name="mine", synthesis=replace(SD15.synthesis, steps=12))


def test_a_base_may_be_a_file_beside_it(read) -> None:
    read('base = "embedded"\n[concept]\nsteps = 5', "first.toml")
    found = read('base = "first.toml"\n[concept]\nbatch = 3')
    assert (found.concept.steps, found.concept.batch) == (5, 3) and found.name == "mine"


def test_directories_are_relative_to_the_file_that_names_them(read, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = read('base = "sd15"\nbackbone = "models/own"\n[segmentor]\nweights = "../weights"')
    assert found.backbone == str(tmp_path / "models" / "own")
    assert found.segmentor.weights == str(tmp_path.parent / "weights")
    assert found.extractor_weights == SD15.extractor_weights  # which this file does not name
    assert read('base = "sd15"\nbackbone = "embedded"').backbone == str(EMBEDDED_BACKBONE)


def test_one_setting_is_changed_for_one_run() -> None:
    found = load_profile("embedded", ["synthesis.steps=12", "stablesdg.prompt=a scratch", "masks.sizes=[0.5, 2]"])
    assert (found.synthesis.steps, found.stablesdg.prompt, found.masks.sizes) == (12, "a scratch", (0.5, 2.0))
    assert load_profile("embedded", ["thresholds.per_class.pit.kid=0.5"]).thresholds.of("pit").kid == 0.5


def test_a_setting_of_one_class_leaves_those_of_the_others() -> None:
    found = load_profile("papers", ["stablesdg.per_class.crazing=[0.2, 3.0]", 'stablesdg.per_class."a.b"=[0.5, 1.0]'])
    assert found.stablesdg.per_class == TABLE_I | {"crazing": (0.2, 3.0), "a.b": (0.5, 1.0)}
    assert load_profile("papers", ["stablesdg.per_class={}"]).stablesdg.per_class == {}
    assert load_profile("embedded", ["splits.train=0.2", "splits.test=0.7"]).splits == profiles.Splits(0.2, 0.1, 0.7)


def test_a_file_may_begin_with_its_encoding_and_hold_any_letter(read) -> None:
    odd = replace(EMBEDDED, concept=replace(EMBEDDED.concept, token='k\x7f"ä\n'))
    assert read("\ufeff" + profile_toml(odd)).concept.token == odd.concept.token


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[synthesis]\nstps = 3",
            r"mine\.toml: there is no setting 'synthesis\.stps'\. Did you mean synthesis\.steps\?",
        ),
        ("[sinthesis]\nsteps = 3", r"there is no setting 'sinthesis'\. Did you mean synthesis\?"),
        ("synthesis = 3", r"synthesis is a section; write \[synthesis\]"),
        ('[synthesis]\nsteps = "many"', r"synthesis\.steps is 'many'; it should be a valid integer"),
        ("[synthesis]\nsteps = 1.5", r"synthesis\.steps is 1\.5"),
        ("[synthesis]\nsteps = 0", r"synthesis\.steps is 0; it should be greater than or equal to 1"),
        ("[synthesis]\nguidance = 2.0", r"guidance is 2\.0 and defect_guidance 1\.75; set one of them to 1"),
        ("[synthesis]\ntransfer = 1", r"synthesis\.transfer is 1"),
        ("[drivers]\nsize = 100", r"drivers\.size is 100; it should be a multiple of 8"),
        ("[masks]\nsizes = [2, 1]", r"sizes of masks are \(2\.0, 1\.0\)"),
        ('[masks]\nplacement = "far"', r"masks\.placement is 'far'; it should be 'near' or 'learned'"),
        ("[drivers]\nblock = 4", r"drivers\.block is 4; it is odd"),
        ("[splits]\ntrain = 0.9", r"The splits are \(0\.9, 0\.1, 0\.3\); they are shares"),
        ("[concept]\nlearning_rate = inf", r"concept\.learning_rate is inf"),
        ("[recognition]\nmodels = []", r"recognition\.models is \(\)"),
        ("[optimizer]\nema = 1", r"optimizer\.ema is 1"),
        ("steps: 3", r"mine\.toml is not TOML \(.*\): correct it"),
        ("[stablesdg.per_class]\npit = [2.0, 1.0]", r"stablesdg\.per_class\.pit is \(2\.0, 1\.0\)"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(text: str, said: str, read) -> None:
    with pytest.raises(PipelineError, match=said):
        read(f'base = "embedded"\n{text}')


def test_what_is_no_profile_is_said_so(read, tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"no profile 'embeded'; use one of embedded, sd15.*Did you mean embedded\?"
    ):
        load_profile("embeded")
    with pytest.raises(PipelineError, match=r"lost\.toml cannot be read \(No such file or directory\).*--profile"):
        load_profile(str(tmp_path / "lost.toml"))
    with pytest.raises(PipelineError, match=r"mine\.toml, its base 'nope': There is no profile 'nope'"):
        read('base = "nope"')
    with pytest.raises(PipelineError, match=r"mine\.toml: begin it with the profile that it differs from"):
        read("[synthesis]\nsteps = 3")
    with pytest.raises(PipelineError, match=r"a\.toml is its own base, by way of .*b\.toml"):
        (tmp_path / "b.toml").write_text('base = "a.toml"')
        read('base = "b.toml"', "a.toml")
    with pytest.raises(PipelineError, match=r"--set synthesis\.steps: write NAME=VALUE"):
        load_profile("embedded", ["synthesis.steps"])


# --- Thresholds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, read):
    monkeypatch.setitem(profiles.PROFILES, "before", replace(EMBEDDED, thresholds=DEFAULTS))
    return lambda text: read(f'base = "before"\n[thresholds]\n{text}').thresholds


def test_an_empty_section_changes_nothing(limits) -> None:
    assert limits("") == DEFAULTS


def test_a_class_has_its_own_and_the_rest_from_all_and_the_rest_of_that_from_the_base(limits) -> None:
    found = limits('kid = 0.5\ncopies = 0\n[thresholds.per_class."rolled-in scale"]\nfid = 90\naccepted = 0.9')
    assert found.of("pit") == replace(DEFAULTS, kid=0.1, copies=0, per_class={})
    assert found.of("rolled-in scale") == replace(DEFAULTS, kid=0.5, copies=0, fid=90, accepted=0.9, per_class={})
    assert found.of("another") == replace(DEFAULTS, kid=0.5, copies=0, per_class={})


def test_a_gate_may_be_open(limits) -> None:
    assert limits("fid = inf").fid == math.inf


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kdi = 0.5", r"mine\.toml: there is no setting 'thresholds\.kdi'\. Did you mean thresholds\.kid\?"),
        ("per_class.pit.kdi = 1", r"mine\.toml: thresholds\.per_class\.pit: there is no threshold 'kdi'"),
        ("pit.kid = 0.5", r"there is no setting 'thresholds\.pit'"),
        ("copies = 5", r"thresholds\.copies is 5; it should be less than or equal to 1"),
        ("accepted = -0.1", r"accepted is -0\.1"),
        ("fid = -1", r"fid is -1; it should be greater than or equal to 0"),
        ("kid = nan", r"kid is nan"),
        ("kid = true", r"kid is True"),
        ('kid = "0.5"', r"kid is '0\.5'"),
        ("per_class = 3", r"per_class is no table; write \[thresholds\.per_class\.CLASS\]"),
        ("per_class.pit = 3", r"per_class\.pit is 3"),
        (
            "per_class.pit.copies = 3",
            r"thresholds\.per_class\.pit is \{.*'copies': 3\.0\}: Input should be less than or equal to 1",
        ),
    ],
)
def test_a_threshold_that_is_wrong_is_named(text: str, said: str, limits) -> None:
    with pytest.raises(PipelineError, match=said):
        limits(text)


def test_a_class_that_the_images_do_not_show_is_named() -> None:
    DEFAULTS.check_classes(["burn", "pit"])
    with pytest.raises(PipelineError, match="a class 'pit', but the images show burn, scratch"):
        DEFAULTS.check_classes(["burn", "scratch"])


def test_only_what_an_artifact_looks_at_is_part_of_its_digest() -> None:
    assert DEFAULTS.over_classes("kid") == (0.7, {"pit": 0.1})
    assert DEFAULTS.over_classes("fid") == 350.0


# --- The shipped profiles ------------------------------------------------------------------------------------------


def test_the_papers_values_are_the_defaults() -> None:
    differs = tomllib.loads((Path(profiles.__file__).parent / "sd15.toml").read_text())
    assert set(differs) == {"backbone", "extractor_weights", "segmentor"}
    papers = Profile()
    assert (papers.drivers.size, papers.stablesdg.rank, papers.stablesdg.batch) == (512, 1, 4)
    assert (papers.stablesdg.token_learning_rate, papers.stablesdg.learning_rate) == (5e-4, 1e-4)
    assert papers.stablesdg.per_class == TABLE_I and not papers.stablesdg.tune and papers.synthesis.strength == 1


def test_the_short_trainings_of_the_embedded_profile() -> None:
    assert [EMBEDDED.optimizer.warmup_steps(steps) for steps in (2, 80, 130, 200)] == [1, 4, 6, 10]
    assert all(EMBEDDED.optimizer.warmup_steps(steps) == max(1, steps // 20) for steps in range(1, 2000))


# --- What is printed -----------------------------------------------------------------------------------------------


OWN = replace(EMBEDDED, thresholds=DEFAULTS, stablesdg=replace(EMBEDDED.stablesdg, per_class={"pit": (0.5, 2.0)}))


@pytest.mark.parametrize("profile", [EMBEDDED, SD15, Profile(), OWN], ids=lambda profile: profile.name)
def test_a_printed_profile_is_a_file_that_can_be_read(profile: Profile, read, tmp_path: Path) -> None:
    directories = {"backbone": EMBEDDED_BACKBONE, "extractor_weights": tmp_path}
    profile = replace(profile, **{name: str(path) for name, path in directories.items()})
    profile = replace(profile, segmentor=replace(profile.segmentor, weights=str(tmp_path)))
    for diff in (False, True):
        assert replace(read(profile_toml(profile, diff=diff)), name=profile.name) == profile


def test_show_prints_each_value_below_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "show", "embedded", "--set", "synthesis.steps=12"]) == 0
    printed = capsys.readouterr().out
    assert "# Solver steps (DPM-Solver++).\nsteps = 12" in printed
    assert main(["profile", "show", "sd15", "--diff"]) == 0
    assert "models/maskrcnn" in (printed := capsys.readouterr().out) and "[synthesis]" not in printed


def test_every_setting_has_a_meaning() -> None:
    undocumented = [line for line in profile_toml(EMBEDDED).splitlines() if line.strip() == "#"]
    assert undocumented == []


def test_the_settings_page_is_current() -> None:
    """Written by `python -m defect_pipeline.profiles`."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page()


# --- The store -----------------------------------------------------------------------------------------------------


def test_a_store_keeps_what_it_was_made_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "gate.toml").write_text('base = "embedded"\n[thresholds]\nkid = 0.01')
    monkeypatch.chdir(tmp_path)
    Workplace.at(tmp_path / "store", data="data", profile="gate.toml", overrides=["concept.steps=7"]).open()
    (tmp_path / "gate.toml").unlink()
    monkeypatch.chdir(tmp_path / "data")
    place = Workplace.at(tmp_path / "store")
    assert place.settings.thresholds == replace(EMBEDDED.thresholds, kid=0.01) and place.settings.concept.steps == 7
    assert (
        place.settings.backbone == str(EMBEDDED_BACKBONE)
        and str(EMBEDDED_BACKBONE) not in (tmp_path / "store" / "pipeline.json").read_text()
    )  # so that a store opens where the package lies elsewhere
    Workplace.at(tmp_path / "store", profile="embedded").open()
    assert Workplace.at(tmp_path / "store").settings == EMBEDDED


def test_a_file_that_is_not_there_is_named_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"lost\.toml cannot be read"):
        Workplace.at(tmp_path / "store", profile=str(tmp_path / "lost.toml"))
    assert not (tmp_path / "store").exists()


def test_settings_of_classes_come_back_from_a_store_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Workplace(tmp_path / "store", data=str(tmp_path / "data"), settings=OWN).open()
    assert Workplace.at(tmp_path / "store").settings == OWN


def test_a_note_whose_thresholds_are_gone_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text(
        json.dumps({"profile": "embedded", "thresholds": str(tmp_path / "gone.toml")})
    )
    with pytest.raises(PipelineError, match=r"thresholds of the store, .*gone\.toml, cannot be read"):
        Workplace.at(tmp_path)


def test_a_store_of_the_version_before_opens(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("kid = 0.01\n[per_class.pit]\nfid = 9")
    note = {"data": "", "profile": "sd15", "seed": 3, "system": "union", "thresholds": str(tmp_path / "limits.toml")}
    (tmp_path / "pipeline.json").write_text(json.dumps(note))
    place = Workplace.at(tmp_path)
    assert (place.settings.name, place.seed, place.system) == ("sd15", 3, "union")
    assert place.settings.thresholds.kid == 0.01 and place.settings.thresholds.of("pit").fid == 9
