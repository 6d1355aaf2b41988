"""The site of the documentation: what its scripts and pages rely on."""

import json
import pathlib
import runpy

ROOT = pathlib.Path(__file__).parents[1]


def test_versions_are_listed_in_order_and_replaced(tmp_path):
    add = runpy.run_path(str(ROOT / "docs" / "add_version.py"))["add"]
    built, site = tmp_path / "built", tmp_path / "site"
    built.mkdir()
    for text, version in (("a", "1.9.0"), ("b", "1.10.0"), ("c", "1.2.3")):
        (built / "index.html").write_text(text, encoding="utf-8")
        add(built, site, version)
    (site / "1.9.0" / "old.html").write_text("", encoding="utf-8")
    add(built, site, "1.9.0")
    assert json.loads((site / "versions.json").read_text("utf-8")) == ["1.10.0", "1.9.0", "1.2.3"]
    assert "url=1.10.0/" in (site / "index.html").read_text("utf-8")
    assert (site / "1.10.0" / "index.html").read_text("utf-8") == "b"
    assert [path.name for path in (site / "1.9.0").iterdir()] == ["index.html"]
    assert (site / "1.9.0" / "index.html").read_text("utf-8") == "c"
