"""The floors hold, and the contracts that hold them would notice."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("components", "flows", "models")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_floors_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/classification.py", "import components.errors"),
        ("components/errors.py", "import flows"),
        ("components/errors.py", "import components.study"),
        ("components/study.py", "import prefect"),
        ("components/strategies/fedavg.py", "import pytorch_lightning"),
        ("flows/prefect_collection.py", "import torch"),
    ],
)
def test_contracts_notice(copy: Path, file: str, line: str) -> None:
    text = (copy / file).read_text()
    (copy / file).write_text(
        text.replace("\nimport ", f"\n{line}\nimport ", 1) if "\nimport " in text else text + f"\n{line}\n"
    )
    done = lint(copy)
    assert done.returncode == 1
    assert "broken" in done.stdout.lower()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_loaded_from_this_checkout(package: str) -> None:
    """The names are generic: another package of the same name on the path would be used in silence."""
    assert Path(str(importlib.import_module(package).__file__)).parent == ROOT / package


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_named_after_a_dependency(package: str) -> None:
    names = {module.name for module in pkgutil.iter_modules([str(ROOT / package)])}
    assert names & {"torch", "monai", "mlflow", "prefect", "pydantic", "rich", "typer", "lightning"} == set()
