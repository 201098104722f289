"""Which addresses a record keeps: only those that will still be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import recorder as module
from flows.coordinator import CoordinatorConfig
from flows.local_record import Addresses
from flows.recorder import open_recorder
from tests.references.tiny_study import tiny_study


def prefect_link(home: Path, coordinator: CoordinatorConfig | None = None) -> str:
    with open_recorder(tiny_study(), home, coordinator) as recorder:
        recorder._flow_run = "7"
        return recorder.links().get("Prefect", "")


def federation(prefect: str) -> CoordinatorConfig:
    return CoordinatorConfig(federation="ward", address="https://gate", database="sqlite:///g.db", prefect_url=prefect)


def test_a_server_that_is_somewhere_else_next_time_is_not_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert prefect_link(tmp_path) == ""
    up = Addresses("https://gate", "http://127.0.0.1:40001", "")
    monkeypatch.setattr(module, "addresses", lambda home: up)
    assert prefect_link(tmp_path, federation("http://127.0.0.1:40001/api")) == ""


def test_a_server_that_stays_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operators = federation("https://prefect.example/api")
    assert prefect_link(tmp_path, operators) == "https://prefect.example/runs/flow-run/7"
    monkeypatch.setenv("PREFECT_API_URL", "https://own.example/api")
    monkeypatch.delenv("WARDROUND_EMBEDDED_PREFECT", raising=False)
    assert prefect_link(tmp_path) == "https://own.example/runs/flow-run/7"
