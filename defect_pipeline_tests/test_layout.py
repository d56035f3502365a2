"""Arrows between the modules of the package go one way."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "defect_pipeline"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LAYERS = (  # each imports from its own and those before it
    ("errors", "lazy", "files", "allocator", "processes"),
    ("imagenet", "checkpoints", "resumable", "backbone"),
    ("imaging",),
    ("profiles", "store"),
    ("declared", "pipeline"),
    ("diffusion", "evaluation", "recognition", "baselines"),
    ("generator",),
    ("assets",),
    ("summary", "system", "systems"),
    ("workplace",),
    ("automation",),
    ("definitions",),
    ("cli",),
)
LEVEL = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> Iterator[str]:
    """The package's modules that a module names anywhere: at its top, within functions, for the type checker."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("defect_pipeline"):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in named if name in MODULES]
            yield from modules
            if len(modules) < len(named):
                yield node.module


IMPORTS = {name: sorted({other for other in imported(path) if other != name}) for name, path in MODULES.items()}


@cache
def chain(name: str) -> tuple[str, ...]:
    """The longest chain of imports from a module downwards. Raises RecursionError in a circle."""
    return (name, *max((chain(other) for other in IMPORTS[name]), key=len, default=()))


def test_no_module_imports_itself_by_way_of_others():
    walked: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " imports ".join((*above[above.index(name) :], name))
        if name not in walked:
            for other in IMPORTS[name]:
                walk(other, (*above, name))
            walked.add(name)

    for name in MODULES:
        walk(name, ())


def test_arrows_go_down():
    def level(name: str) -> int:
        return LEVEL[name.split(".")[1]] if "." in name else 0

    up = [f"{name} imports {other}" for name, own in IMPORTS.items() for other in own if level(other) > level(name)]
    assert up == []


def test_only_automation_knows_dagster():
    """Stages, checks and systems are values; assets, jobs and sensors are made of them in one place."""
    knowing = {name.split(".")[1] for name, path in MODULES.items() if "import dagster" in path.read_text()}
    assert knowing == {
        "automation",
        "cli",
        "definitions",
        "store",
    }  # the store is a resource, the command line names types


if __name__ == "__main__":
    longest = max((chain(name) for name in MODULES), key=len)
    print(len(longest), " -> ".join(longest))
