"""A site's process starts without what it does not use, and ends up with what it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from flows.lean import UNUSED_AT_A_SITE, lean_imports
with lean_imports():
    import monai, torch
    import models.classification
found = sorted(set(UNUSED_AT_A_SITE.values()) & set(sys.modules))
assert not found, found
import pydicom, nibabel, scipy.ndimage  # afterwards they are there as ever
from importlib.metadata import version
print(version("scipy"))
"""


def test_what_a_site_does_not_use_is_not_imported_and_can_be_afterwards() -> None:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().count(".") == 2
