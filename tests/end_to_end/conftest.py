"""One undisturbed training, which many tests look at; and what is needed to look."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.end_to_end.records import PrefectRecords, prefect_records
from tests.end_to_end.ward import Ward

GUARD = Path(__file__).parent / "no_unpickling"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """A whole training, with its comparison, in processes in which unpickling raises."""
    ward = Ward.make(tmp_path_factory.mktemp("undisturbed"), evaluate={"compare": ["local", "pooled"]})
    log = ward.folder / "unpickling"
    log.mkdir()
    ward.run("--dispatcher", "processes:2", PYTHONPATH=str(GUARD), WARDROUND_UNPICKLING_LOG=str(log))
    return ward


@pytest.fixture
def mlflow(undisturbed: Ward) -> MlflowClient:
    return MlflowClient(undisturbed.mlflow_uri, undisturbed.mlflow_uri)


@pytest.fixture(scope="session")
def prefect(undisturbed: Ward) -> Iterator[PrefectRecords]:
    with prefect_records(undisturbed) as records:
        yield records
