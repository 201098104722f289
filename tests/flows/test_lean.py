"""A site's process starts without what it does not use, and ends up with what it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from components.data.phantoms import write_demo_hospitals

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from flows.lean import UNUSED_AT_A_SITE, lean_imports
with lean_imports():
    import monai, torch
    import models.classification
found = sorted(set(UNUSED_AT_A_SITE.values()) & set(sys.modules))
assert not found, found
import scipy.ndimage  # afterwards it is there as ever
from importlib.metadata import version
print(version("scipy"))
"""


READ = """
import contextlib, hashlib, json, sys
from pathlib import Path

from components.data.phantoms import write_demo_hospitals
from flows.lean import lean_imports
with lean_imports() if sys.argv[1] == "lean" else contextlib.nullcontext():
    import monai, torch
    import models.classification
    from components.data.site_data import open_site_data
    from components.data.sources import plan_sources
from flows import api
folder = Path(sys.argv[2])
sites = [{"name": name, "path": str(folder / name)} for name in ("east", "north", "west")]
study = api.load("studies/demo.yaml", {"sites": sites})
found = {}
for source in plan_sources(study, folder):
    data = open_site_data(study, source, folder / sys.argv[1] / source.name)
    images = torch.cat([images for images, _ in data.evaluation_batches("train", batch_size=64)])
    found[source.name] = [data.counts.usable, hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()]
print(json.dumps(found))
"""


UNDONE = """
import gc, sys
from importlib.metadata import Distribution, PackageNotFoundError, version
before = vars(Distribution)["from_name"]
from flows.lean import UNUSED_AT_A_SITE, lean_imports
assert not {"asyncio", "unittest"} & set(sys.modules)
try:
    with lean_imports():
        for name in UNUSED_AT_A_SITE:
            try:
                print("found", version(name))
            except PackageNotFoundError:
                pass
        assert version("numpy")
        raise KeyError("an import failed")
except KeyError:
    pass
assert vars(Distribution)["from_name"] is before
assert gc.isenabled() and not set(UNUSED_AT_A_SITE.values()) & set(sys.modules)
print("undone")
"""


def run(program: str, *arguments: str) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_every_format_is_read_as_without_it(tmp_path: Path) -> None:
    write_demo_hospitals(tmp_path, seed=3)
    lean, whole = (json.loads(run(READ, kind, str(tmp_path))) for kind in ("lean", "whole"))
    assert lean == whole
    assert all(usable > 50 for usable, _ in lean.values())


def test_what_a_site_does_not_use_is_not_imported_and_can_be_afterwards() -> None:
    assert run(PROGRAM).count(".") == 2


def test_it_needs_little_itself_and_is_undone_whatever_happens() -> None:
    assert run(UNDONE) == "undone"
