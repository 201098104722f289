"""A container's health check: silent servers are named, absent ones are fine."""

import fcntl
import json
import socket
import subprocess
import sys
from pathlib import Path

from flows.health import silent_servers

ROOT = Path(__file__).resolve().parents[2]


def test_a_home_without_servers_is_healthy(tmp_path: Path) -> None:
    assert silent_servers(tmp_path) == []


def test_a_server_that_runs_but_does_not_answer_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    folder = tmp_path / "prefect"
    folder.mkdir()
    record = {"url": url, "api_url": f"{url}/api", "pid": 1, "log": str(folder / "server.log")}
    (folder / "server.json").write_text(json.dumps(record))
    with open(folder / "server.lock", "wb") as owned:
        fcntl.flock(owned, fcntl.LOCK_EX)
        assert silent_servers(tmp_path) == ["Prefect"]
    assert silent_servers(tmp_path) == []


def test_check_is_light() -> None:
    program = "import sys, flows.health; print(sorted({'torch', 'mlflow', 'prefect', 'monai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
