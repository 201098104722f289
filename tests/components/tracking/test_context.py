import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking.context.registry import _run_context_provider_registry, resolve_tags

from components.tracking.context import RoundContext, in_round, round_variables


def test_outside_a_round_there_are_no_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STUDY", "ROUND", "SITE"):
        monkeypatch.delenv(f"WARDROUND_{name}", raising=False)
    assert not RoundContext().in_context()
    assert RoundContext().tags() == {}


def test_a_child_process_is_in_a_round_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in round_variables("pneumonia", 3, "north").items():
        monkeypatch.setenv(name, value)
    assert RoundContext().in_context()
    assert RoundContext().tags() == {
        "wardround.study": "pneumonia",
        "wardround.round": "3",
        "wardround.site": "north",
    }


def test_the_innermost_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARDROUND_STUDY", "outer")
    monkeypatch.setenv("WARDROUND_SITE", "south")
    with in_round("a", 1, "north"):
        with in_round("b", 2):
            assert RoundContext().tags() == {"wardround.study": "b", "wardround.round": "2"}
        assert RoundContext().tags()["wardround.site"] == "north"
    assert RoundContext().tags() == {"wardround.study": "outer", "wardround.site": "south"}


@pytest.fixture
def provided() -> None:
    """What the entry point does where the distribution is installed."""
    if not any(isinstance(provider, RoundContext) for provider in _run_context_provider_registry):
        _run_context_provider_registry.register(RoundContext)


def test_a_run_started_inside_a_round_carries_its_tags(provided: None, uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    with in_round("pneumonia", 3, "north"), mlflow.start_run() as run:
        pass
    tags = mlflow.get_run(run.info.run_id).data.tags
    assert (tags["wardround.study"], tags["wardround.round"], tags["wardround.site"]) == ("pneumonia", "3", "north")
    assert "wardround.study" not in resolve_tags()


def test_the_provider_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, components.tracking.context; sys.exit(bool({'torch', 'mlflow'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
