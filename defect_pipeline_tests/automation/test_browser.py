"""Somebody walks through the UI: a browser that clicks, on a real webserver over a tiny pipeline.

Screenshots go to the folder DEFECT_PIPELINE_SCREENSHOTS, or to pytest's own.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from defect_pipeline_tests.automation.site import DEADLINE, Site, serving, wait_for

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
PATIENCE = 120_000  # ms for a page to show what it is asked for, on a busy machine
ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass
class Visitor(Site):
    """Who looks at a site through a browser."""

    page: Page
    album: Path

    def visit(self, path: str) -> None:
        self.page.goto(f"{self.address}/{path}")

    def see(self, text: str) -> None:
        """Wait until exactly this text shows."""
        self.page.get_by_text(text, exact=True).first.wait_for()

    def colour_of_verdict(self, verdict: str) -> list[int]:
        """Red, green and blue (0 ... 255) of the letters of a check's last result, once it is this one."""
        found = self.page.get_by_text(verdict, exact=True).last  # behind the list of checks, which has grey letters
        found.wait_for()
        return list(map(int, re.findall(r"\d+", found.evaluate("e => getComputedStyle(e).color"))))[:3]

    def photograph(self, name: str) -> None:
        self.page.screenshot(path=self.album / f"{name}.png", animations="disabled")

    def materialize(self, partition: str = "") -> tuple[str, str, str]:
        """Click the button, choose a partition, and wait: job, partition and status of the run that it makes."""
        runs = len(self.runs())
        self.page.get_by_role("button", name="Materialize").first.click()
        if partition:
            self.page.get_by_text("Select a partition").click()
            self.page.get_by_role("menuitem").get_by_text(partition, exact=True).first.click()
            self.page.keyboard.press("Escape")
            launch = self.page.get_by_role("button", name="Launch 1 run")
            launch.wait_for()
            self.photograph(f"partition {partition}")
            launch.click()
        return wait_for("the end of a run", lambda: [run for run in self.runs()[runs:] if run[2] in ENDED])[0]


@pytest.fixture
def visitor(tiny_backbone: Path, tmp_path: Path) -> Iterator[Visitor]:
    album = Path(os.environ.get("DEFECT_PIPELINE_SCREENSHOTS", tmp_path / "screenshots"))
    album.mkdir(parents=True, exist_ok=True)
    with serving(tmp_path, tiny_backbone) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--no-first-run", *QUIET])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE)
        visitor = Visitor(tmp_path, address, page, album)
        wait_for("the webserver", visitor.is_up)
        yield visitor
        browser.close()


@pytest.mark.skipif(not CHROMIUM, reason="There is no Chromium here to look at the UI with; install chromium.")
@pytest.mark.timeout(2 * DEADLINE)
def test_a_visitor_materializes_a_class_and_sees_its_gate_close(visitor: Visitor) -> None:
    visitor.drop("alpha", "beta")
    visitor.visit("assets/inspection_images")
    assert visitor.materialize() == ("__ASSET_JOB", "", "SUCCESS")

    visitor.visit("locations/growing/asset-groups/stablesdg/lineage")
    for asset in ("token_embedding", "lora_weights", "stablesdg_images", "recognition_report"):
        visitor.see(asset)
    visitor.photograph("graph")

    visitor.visit("locations/growing/jobs/adapt")
    assert visitor.materialize("alpha") == ("adapt", "alpha", "SUCCESS")

    visitor.visit("assets/stablesdg_images?view=partitions&partition=alpha")
    visitor.see("Materialized")
    visitor.page.get_by_role("row", name="picture: contact sheet").first.get_by_text("[Show Markdown]").click()
    sheet = visitor.page.get_by_role("dialog").locator("img")
    sheet.wait_for()
    assert sheet.evaluate("e => e.decode().then(() => [e.naturalWidth, e.naturalHeight])") == [384, 128]
    visitor.photograph("contact sheet")

    visitor.visit("assets/stablesdg_fid_report?view=checks")
    red, green, _ = visitor.colour_of_verdict("Passed")
    assert green > red
    visitor.photograph("gate open")

    visitor.set_thresholds(alpha={"kid": -10})
    visitor.visit("assets/stablesdg_fid_report?view=partitions")
    assert visitor.materialize("alpha") == ("__ASSET_JOB", "alpha", "FAILURE")
    visitor.visit("assets/stablesdg_fid_report?view=checks")
    red, green, _ = visitor.colour_of_verdict("Failed")
    assert red > green
    visitor.see("-10")
    visitor.photograph("gate closed")
