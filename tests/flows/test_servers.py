"""The embedded servers, with real processes: they serve, they are shared, and they never outlive their users."""

import http.server
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from components.errors import ServiceError, StorageError
from flows import servers
from flows.embedded_prefect import PREFECT, server_environment
from flows.embedded_server import EmbeddedServer, ServerProgram, start_server
from flows.servers import EmbeddedPrefect, check_reachable, open_prefect, prefect_environment, serve_ui

ROOT = Path(servers.__file__).resolve().parent.parent


def fetch(url: str) -> str:
    request = urllib.request.Request(url, headers={"Accept": "text/html,application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def wait_until(condition: Callable[[], bool], limit_s: float = 15) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    """Whether no such process runs; one that ended and waits for its parent to notice does not run."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def is_closed(url: str) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) != 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def prefect(home: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedPrefect.start(home) as server:
        server.wait_ready(120)
        yield server


def test_start_returns_before_the_server_is_ready(tmp_path: Path) -> None:
    began = time.monotonic()
    with EmbeddedPrefect.start(tmp_path) as server:
        assert time.monotonic() - began < 1.5
        assert server.api_url == f"{server.url}/api"
        assert server.is_running()
    assert is_gone(server.server.pid)


def test_server_answers_on_the_loopback_interface_only(prefect: EmbeddedServer) -> None:
    assert fetch(f"{prefect.api_url}/health") == "true"
    port = f"{int(prefect.url.rsplit(':', 1)[1]):04X}"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    hosts = {columns[1].split(":")[0] for columns in listening if columns[1].endswith(port) and columns[3] == "0A"}
    assert hosts == {"0100007F"}


def test_server_serves_prefects_interface(prefect: EmbeddedServer) -> None:
    assert "<html" in fetch(prefect.url).lower()
    assert json.loads(fetch(f"{prefect.url}/ui-settings"))["api_url"] == prefect.api_url


def test_second_user_finds_the_running_server_and_does_not_stop_it(home: Path, prefect: EmbeddedServer) -> None:
    with EmbeddedPrefect.start(home) as second:
        assert second.reused
        assert second.server == prefect.server
        second.wait_ready(10)
    assert fetch(f"{prefect.api_url}/health") == "true"


FLOW = """
import json, os, sys
from pathlib import Path
from flows.servers import EmbeddedPrefect, prefect_environment

home = Path(sys.argv[1])
with EmbeddedPrefect.start(home) as server:
    os.environ.update(prefect_environment(server.wait_ready(120).api_url, home))
    import httpx
    from prefect import flow, task
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    answers = []
    send = httpx.HTTPTransport.handle_request
    def counted(self, request):
        response = send(self, request)
        answers.append(response.status_code)
        return response
    httpx.HTTPTransport.handle_request = counted

    @task
    def site_training(number): return number
    @flow
    def federated_round(number): return [site_training(site) for site in range(10)]
    @flow
    def federated_training(): return [federated_round(number) for number in range(4)]

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        federated_training()
    from prefect.events import emit_event

    for number in range(500):
        emit_event("wardround.last-words", resource={"prefect.resource.id": f"wardround.{number}"})
from prefect.events.worker import EventsWorker
print(json.dumps({"answers": answers, "still_sending": len(EventsWorker._instances)}))
"""


def test_flows_are_recorded_whole_though_their_server_stops_at_once(tmp_path: Path) -> None:
    """And no request was told to come back later, which would cost 2 s each time."""
    done = subprocess.run(
        [sys.executable, "-c", FLOW, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said["answers"]) > 20
    assert 503 not in said["answers"]
    assert said["still_sending"] == 0
    with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database:
        flows = database.execute("SELECT state_type, count(*) FROM flow_run GROUP BY 1").fetchall()
        tasks = database.execute("SELECT state_type, count(*) FROM task_run GROUP BY 1").fetchall()
        (events,) = database.execute("SELECT count(*) FROM events WHERE event = 'wardround.last-words'").fetchone()
    assert events == 500
    assert flows == [("COMPLETED", 5)]
    assert tasks == [("COMPLETED", 4 * 10 + 4)]  # a subflow has a task run of its own in its parent
    assert "Traceback" not in (tmp_path / "prefect" / "server.log").read_text()


USER = """
import sys
from pathlib import Path
from flows.servers import EmbeddedPrefect
server = EmbeddedPrefect.start(Path(sys.argv[1]))
if sys.argv[2] == "ready":
    server.wait_ready(120)
print(server.server.pid, server.url, flush=True)
sys.stdin.read()
"""


def start_user(home: Path, until: str) -> tuple[subprocess.Popen[str], int, str]:
    """Another process that uses the home's server; its server's process and address."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(home), until],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout is not None
    pid, url = user.stdout.readline().split()
    return user, int(pid), url


def kill(user: subprocess.Popen[str]) -> None:
    with user:
        user.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("until", ["started", "ready"])
def test_server_ends_when_its_user_is_killed(tmp_path: Path, until: str) -> None:
    user, pid, url = start_user(tmp_path, until)
    assert not is_gone(pid)
    kill(user)
    assert wait_until(lambda: is_gone(pid) and is_closed(url))
    assert "Traceback" not in (tmp_path / "prefect" / "server.log").read_text()


def test_server_outlives_the_one_that_started_it_while_another_uses_it(tmp_path: Path) -> None:
    user, pid, _ = start_user(tmp_path, "started")
    with EmbeddedPrefect.start(tmp_path) as second:
        kill(user)
        assert second.reused
        assert second.wait_ready(120).pid == pid
    assert wait_until(lambda: is_gone(pid))


def test_home_can_be_used_again_after_its_server_was_killed(tmp_path: Path) -> None:
    with EmbeddedPrefect.start(tmp_path) as first:
        os.kill(first.server.pid, signal.SIGKILL)
        assert wait_until(lambda: not first.is_running())
        with EmbeddedPrefect.start(tmp_path) as second:
            assert not second.reused
            assert fetch(f"{second.wait_ready(120).api_url}/health") == "true"


def test_a_port_in_use_is_named_with_the_option_that_changes_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"Port {port} .*in use.*--prefect-port"):
            EmbeddedPrefect.start(tmp_path, port=port)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "prefect").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"prefect.*WARDROUND_HOME"):
        EmbeddedPrefect.start(tmp_path)


def test_a_server_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    program = ServerProgram("Prefect", "flows.no_such_module", "/api", "/api/health", "prefect", "--prefect-port")
    server = start_server(program, tmp_path, environment=dict(os.environ), arguments=[])
    with server, pytest.raises(ServiceError, match=r"ended while starting.*server\.log.*no_such_module"):
        server.wait_ready(30)


def test_the_users_own_prefect_settings_do_not_reach_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://elsewhere/prefect")
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv("PREFECT_DEBUG_MODE", "true")
    environment = server_environment(tmp_path, ui=False)
    assert "PREFECT_API_DATABASE_CONNECTION_URL" not in environment
    assert "PREFECT_API_KEY" not in environment
    assert environment["PREFECT_DEBUG_MODE"] == "true"
    assert environment["PREFECT_HOME"] == str(tmp_path)


def test_client_settings_keep_logs_and_pickles_out(tmp_path: Path) -> None:
    settings = prefect_environment("http://127.0.0.1:1/api", tmp_path, user={"PREFECT_LOGGING_LEVEL": "DEBUG"})
    assert settings["PREFECT_LOGGING_TO_API_ENABLED"] == "false"
    assert settings["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert settings["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert settings["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert "PREFECT_HOME" not in prefect_environment("http://127.0.0.1:1/api", None)


class NotFound(http.server.BaseHTTPRequestHandler):
    """Answers 404 to everything."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        return


def test_a_server_that_is_reachable_passes(prefect: EmbeddedServer) -> None:
    check_reachable(prefect.api_url, name="Prefect")


def test_an_address_that_is_not_http_is_not_asked() -> None:
    check_reachable("sqlite:////nowhere/mlflow.db", name="MLflow")


def test_a_server_that_is_away_is_named_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ServiceError, match=f"MLflow at http://127.0.0.1:{port} cannot be reached.*MLFLOW_TRACKING_URI"):
        check_reachable(f"http://127.0.0.1:{port}", name="MLflow")


def test_a_server_that_never_answers_is_named_at_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with pytest.raises(ServiceError, match="cannot be reached"):
            check_reachable(url, name="Prefect", timeout_s=0.3)


def test_another_server_at_the_address_is_recognised() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        with pytest.raises(ServiceError, match="answered 404"):
            check_reachable(f"http://127.0.0.1:{other.server_port}/api", name="Prefect")


def test_the_users_server_is_used_and_nothing_started(
    tmp_path: Path, prefect: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect.api_url)
    with open_prefect(tmp_path) as server:
        server.wait_ready()
        assert server.api_url == prefect.api_url
    assert not (tmp_path / "prefect").exists()
    assert prefect.is_running()


def test_the_users_server_that_is_away_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServiceError, match="unset PREFECT_API_URL"):
        open_prefect(tmp_path)


def test_an_address_we_set_ourselves_is_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in prefect_environment("http://127.0.0.1:9/api", tmp_path).items():
        monkeypatch.setenv(name, value)
    with open_prefect(tmp_path) as server:
        assert isinstance(server, EmbeddedServer)


def test_a_trainings_server_has_the_interface_that_ui_may_want_meanwhile(tmp_path: Path) -> None:
    with open_prefect(tmp_path) as server:
        assert isinstance(server, EmbeddedServer)
        variables = Path(f"/proc/{server.server.pid}/environ")
        assert wait_until(lambda: variables.read_bytes() != b"")  # empty while the program is being loaded
        assert b"PREFECT_SERVER_UI_ENABLED=true" in variables.read_bytes().split(b"\0")


def test_ui_says_that_nothing_is_recorded(tmp_path: Path) -> None:
    said: list[str] = []
    assert serve_ui(tmp_path, 0, 0, say=said.append) == 0
    assert "Nothing is recorded" in said[0]
    assert list(tmp_path.iterdir()) == []


def test_ui_says_the_addresses_of_servers_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid:4200/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.invalid")
    said: list[str] = []
    assert serve_ui(tmp_path, 0, 0, say=said.append) == 0
    mlflow = "https://mlflow.invalid/#/experiments?workflowType=machine_learning"
    assert [line.split()[-3] for line in said] == [mlflow, "http://prefect.invalid:4200"]
    assert list(tmp_path.iterdir()) == []


def record_something(home: Path) -> None:
    """An MLflow database with nothing but its tables."""
    from components.tracking.connection import prepare_database

    prepare_database(f"sqlite:///{home / 'mlflow.db'}")


def test_ui_serves_both_until_it_is_told_to_stop(tmp_path: Path) -> None:
    record_something(tmp_path)
    said: list[str] = []
    stop = threading.Event()
    ended: list[int] = []
    serving = threading.Thread(
        target=lambda: ended.append(serve_ui(tmp_path, 0, 0, say=said.append, stop=stop)), daemon=True
    )
    serving.start()
    try:
        assert wait_until(lambda: len(said) == 3, limit_s=120)
        mlflow, prefect = (line.split()[-1] for line in said[:2])
        assert "<html" in fetch(mlflow).lower()
        assert "<html" in fetch(prefect).lower()
    finally:
        stop.set()
        serving.join(30)
    assert ended == [0]
    assert is_closed(mlflow)
    assert is_closed(prefect)
    assert "Traceback" not in (tmp_path / "mlflow-server" / "server.log").read_text()


def test_ui_ends_with_a_message_when_a_server_ends(tmp_path: Path) -> None:
    record_something(tmp_path)

    def kill_when_ready(line: str) -> None:
        if line.startswith("Ctrl-C"):
            os.kill(json.loads((tmp_path / "mlflow-server" / "server.json").read_text())["pid"], signal.SIGKILL)

    with pytest.raises(ServiceError, match=r"The MLflow server at .* ended.*server\.log"):
        serve_ui(tmp_path, 0, 0, say=kill_when_ready)


def test_ui_names_a_port_in_use_and_leaves_nothing_running(tmp_path: Path) -> None:
    record_something(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"Port {port} .*--mlflow-port"):
            serve_ui(tmp_path, 0, port, say=str)
    pid = json.loads((tmp_path / "prefect" / "server.json").read_text())["pid"]
    assert is_gone(pid)


def test_program_names_its_option() -> None:
    assert PREFECT.port_option == "--prefect-port"
