"""The example of a CI: what it calls exists, and its thresholds can be read."""

import shlex
from pathlib import Path

import pytest
import yaml

from defect_pipeline.cli import _parser
from defect_pipeline.profiles import load_profile

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = yaml.safe_load((ROOT / "examples" / "ci.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
SCRIPTS = [step["run"] for step in STEPS if "run" in step]
COMMANDS = [line for script in SCRIPTS for line in script.splitlines() if line.startswith("defect-pipeline ")]


def parsed(command: str):
    words = shlex.split(command.split(" > ")[0])
    return _parser().parse_args(words[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_exists(command: str) -> None:
    parsed(command)


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(SystemExit):
        parsed("defect-pipeline check --jsn")


def test_it_runs_checks_and_reports_on_one_store_whatever_failed_before() -> None:
    options = {command.split()[1]: parsed(command) for command in COMMANDS}
    assert list(options) == ["run", "check", "report"] and options["check"].json
    assert {found.store for found in options.values()} == {Path("store")}
    judged = [
        step for step in STEPS if step.get("run", "").startswith(("defect-pipeline check", "defect-pipeline report"))
    ]
    assert [step["if"] for step in judged] == ["always()", "always()"]
    (upload,) = (step for step in STEPS if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "always()"
    assert upload["with"]["path"].split() == ["checks.json", str(options["report"].to)]


def test_it_installs_as_the_readme_says() -> None:
    (script,) = (script for script in SCRIPTS if "requirements.txt" in script)
    assert script.replace(" --system", "") in (ROOT / "README.md").read_text().replace(" && defect-pipeline run", "")


def test_its_thresholds_can_be_read() -> None:
    found = load_profile(str(ROOT / "examples" / "strict.toml")).thresholds
    assert found.of("scratch").kid > found.of("another").kid
