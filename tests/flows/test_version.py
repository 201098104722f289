import subprocess
import sys
from pathlib import Path

import pytest

import flows.version
from flows.version import code_version

GIT = ["git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of its own with the module in it, and one commit; the distribution beside it is 9.8."""
    (tmp_path / "wardround-9.8.dist-info").mkdir()
    (tmp_path / "wardround-9.8.dist-info" / "METADATA").write_text("Name: wardround\nVersion: 9.8\n")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    (tmp_path / "flows" / "version.py").write_text(Path(flows.version.__file__).read_text())
    for command in (["init", "-q"], ["add", "flows"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*GIT, "-C", str(tmp_path), *command], check=True, capture_output=True)
    return tmp_path


def version_of(folder: Path) -> str:
    """What a fresh process says that runs the module in a folder."""
    program = "from flows.version import code_version; print(code_version())"
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_checkout_names_its_commit(checkout: Path) -> None:
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    )
    assert version_of(checkout) == f"9.8+g{commit.stdout.strip()}"


def test_a_changed_checkout_says_so(checkout: Path) -> None:
    before = version_of(checkout)
    (checkout / "flows" / "__init__.py").write_text("changed = True\n")
    assert version_of(checkout) == f"{before}.changed"


def test_what_is_no_checkout_has_the_distributions_number(checkout: Path) -> None:
    (checkout / ".git").rename(checkout / "elsewhere")
    assert version_of(checkout) == "9.8"


def test_the_version_is_asked_once_a_process() -> None:
    assert code_version() is code_version()
