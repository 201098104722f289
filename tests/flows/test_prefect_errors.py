from collections import namedtuple
from pathlib import Path

import httpx
import pytest
from prefect.exceptions import PrefectException

from components.errors import DataError, ServiceError, StorageError
from flows import home as homes
from flows.prefect_errors import prefect_errors

Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize("error", [PrefectException("no such run"), httpx.ConnectError("refused")])
def test_errors_of_prefect_and_its_client_become_one_of_ours(error: Exception, tmp_path: Path) -> None:
    says = r"Prefect at http://server/api stopped working .*same command"
    with pytest.raises(ServiceError, match=says) as caught, prefect_errors("http://server/api", tmp_path):
        raise error
    assert str(error) in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [DataError("no items"), KeyError("a mistake of our own"), ServiceError("MLflow")])
def test_other_errors_pass_as_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, prefect_errors("http://server/api", tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [PrefectException("500"), ServiceError("the server ended")])
def test_a_full_disk_is_told_as_the_cause(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes.shutil, "disk_usage", lambda _: Usage(free=1000))
    says = "is full: free some space"
    with pytest.raises(StorageError, match=says) as caught, prefect_errors("http://server/api", tmp_path):
        raise error
    assert caught.value.__cause__ is error
