"""The environment and what pins it: complete, consistent, and free of what must not be there."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("components", "flows", "models")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(name): pinned for name, pinned in (line.split("==") for line in lines)}


def requirements(*lists: list[str]) -> list[Requirement]:
    return [Requirement(text) for texts in lists for text in texts]


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.!]*", line)] == []
    assert lines == sorted(lines, key=str.lower)


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    wanted = requirements(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    pinned = pins()
    missing = [wish.name for wish in wanted if canonicalize_name(wish.name) not in pinned]
    outside = [str(wish) for wish in wanted if not wish.specifier.contains(pinned[canonicalize_name(wish.name)])]
    assert missing == []
    assert outside == []


def test_every_core_dependency_has_a_bound_with_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    core = text[text.index("\ndependencies = [") : text.index("\n]")].splitlines()[2:]
    assert len(core) == len(PROJECT["dependencies"])
    assert [line for line in core if not re.fullmatch(r'    "[^"]+[<>=][^"]+", +# .{4,}', line)] == []


def test_installed_versions_are_the_pinned_ones() -> None:
    wrong = {}
    for name, pinned in pins().items():
        try:
            found = Version(version(name)).public
        except PackageNotFoundError:
            continue  # an extra that this environment does not have
        if found != pinned:
            wrong[name] = found
    assert wrong == {}


@pytest.mark.parametrize("name", ["torchvision", "torchaudio"])
def test_environment_is_free_of(name: str) -> None:
    """Beside a CPU build of torch they fail when imported, and bring another torch when installed."""
    with pytest.raises(PackageNotFoundError):
        version(name)
    assert name not in pins()


def test_installed_packages_fit_together() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_what_the_product_imports_is_declared() -> None:
    """An import that only works because another dependency happens to bring it breaks when that one changes."""
    extras = PROJECT["optional-dependencies"]["examples"]  # imported where it is asked for, with a message without it
    declared = {canonicalize_name(wish.name) for wish in requirements(PROJECT["dependencies"], extras)}
    owners = packages_distributions()
    undeclared: dict[str, list[str]] = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for name in imported(path) - sys.stdlib_module_names - set(PACKAGES):
            if not declared & {canonicalize_name(owner) for owner in owners.get(name, [name])}:
                undeclared.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert undeclared == {}
