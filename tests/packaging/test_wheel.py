"""The wheel, installed into an environment of its own: what a user gets, not what lies in the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("components", "flows", "models")
CONTENT = (*PACKAGES, "studies", "deploy")


def run(command: list[str], folder: Path) -> str:
    """The standard output of a command that must succeed, run outside the checkout and without its paths."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that building leaves nothing in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for package in CONTENT:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", "dist", "."]
    run(build, source)
    (built,) = (source / "dist").glob("wardround-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that holds the wheel, and sees the dependencies of the one that runs this.

    A folder named in a .pth file is searched, but its own .pth files are not read: an editable install of the
    checkout beside the dependencies stays invisible.
    """
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", "--without-pip", "environment"], folder)
    executable = folder / "environment" / "bin" / "python"
    (site,) = (folder / "environment" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(executable), "install", "-q", "--no-deps", "--force-reinstall"]
    run([*pip, "--no-index", str(wheel)], folder)
    return str(executable)


def ask(python: str, folder: Path, program: str) -> dict[str, object]:
    """What a program prints as JSON in its last line."""
    answer: dict[str, object] = json.loads(run([python, "-c", program], folder).splitlines()[-1])
    return answer


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for package in CONTENT for path in (ROOT / package).rglob("*") if path.is_file())
    assert inside == {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_wheel_holds_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("LICENSE"))
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_packages_are_loaded_from_the_installation(python: str, tmp_path: Path) -> None:
    program = (
        "import json, components as a, flows as b, models as c; print(json.dumps([x.__file__ for x in (a, b, c)]))"
    )
    files = json.loads(run([python, "-c", program], tmp_path))
    site = Path(python).parents[1]
    assert [Path(file).parent.name for file in files] == list(PACKAGES)
    assert all(Path(file).is_relative_to(site) for file in files)


COLLECTION = """
import json, sys
from prefect.plugins import load_prefect_collections
collection = load_prefect_collections()["wardround"]
from prefect.blocks.core import Block
from prefect.utilities.dispatch import get_registry_for_type
heavy = sorted({"torch", "mlflow", "monai", "pytorch_lightning"} & set(sys.modules))
print(json.dumps({
    "collection": str(collection), "heavy": heavy, "known": "wardround-home" in get_registry_for_type(Block),
}))
"""


def test_prefect_really_loads_our_collection_and_nothing_heavy_with_it(python: str, tmp_path: Path) -> None:
    """Prefect swallows the error of a collection that cannot be imported and keeps it in the module's place."""
    answer = ask(python, tmp_path, COLLECTION)
    assert str(answer["collection"]).startswith("<module 'flows.prefect_collection'")
    assert answer["heavy"] == []
    assert answer["known"] is True


CONTEXT = """
import json
from mlflow.tracking.context.registry import _run_context_provider_registry as registry
print(json.dumps({"providers": [type(provider).__module__ for provider in registry]}))
"""


def test_mlflow_really_loads_our_run_context(python: str, tmp_path: Path) -> None:
    answer = ask(python, tmp_path, CONTEXT)
    assert "components.tracking.context" in answer["providers"]  # type: ignore[operator]


def test_command_is_installed_and_explains_itself(python: str, tmp_path: Path) -> None:
    text = run([str(Path(python).with_name("wardround")), "--help"], tmp_path)
    assert all(command in text for command in ("simulate", "check", "ui", "predict", "journal", "demo"))
    assert list(tmp_path.iterdir()) == []


def test_command_explains_itself_without_heavy_imports(python: str, tmp_path: Path) -> None:
    program = """
import json, sys
import flows.cli
print(json.dumps({"heavy": sorted({"torch", "mlflow", "monai", "prefect"} & set(sys.modules))}))
"""
    assert ask(python, tmp_path, program) == {"heavy": []}


def test_embedded_server_runs_from_the_installation(python: str, tmp_path: Path) -> None:
    program = """
import json, sys, urllib.request
from pathlib import Path
from flows.servers import EmbeddedPrefect
with EmbeddedPrefect.start(Path(sys.argv[1])) as server:
    address = server.wait_ready(180).api_url
    print(json.dumps({"blocks": urllib.request.urlopen(address + "/block_types/slug/wardround-home").status}))
"""
    answer = json.loads(run([python, "-c", program, str(tmp_path / "home")], tmp_path))
    assert answer == {"blocks": 200}
