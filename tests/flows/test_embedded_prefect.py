"""What the process of the embedded Prefect server loads, and what it leaves alone."""

import os
from pathlib import Path

import pytest

from flows.servers import EmbeddedPrefect

COLLECTION = """
import os, sys
with open(os.environ["LOADED_BY"], "a") as file:
    file.write(os.path.basename(sys.argv[0]) + "\\n")
"""


def install_collection(folder: Path) -> None:
    """Make a folder for PYTHONPATH with a collection of Prefect's that notes which program loads it."""
    about = folder / "noting-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: noting\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[prefect.collections]\nnoting = noting_collection\n")
    (folder / "noting_collection.py").write_text(COLLECTION)


def test_the_migration_loads_collections_and_the_server_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is one of them, and costs every start 0.3 s; the migration needs them for their block types."""
    install_collection(tmp_path / "packages")
    loaded = tmp_path / "loaded"
    monkeypatch.setenv("LOADED_BY", str(loaded))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no template yet: it migrates first
    path = [str(tmp_path / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    with EmbeddedPrefect.start(tmp_path / "home") as server:
        server.wait_ready(180)
    assert loaded.read_text().splitlines() == ["prefect_database.py"]
