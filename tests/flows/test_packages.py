import os
import subprocess
import sys
from pathlib import Path

from flows.packages import ROOT, with_packages


def test_a_child_finds_these_packages_whatever_folder_it_works_in(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text("")  # what another folder calls flows is not ours
    environment = with_packages({**os.environ, "PYTHONPATH": str(tmp_path)})
    command = [sys.executable, "-P", "-c", "import flows.packages; print(flows.packages.__file__)"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent.parent == ROOT


def test_what_the_environment_names_comes_after() -> None:
    assert with_packages({"PYTHONPATH": "/more"})["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/more"])
    assert with_packages({"A": "b"}) == {"A": "b", "PYTHONPATH": str(ROOT)}
