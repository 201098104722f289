"""Prefect was imported by the test run long before, with its own settings: what a training sets holds all the same."""

import logging
import os
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from flows.prefect_settings import settings_for
from flows.servers import prefect_environment

URL = "http://127.0.0.1:1/api"


def test_a_training_uses_its_own_server_and_sends_it_no_logs(tmp_path: Path) -> None:
    before = get_current_settings()
    with settings_for(prefect_environment(URL, tmp_path)):
        found = get_current_settings()
        assert str(found.api.url) == URL
        assert found.home == tmp_path / "prefect"
        assert not found.logging.to_api.enabled
        assert not found.results.persist_by_default
        assert found.results.default_serializer == "json"
        assert not found.server.ephemeral.enabled
        assert found.flows.heartbeat_frequency is None
    assert get_current_settings() == before


def test_the_users_own_server_keeps_the_users_prefect_home() -> None:
    with settings_for(prefect_environment(URL, None)):
        assert get_current_settings().home == Path(os.environ["PREFECT_HOME"])


@pytest.mark.parametrize(
    "name", ["prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.client", "prefect.engine"]
)
def test_prefects_loggers_are_silent_and_then_as_before(name: str, tmp_path: Path) -> None:
    logger = logging.getLogger(name)
    before = logger.getEffectiveLevel()
    with settings_for(prefect_environment(URL, tmp_path)):
        assert not logger.isEnabledFor(logging.ERROR)
    assert logger.getEffectiveLevel() == before


def test_a_user_who_wants_prefects_lines_gets_them(tmp_path: Path) -> None:
    environment = prefect_environment(URL, tmp_path, user={"PREFECT_LOGGING_LEVEL": "DEBUG"})
    with settings_for(environment):
        assert logging.getLogger("prefect.flow_runs").isEnabledFor(logging.DEBUG)


def test_settings_come_back_after_an_error(tmp_path: Path) -> None:
    before = get_current_settings()
    with pytest.raises(KeyError), settings_for(prefect_environment(URL, tmp_path)):
        raise KeyError
    assert get_current_settings() == before
