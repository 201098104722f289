"""Single servers for a benchmark, each a process of its own: a gateway, and MLflow's artifact store."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.commands import ROOT, environment, python
from flows.coordinator import GATEWAY_FILE, CoordinatorConfig, CoordinatorSide, init_coordinator, open_side
from flows.health import server_trouble
from flows.local_postgres import free_port

READY_WITHIN_S = 120.0


@contextmanager
def gateway(folder: Path) -> Iterator[CoordinatorSide]:
    """Yield the coordinator's side of a federation whose gateway runs, as a process of its own."""
    port = free_port()
    folder.mkdir(parents=True)
    config = CoordinatorConfig(
        federation="bench", address=f"https://127.0.0.1:{port}", database=f"sqlite:///{folder / 'gateway.db'}",
        prefect_url="http://127.0.0.1:1/api", require_ready=False,
    )  # fmt: skip
    init_coordinator(folder, config, names=["127.0.0.1"], port=port)
    command = python("components.gateway.serve", str(folder / GATEWAY_FILE))
    with serving(command, folder / "gateway.log", f"{config.address}/v1/health", str(folder / "secrets" / "ca.pem")):
        yield open_side(folder)


@contextmanager
def artifact_store(folder: Path) -> Iterator[str]:
    """Yield the address of an MLflow server that proxies its artifacts."""
    folder.mkdir(parents=True)
    address = f"http://127.0.0.1:{free_port()}"
    command = python(
        "mlflow", "server", "--host=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--workers=1",
        "--serve-artifacts", f"--artifacts-destination={folder / 'artifacts'}",
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
    )  # fmt: skip
    with serving(command, folder / "mlflow.log", f"{address}/health"):
        yield address


@contextmanager
def serving(command: Sequence[str], log: Path, page: str, authority: str = "") -> Iterator[None]:
    """Run a server until the block ends.

    Raises:
        RuntimeError: If it does not come up.
    """
    variables = {**environment(log.parent), "MLFLOW_DISABLE_TELEMETRY": "true",
                 "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # fmt: skip
    with log.open("wb") as output, subprocess.Popen(
        list(command), cwd=ROOT, env=variables, stdout=output, stderr=output
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + READY_WITHIN_S
            while server_trouble(page, authority):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} did not come up: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait()
