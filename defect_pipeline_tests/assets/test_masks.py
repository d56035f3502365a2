from pathlib import Path

import pytest

from defect_pipeline.assets.masks import _drawn


@pytest.mark.parametrize("name", ["../x.png", "a/b", "/etc/x.png", "..", ""])
def test_a_class_name_leads_out_of_no_folder(name: str):
    assert _drawn("maps", name) is None
    assert _drawn("maps", "pit.png") == Path("maps/pit.png") and _drawn("", "pit.png") is None
