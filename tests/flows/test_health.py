"""A container's health check: silent servers are named, absent ones are fine."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.coordinator import FILE
from flows.health import HEARTBEAT, hospital_trouble, main, silent_servers

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


def test_a_hospital_is_healthy_while_it_is_heard(tmp_path: Path) -> None:
    assert "has not heard of this hospital yet" in hospital_trouble(tmp_path)
    (tmp_path / HEARTBEAT).touch()
    heard = (tmp_path / HEARTBEAT).stat().st_mtime
    assert hospital_trouble(tmp_path, now=heard + 299) == ""
    assert hospital_trouble(tmp_path, now=heard + 301).endswith("for 301 s")


def test_a_coordinator_is_healthy_while_prefect_answers_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).touch()
    assert main([str(tmp_path)]) == 1
    assert "not been told by Prefect what is due yet" in capsys.readouterr().out
    (tmp_path / HEARTBEAT).touch()
    assert main([str(tmp_path)]) == 0
    os.utime(tmp_path / HEARTBEAT, (0, 0))
    assert main([str(tmp_path)]) == 1


class Ill(BaseHTTPRequestHandler):
    """Answers what its path says."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_is_healthy_if_it_answers_as_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), Ill) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert main([f"{url}/200"]) == 0
        assert main([f"{url}/503"]) == 1
        server.shutdown()
    assert main([f"{url}/200"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{url}/503 answers 503"
    assert said[1].startswith(f"{url}/200 does not answer")


def test_check_is_light() -> None:
    program = "import sys, flows.health; print(sorted({'torch', 'mlflow', 'prefect', 'monai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
