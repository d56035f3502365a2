"""Writes docs/settings.md."""

from pathlib import Path

from defect_pipeline.profiles import settings_page

Path("docs").mkdir(exist_ok=True)
Path("docs/settings.md").write_text(settings_page(), encoding="utf-8")
