"""Puts documentation that was built beside that of other versions, into a site for any static host.

    python docs/add_version.py docs/_build/html site

The site has a folder for each version, `versions.json`, which lists them for the sidebar of each,
and an index that leads to the newest.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from gyoza.version import __version__

INDEX = """<!doctype html>
<meta charset="utf-8">
<title>gyoza</title>
<meta http-equiv="refresh" content="0; url={newest}/">
<a href="{newest}/">gyoza {newest}</a>
"""


def find_versions(site: Path) -> list[str]:
    """Returns the versions that have a folder, the newest first."""
    names = [path.name for path in site.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return sorted(names, key=lambda name: [int(number) for number in name.split(".")], reverse=True)


def add(built: Path, site: Path, version: str) -> None:
    """Copies what was built into the site, replaces the same version there, and lists it."""
    if not (built / "index.html").exists():
        sys.exit(f"There should be documentation that was built. Received: the folder {built}")
    folder = site / version
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, folder)
    versions = find_versions(site) or [version]
    (site / "versions.json").write_text(json.dumps(versions) + "\n", "utf-8")
    (site / "index.html").write_text(INDEX.format(newest=versions[0]), "utf-8")


if __name__ == "__main__":
    add(Path(sys.argv[1]), Path(sys.argv[2]), __version__)
