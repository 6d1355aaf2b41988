"""The site of the documentation: what its scripts and pages rely on."""

import json
import pathlib
import re
import runpy

import pytest

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


def find_slugs(text):
    """Returns the anchors that GitHub gives to the headings of a page."""
    slugs = []
    for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        repeated = sum(re.fullmatch(rf"{slug}(-\d+)?", other) is not None for other in slugs)
        slugs.append(f"{slug}-{repeated}" if repeated else slug)
    return slugs


def test_links_lead_to_files_and_to_headings_as_github_names_them():
    """Sphinx knows further anchors, to which links do not lead on GitHub."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    texts = {
        page: re.sub(r"^(`{3,}|:{3,}).*?^\1$", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
        for page in pages
    }
    count = 0
    for page, text in texts.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in find_slugs(texts[linked]), f"{page.name}: {target}"
                count += 1
    assert count > 30


def test_gallery_has_a_page_for_every_study():
    folder = ROOT / "docs" / "gallery"
    studies = sorted(path.stem for path in ROOT.glob("examples/*.py"))
    assert sorted(path.stem for path in folder.glob("*.md")) == studies
    overview = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    assert sorted(re.findall(r"^:link: gallery/(\w+)$", overview, re.MULTILINE)) == studies
    assert sorted(re.findall(r"^gallery/(\w+)$", overview, re.MULTILINE)) == studies


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/gallery/*.md")), ids=lambda page: page.stem)
def test_pages_of_the_gallery_show_a_figure_the_script_and_what_it_printed(page):
    text = page.read_text("utf-8")
    assert re.search(r"^!\[.+\]\(../images/\w+.png\)$", text, re.MULTILINE)
    assert f"{{literalinclude}} ../../examples/{page.stem}.py" in text
    assert f"{{literalinclude}} {page.stem}.txt" in text
    command, empty, *lines = page.with_suffix(".txt").read_text("utf-8").splitlines()
    assert re.match(rf"\$ python examples/{page.stem}.py\b", command)
    assert not empty
    assert len("".join(lines)) > 50


def test_output_is_kept_without_progress():
    tidy = runpy.run_path(str(ROOT / "docs" / "run_gallery.py"))["tidy"]
    bar = "\x1b[1m 20/200\x1b[0m \x1b[32m━━\x1b[0m \x1b[1m3s\x1b[0m 17ms/step - loss: -4.3899"
    epochs = f"Epoch 1/8\n\n{bar}\nEpoch 2/8\n100/100 - 3s - 27ms/step - loss: -8.77e+00\n"
    assert tidy(f"Data: 1/2 \n{epochs}\n\n  row  0.9\n") == "Data: 1/2\n\n  row  0.9"
