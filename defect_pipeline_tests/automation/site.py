"""A tiny pipeline and the Dagster that serves it, as processes; all state is read through GraphQL.

Runs are launched into the process that asks for them, not each into one of its own, which would pay the imports every
time.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from defect_pipeline.profiles import EMBEDDED, Recognition
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.support import tiny, write_class

DEADLINE = 900  # seconds, for a busy machine; an idle one takes far less
CLASSES = ("alpha", "beta", "gamma")
INSTANCE = """
run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
nux: {enabled: false}
"""


def wait_for(what: str, found: Callable[[], Any]) -> Any:
    """The first true answer. Fails when none has come by the deadline."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.5)
    pytest.fail(f"{what} did not happen in {DEADLINE} s")


@dataclass
class Site:
    """A data folder, images that wait to be copied into it, a store, and where its Dagster answers."""

    base: Path
    address: str

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def place(self) -> Workplace:
        return Workplace.at(self.base / "store")

    def drop(self, *classes: str) -> None:
        """Copy images of these classes, which lie ready, into the folder."""
        for k in classes:
            shutil.copytree(self.base / "camera" / k, self.data / k, copy_function=shutil.copyfile)

    def set_thresholds(self, **per_class: dict[str, float]) -> None:
        """As another `run --set` would, whose note the processes see."""
        place = self.place
        thresholds = replace(place.settings.thresholds, per_class=per_class)
        replace(place, settings=replace(place.settings, thresholds=thresholds)).open()

    def ask(self, query: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.address}/graphql", json.dumps({"query": query}).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def is_up(self) -> bool:
        try:
            return self.ask("{version}")["version"] != ""
        except OSError:
            return False

    def runs(self) -> list[tuple[str, str, str]]:
        """(job, class or "", status) of every run, the first one first."""
        query = "{runsOrError {... on Runs {results {jobName status tags {key value}}}}}"
        found = []
        for run in reversed(self.ask(query)["runsOrError"]["results"]):
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            found.append((run["jobName"], tags.get("dagster/partition", ""), run["status"]))
        return found

    def gate(self, k: str) -> str:
        """How the last look at a class's gate ended."""
        query = '{assetCheckExecutions(assetKey: {path: ["stablesdg_fid_report"]}, checkName: "generated_gate", partition: "%s", limit: 1) {status}}'
        return self.ask(query % k)["assetCheckExecutions"][0]["status"]


@contextmanager
def serving(
    base: Path, backbone: Path, *, daemon: bool = False, **variables: str
) -> Iterator[tuple[str, Callable[[str], None]]]:
    """A webserver, and a daemon if wanted, over a store in ``base`` that is empty yet: the address, and what kills one
    of the processes ("code", "webserver", "daemon") and starts it again.

    ``variables`` join the processes' environment.
    """
    (base / "data").mkdir()
    for seed, k in enumerate(CLASSES):
        write_class(base / "camera" / k, seed)
    (base / "store" / "dagster").mkdir(parents=True)
    (base / "store" / "dagster" / "dagster.yaml").write_text(INSTANCE)
    settings = replace(
        tiny("growing", backbone),
        stablesdg=replace(EMBEDDED.stablesdg, token_steps=1, steps=1, batch=2, images=3, solver_steps=2, tune=False),
        recognition=Recognition(models=("squeezenet",), steps=1, batch=4),
    )
    Workplace(base / "store", data=str(base / "data"), settings=settings, system="stablesdg").open()
    code = base / "code.sock"
    (base / "workspace.yaml").write_text(f"load_from: [grpc_server: {{socket: {code}, location_name: growing}}]\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = (
        os.environ
        | variables
        | {
            "DAGSTER_HOME": str(base / "store" / "dagster"),
            "DEFECT_PIPELINE_STORE": str(base / "store"),
            "OMP_NUM_THREADS": "1",
            "no_proxy": "127.0.0.1",
        }
    )
    module = "defect_pipeline_tests.automation.growing_definitions"
    commands = {
        "code": ["dagster", "api", "grpc", "--socket", str(code), "-m", module, "--location-name", "growing"],
        "webserver": ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(base / "workspace.yaml")],
    }
    if daemon:
        commands["daemon"] = ["dagster._daemon", "run", "-w", str(base / "workspace.yaml")]
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        with (base / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", *commands[name]]
            processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def restart(name: str) -> None:
        processes[name].kill()
        processes[name].wait()
        start(name)

    try:
        for name in commands:
            start(name)
            if name == "code":
                wait_for("the code server", code.exists)
        yield f"http://127.0.0.1:{port}", restart
    finally:
        for process in reversed(processes.values()):
            process.terminate()
        for process in reversed(processes.values()):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
