"""Nothing is unpickled while a training runs: neither by the coordinator, nor by a site, nor by the server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.ward import Ward

pytestmark = pytest.mark.timeout(1500)
GUARD = Path(__file__).parent / "no_unpickling"
ATTEMPTS = {
    "pickle": "import pickle; pickle.loads(pickle.dumps(1))",
    "Unpickler": "import io, pickle; pickle.Unpickler(io.BytesIO(pickle.dumps(1))).load()",
    "derived": "import io, pickle; type('U', (pickle._Unpickler,), {})(io.BytesIO(pickle.dumps(1))).load()",
    "numpy": "import io, numpy; f = io.BytesIO(); numpy.save(f, [{}]); f.seek(0); numpy.load(f, allow_pickle=True)",
    "torch": "import io, torch; f = io.BytesIO(); torch.save({}, f); f.seek(0); torch.load(f, weights_only=True)",
}


def test_a_whole_training_unpickles_nothing(undisturbed: Ward) -> None:
    log = undisturbed.folder / "unpickling"
    assert [path.read_text() for path in log.glob("attempt-*")] == []
    guarded = "\n".join(path.read_text() for path in log.glob("guarded-*"))
    for program in ("flows.cli simulate", "flows.site_process", "flows.embedded_prefect_child"):
        assert program in guarded


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_guard_refuses(tmp_path: Path, attempt: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(GUARD), "WARDROUND_UNPICKLING_LOG": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", ATTEMPTS[attempt]], env=environment, capture_output=True, text=True, check=False
    )
    assert "something is unpickled" in ended.stderr
    assert len(list(tmp_path.glob("attempt-*"))) == 1
