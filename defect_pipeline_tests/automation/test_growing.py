"""A growing folder, for real: webserver, daemon and code server as processes, files copied while they run, all state
read through GraphQL, a webhook that listens, and a webserver that is killed in the middle of a run.

Runs are launched into the daemon, not each into a process of its own, which would pay the imports every time.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import pytest

from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.automation.regeneration import IDLE
from defect_pipeline.workplace import Workplace
from defect_pipeline_tests.assets.test_chain import write_class

DEADLINE = 900  # seconds, for a busy machine; an idle one takes far less
INSTANCE = """
run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
"""
SELECTOR = '{repositoryName: "__repository__", repositoryLocationName: "growing", sensorName: "%s"}'


def wait_for(what: str, found: Callable[[], Any]) -> Any:
    """The first true answer. Fails when none has come by the deadline."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.5)
    pytest.fail(f"{what} did not happen in {DEADLINE} s")


@dataclass
class Webhook:
    """A server that keeps what it is sent, but for the first delivery, which it refuses."""

    events: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0

    def serve(self) -> ThreadingHTTPServer:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the library's name
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = 200 if hook.refused else 500
                if status == 200:
                    hook.events += body["events"]
                hook.refused += status != 200
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def told(self, event: str, subject: str) -> bool:
        return any((one["event"], one["subject"]) == (event, subject) for one in self.events)


@dataclass
class Site:
    """A data folder that is watched, and the Dagster that watches it."""

    base: Path
    url: str
    webhook: Webhook
    restart: Callable[[str], None]  # one of its processes, which is killed

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
        partial = self.base / "thresholds.partial"
        partial.write_text(json.dumps(per_class))
        os.replace(partial, self.base / "thresholds.json")

    def ask(self, query: str) -> dict[str, Any]:
        request = urllib.request.Request(self.url, json.dumps({"query": query}).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def is_up(self) -> bool:
        try:
            return self.ask("{version}")["version"] != "" and bool(self.ticks("notify"))
        except OSError:
            return False

    def ticks(self, sensor: str) -> list[dict[str, Any]]:
        """The last ones of a sensor, the latest first."""
        query = "{sensorOrError(sensorSelector: %s) {... on Sensor {sensorState {ticks(limit: 5) {%s}}}}}"
        fields = "timestamp status skipReason error {message}"
        found = self.ask(query % (SELECTOR % sensor, fields))["sensorOrError"]
        return found["sensorState"]["ticks"] if found else []

    def runs(self) -> list[tuple[str, str, str]]:
        """(job, class or "", status) of every run, the first one first."""
        query = "{runsOrError {... on Runs {results {jobName status tags {key value}}}}}"
        found = []
        for run in reversed(self.ask(query)["runsOrError"]["results"]):
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            found.append((run["jobName"], tags.get("dagster/partition", ""), run["status"]))
        return found

    def runs_after(self, change: Callable[[], None]) -> list[tuple[str, str, str]]:
        """Those that a change of the folder or the thresholds brings about, sorted, once nothing more is to be done."""
        before = len(self.runs())
        change()
        since = time.time()

        def at_rest() -> bool:
            ticks = self.ticks("watch_folder")
            assert not (broken := [tick for tick in ticks if tick["error"]]), broken
            return any(tick["timestamp"] > since and tick["skipReason"] == IDLE for tick in ticks)

        wait_for("the end of all runs", at_rest)
        return sorted(self.runs()[before:])

    def classes(self) -> list[str]:
        """The partitions that Dagster knows."""
        query = '{assetNodeOrError(assetKey: {path: ["token_embedding"]}) {... on AssetNode {partitionKeys}}}'
        return sorted(self.ask(query)["assetNodeOrError"]["partitionKeys"])

    def built(self, asset: str, k: str) -> bool:
        """Whether the last materialization made something, rather than find it in the store."""
        query = '{assetNodeOrError(assetKey: {path: ["%s"]}) {... on AssetNode {assetMaterializations(partitions: ["%s"], limit: 1) {metadataEntries {label ... on BoolMetadataEntry {boolValue}}}}}}'
        (last,) = self.ask(query % (asset, k))["assetNodeOrError"]["assetMaterializations"]
        return not next(entry["boolValue"] for entry in last["metadataEntries"] if entry["label"] == "reused")

    def gate(self, k: str) -> str:
        """How the last look at a class's gate ended."""
        query = '{assetCheckExecutions(assetKey: {path: ["stablesdg_fid_report"]}, checkName: "generated_gate", partition: "%s", limit: 1) {status}}'
        return self.ask(query % k)["assetCheckExecutions"][0]["status"]


@pytest.fixture
def site(tiny_backbone: Path, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "data").mkdir()
    for seed, k in enumerate(("alpha", "beta", "gamma")):
        write_class(tmp_path / "camera" / k, seed)
    (tmp_path / "store" / "dagster").mkdir(parents=True)
    (tmp_path / "store" / "dagster" / "dagster.yaml").write_text(INSTANCE)
    note = {"data": str(tmp_path / "data"), "profile": "growing", "system": "stablesdg"}
    (tmp_path / "store" / "pipeline.json").write_text(json.dumps(note))
    code = tmp_path / "code.sock"
    (tmp_path / "workspace.yaml").write_text(f"load_from: [grpc_server: {{socket: {code}, location_name: growing}}]\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    webhook = Webhook()
    server = webhook.serve()
    environment = os.environ | {
        "DAGSTER_HOME": str(tmp_path / "store" / "dagster"),
        "DEFECT_PIPELINE_STORE": str(tmp_path / "store"),
        "DEFECT_PIPELINE_WEBHOOK": f"http://127.0.0.1:{server.server_port}/secret",
        "GROWING_BACKBONE": str(tiny_backbone),
        "GROWING_THRESHOLDS": str(tmp_path / "thresholds.json"),
        "OMP_NUM_THREADS": "1",
        "no_proxy": "127.0.0.1",
    }
    module = "defect_pipeline_tests.automation.growing_definitions"
    commands = {
        "code": ["dagster", "api", "grpc", "--socket", str(code), "-m", module, "--location-name", "growing"],
        "webserver": ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", str(tmp_path / "workspace.yaml")],
        "daemon": ["dagster._daemon", "run", "-w", str(tmp_path / "workspace.yaml")],
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        with (tmp_path / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", *commands[name]]
            processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def restart(name: str) -> None:
        processes[name].kill()
        processes[name].wait()
        start(name)

    site = Site(tmp_path, f"http://127.0.0.1:{port}/graphql", webhook, restart)
    site.set_thresholds()
    try:
        start("code")
        wait_for("the code server", code.exists)
        start("webserver")
        start("daemon")
        yield site
    finally:
        for process in reversed(processes.values()):
            process.terminate()
        for process in reversed(processes.values()):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        server.shutdown()


@pytest.mark.timeout(2 * DEADLINE)
def test_a_folder_that_grows_is_followed(site: Site) -> None:
    wait_for("the webserver and a first tick", site.is_up)
    site.ask("mutation {startSensor(sensorSelector: %s) {__typename}}" % (SELECTOR % "watch_folder"))

    def drop_and_restart_the_webserver() -> None:
        site.drop("alpha", "beta")
        wait_for("a run under way", lambda: any(status == "STARTED" for _, _, status in site.runs()))
        site.restart("webserver")
        wait_for("the webserver", site.is_up)

    assert site.runs_after(drop_and_restart_the_webserver) == [
        ("adapt", "alpha", "SUCCESS"), ("adapt", "beta", "SUCCESS"),
        ("recognise", "", "SUCCESS"), ("register", "", "SUCCESS"),
    ]  # fmt: skip
    assert site.classes() == ["alpha", "beta"]
    wait_for("news of new data", lambda: site.webhook.told("data ready", "stablesdg_images [beta]"))
    assert site.webhook.refused == 1

    site.set_thresholds(gamma={"kid": -10})
    runs = site.runs_after(lambda: site.drop("gamma"))
    assert runs == [("adapt", "gamma", "FAILURE"), ("register", "", "SUCCESS")]  # no fan-in behind a closed gate
    assert site.classes() == ["alpha", "beta", "gamma"]
    assert (site.gate("gamma"), site.gate("beta")) == ("FAILED", "SUCCEEDED")
    wait_for("news of the gate", lambda: site.webhook.told("gate closed", "generated_gate [gamma]"))
    wait_for("news of the run", lambda: site.webhook.told("run failed", "adapt [gamma]"))
    assert not site.webhook.told("data ready", "stablesdg_images [gamma]")

    assert site.runs_after(site.set_thresholds) == [("recognise", "", "SUCCESS")]
    wait_for("news of the gate", lambda: site.webhook.told("gate opened", "generated_gate [gamma]"))
    wait_for("news of new data", lambda: site.webhook.told("data ready", "stablesdg_images [gamma]"))

    images = open_dataset(site.place.store.current("inspection_images")).images
    of = {k: images[(images["defect_class"] == k)].set_index("split")["path"] for k in site.classes()}

    def correct_and_remove() -> None:
        mask = site.data / Path(of["beta"]["test"].iloc[0]).with_suffix(".png")
        cv2.imwrite(str(mask), cv2.dilate(cv2.imread(str(mask), 0), None, iterations=2))
        gone = site.data / of["alpha"]["train"].iloc[0]
        gone.unlink()
        gone.with_suffix(".png").unlink()

    assert site.runs_after(correct_and_remove) == [
        ("adapt", "alpha", "SUCCESS"), ("adapt", "beta", "SUCCESS"),
        ("recognise", "", "SUCCESS"), ("register", "", "SUCCESS"),
    ]  # fmt: skip
    assert site.built("token_embedding", "alpha") and site.built("stablesdg_fid_report", "beta")
    assert not site.built("token_embedding", "beta") and not site.built("stablesdg_images", "beta")
    written = [path for path in (site.base / "store").rglob("*") if path.is_file()] + list(site.base.glob("*.log"))
    assert not [path for path in written if b"/secret" in path.read_bytes()]
