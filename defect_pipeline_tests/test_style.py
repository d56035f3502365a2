"""Lint, layout and types of the whole repository, and no call that would run what a file says."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("tool", ["ruff check .", "ruff format --check .", "mypy"])
def test_the_tool_has_nothing_to_say(tool: str):
    found = subprocess.run([sys.executable, "-m", *tool.split()], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "yaml.load", "torch.save", "pd.read_pickle"}
ASKED = {"torch.load": "weights_only", "from_pretrained": "local_files_only"}  # to be True


def dangers(source: str) -> Iterator[str]:
    """What in a module could run what a file says, or ask a hub."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in PICKLES)
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        asked = next((ASKED[key] for key in ASKED if name == key or name.endswith(f".{key}")), None)
        wrong = name in FORBIDDEN or given.get("shell") == "True" or given.get("allow_pickle") == "True"
        if wrong or (asked and given.get(asked) != "True"):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_module_runs_what_a_file_says_or_asks_a_hub():
    modules = sorted((ROOT / "defect_pipeline").rglob("*.py"))
    found = {str(path.relative_to(ROOT)): list(dangers(path.read_text())) for path in modules}
    assert len(modules) > 100 and {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "eval(text)", "exec(text)", "os.system(text)", "yaml.load(text)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "torch.save(state, path)",
        "subprocess.run(text, shell=True)", "np.load(path, allow_pickle=True)", "CLIPTokenizer.from_pretrained(path)",
    ],
)  # fmt: skip
def test_each_of_them_would_be_found(line: str):
    assert list(dangers(f"x = 1\n{line}"))


def test_what_only_looks_like_them_is_let_be():
    assert not list(dangers("model.eval()\nyaml.safe_load(text)\ntorch.load(path, weights_only=True)\nnp.load(path)"))
