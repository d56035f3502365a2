"""The documentation: short, without dead links, and true to the command line."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from defect_pipeline.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "data" / "README.md", *sorted((ROOT / "data" / "results").glob("*.md"))]
WORDS = 1200  # two screens
BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMAND = re.compile(r"\bdefect-pipeline (?=[a-z-])")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def spans(text: str) -> list[str]:
    """Inline code, and code blocks line by line."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [*lines, *SPAN.findall(BLOCK.sub("", text))]


def commands(text: str) -> Iterator[str]:
    """What follows each `defect-pipeline` in code, as far as the command goes."""
    for code in spans(text):
        for call in COMMAND.split(code)[1:]:
            yield re.split(r"&&|;| > | #", call.replace("\\|", "|"))[0].strip()


def options_of(command: str) -> set[str]:
    """The options of the command that a call begins with. Raises LookupError where the parser knows none of that name."""
    parser = _parser()
    for word in command.split():
        if (inner := subcommands(parser)) is None:
            break
        if word not in inner:
            raise LookupError(f"there is no command {command!r}")
        parser = inner[word]
    if subcommands(parser) is not None:
        raise LookupError(f"{command!r} names no command of {sorted(subcommands(parser) or ())}")
    return {option for action in parser._actions for option in action.option_strings}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser] | None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return None


def unknown(text: str) -> list[str]:
    """Commands and options in code that the parser does not know."""
    found = []
    for command in commands(text):
        try:
            known = options_of(command)
        except LookupError as error:
            found.append(str(error))
            continue
        found += [f"{option} in {command!r}" for option in OPTION.findall(command) if option not in known]
    return found


def anchors(page: Path) -> set[str]:
    """The places in a page that a link may name, as GitHub makes them of headings."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in HEADING.findall(text)]
    return {heading.replace(" ", "-") for heading in plain}


def dead_links(page: Path) -> list[str]:
    found = []
    for link in LINK.findall(BLOCK.sub("", page.read_text("utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def test_the_readme_fits_two_screens() -> None:
    assert len(README.read_text("utf-8").split()) <= WORDS


def test_the_readme_has_two_commands_and_the_second_runs_the_tests() -> None:
    run, tests = re.findall(r"^```sh\n(.+)\n```$", README.read_text("utf-8"), re.MULTILINE)
    assert run.endswith("&& defect-pipeline run") and tests.endswith("&& python -m pytest")
    assert f"<!-- test command -->\n```sh\n{tests}\n```" in README.read_text("utf-8")


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_exists(page: Path) -> None:
    assert unknown(page.read_text("utf-8")) == []


def test_the_pages_name_commands_at_all() -> None:
    named = {command.split()[0] for page in PAGES for command in commands(page.read_text("utf-8"))}
    assert named == set(subcommands(_parser()) or ())


@pytest.mark.parametrize(
    "text",
    ["`defect-pipeline rnu`", "```sh\ndefect-pipeline check --jsn\n```\n", "`defect-pipeline backbone`"],
)
def test_a_mistake_would_be_found(text: str) -> None:
    assert unknown(text)
