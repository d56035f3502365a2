"""A growing folder, for real: webserver, daemon and code server as processes, files copied while they run, all state
read through GraphQL, a webhook that listens, and a webserver that is killed in the middle of a run.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import pytest

from defect_pipeline.assets.stage import open_dataset
from defect_pipeline.automation.regeneration import IDLE
from defect_pipeline_tests.automation.site import DEADLINE, Site, serving, wait_for

SELECTOR = '{repositoryName: "__repository__", repositoryLocationName: "growing", sensorName: "%s"}'


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
class WatchedSite(Site):
    """One whose data folder a daemon watches, and whose news a webhook hears."""

    webhook: Webhook
    restart: Callable[[str], None]  # one of its processes, which is killed

    def is_up(self) -> bool:
        return super().is_up() and bool(self.ticks("notify"))

    def ticks(self, sensor: str) -> list[dict[str, Any]]:
        """The last ones of a sensor, the latest first."""
        query = "{sensorOrError(sensorSelector: %s) {... on Sensor {sensorState {ticks(limit: 5) {%s}}}}}"
        fields = "timestamp status skipReason error {message}"
        found = self.ask(query % (SELECTOR % sensor, fields))["sensorOrError"]
        return found["sensorState"]["ticks"] if found else []

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


@pytest.fixture
def site(tiny_backbone: Path, tmp_path: Path) -> Iterator[WatchedSite]:
    webhook = Webhook()
    server = webhook.serve()
    url = f"http://127.0.0.1:{server.server_port}/secret"
    try:
        with serving(tmp_path, tiny_backbone, daemon=True, DEFECT_PIPELINE_WEBHOOK=url) as (address, restart):
            yield WatchedSite(tmp_path, address, webhook, restart)
    finally:
        server.shutdown()


@pytest.mark.timeout(2 * DEADLINE)
def test_a_folder_that_grows_is_followed(site: WatchedSite) -> None:
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
    assert not [path for path in written if b"/secret" in _content(path)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # SQLite's own come and go
        return b""
