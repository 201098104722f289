"""Two hospitals whose networks let nothing out but through a proxy: one that only passes on, one that inspects TLS.

Both enrol, are examined, start and train as their administrators would have it. The gateway has a name that only the
proxies know, so that whoever does not go through one reaches nothing.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml

from flows.embedded_prefect import EmbeddedPrefect
from tests.end_to_end.middlebox import Middlebox, make_authority, middlebox
from tests.end_to_end.searching import find
from tests.end_to_end.ward import wait_until
from tests.references.tiny_study import STUDY, write_films, write_study

ROOT = Path(__file__).resolve().parents[2]
HOST = "gateway.ward.test"
PASSES, INSPECTS = "north", "south"
pytestmark = pytest.mark.timeout(600)


@dataclass
class Consortium:
    """A coordinator, and two hospitals behind a proxy each."""

    folder: Path
    port: int
    boxes: dict[str, Middlebox]
    study: Path
    doctors: dict[str, str] = field(default_factory=dict)

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    @property
    def target(self) -> str:
        return f"{HOST}:{self.port}"

    def run(self, *arguments: str, proxy: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command, in the network of a proxy or in one without."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            env=self.environment(proxy), cwd=self.folder, capture_output=True, text=True, timeout=150,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done

    def environment(self, proxy: str | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        ours = {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "",
            "WARDROUND_HOME": str(self.folder / "home"),
            "COLUMNS": "200",
        }
        return {**kept, **ours, **({"HTTPS_PROXY": self.boxes[proxy].url} if proxy else {})}

    @contextmanager
    def process(self, *command: str, log: str, proxy: str | None = None) -> Iterator[None]:
        """Run a process; SIGTERM ends it."""
        with (self.folder / log).open("wb") as output:
            started = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment(proxy), cwd=self.folder, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip
        try:
            yield
            assert started.poll() is None, self.logs()
        finally:
            started.terminate()
            started.wait(60)

    def token(self, site: str) -> str:
        return self.run("coordinator", "invite", site, "--folder", str(self.coordinator)).stdout.strip()

    def hospital(self, site: str) -> Path:
        return self.folder / site

    def logs(self) -> str:
        return "".join(f"\n== {path.name}\n{path.read_text()[-3000:]}" for path in self.folder.glob("*.log"))


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A coordinator whose gateway answers; no hospital yet."""
    folder = tmp_path_factory.mktemp("consortium")
    write_films(folder)
    study = write_study(folder, rounds={"max": 1, "quorum": 2})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    names = {f"{HOST}:{port}": ("127.0.0.1", port)}
    make_authority(folder / "network")
    with ExitStack() as stack:
        made = Consortium(folder, port, {PASSES: stack.enter_context(middlebox(names))}, study)
        prefect = stack.enter_context(EmbeddedPrefect.start(folder / "home", ui=False))
        prefect.wait_ready()
        made.run("coordinator", "init", "--folder", str(made.coordinator), "--federation", "ward", "--name", HOST,
                 "--port", str(port), "--prefect-url", prefect.api_url, "--no-compose")  # fmt: skip
        config = made.coordinator / "gateway.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "host": "127.0.0.1"}))
        trusts = made.coordinator / "secrets" / "ca.pem"
        made.boxes[INSPECTS] = stack.enter_context(middlebox(names, authority=folder / "network", trusts=trusts))
        stack.enter_context(made.process("components.gateway.serve", str(config), log="gateway.log"))
        assert wait_until(lambda: answers(port, trusts), limit_s=60), made.logs()
        yield made


def answers(port: int, authority: Path) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return authority.exists()
    except OSError:
        return False


@pytest.fixture(scope="module")
def trained(consortium: Consortium) -> Iterator[Consortium]:
    """Both hospitals have enrolled, were examined, and have trained a round."""
    enroll = ("hospital", "enroll", "--token")
    consortium.run(*enroll, consortium.token(PASSES), "--folder", str(consortium.hospital(PASSES)), proxy=PASSES)
    given = str(consortium.folder / "network" / "given.pem")
    consortium.run(*enroll, consortium.token(INSPECTS), "--folder", str(consortium.hospital(INSPECTS)),
                   "--ca", given, "--signed", proxy=INSPECTS)  # fmt: skip
    with ExitStack() as stack:
        for place, site in enumerate((PASSES, INSPECTS)):
            rows = list(range(place, 180, 2))
            part = {"site": site, "kind": "npz", "path": str(consortium.folder / "films.npz"), "rows": rows}
            settings = {"sources": {STUDY: {"name": site, "parts": [part]}}, "policy": {"min_sites": 2}}
            (consortium.hospital(site) / "hospital.yaml").write_text(yaml.safe_dump(settings))
            doctor = ("hospital", "doctor", "--folder", str(consortium.hospital(site)))
            consortium.doctors[site] = consortium.run(*doctor, proxy=site).stdout
            start = ("flows.cli", "hospital", "start", "--folder", str(consortium.hospital(site)))
            stack.enter_context(consortium.process(*start, log=f"{site}.log", proxy=site))
        consortium.run("train", str(consortium.study), "--folder", str(consortium.coordinator))
        yield consortium


def test_enrolling_where_tls_is_inspected_says_what_to_do_and_spends_no_token(consortium: Consortium) -> None:
    token, folder = consortium.token("east"), str(consortium.hospital("east"))
    enroll = ("hospital", "enroll", "--token", token, "--folder", folder)
    refused = consortium.run(*enroll, proxy=INSPECTS, check=False)
    assert refused.returncode != 0
    assert "shows a certificate that is not this federation's: if this network inspects TLS" in refused.stderr
    given = str(consortium.folder / "network" / "given.pem")
    assert "east is enrolled" in consortium.run(*enroll, "--ca", given, "--signed", proxy=INSPECTS).stdout
    consortium.run("coordinator", "revoke", "east", "--folder", str(consortium.coordinator))  # it takes part in nothing


def test_a_round_is_trained_through_both_proxies(trained: Consortium) -> None:
    text = (trained.folder / "home" / "trainings" / STUDY / "journal.jsonl").read_text()
    (aggregated,) = [json.loads(line) for line in text.splitlines() if '"event":"aggregated"' in line]
    assert aggregated["data"]["took_part"] == [PASSES, INSPECTS]


@pytest.mark.parametrize("site", [PASSES, INSPECTS])
def test_all_of_it_went_through_the_proxy_and_to_the_gateway_alone(trained: Consortium, site: str) -> None:
    box = trained.boxes[site]
    assert set(box.lines) == {f"CONNECT {trained.target} HTTP/1.1"}
    assert len(box.connections) >= 3  # to enrol, to work, and to say that it is alive
    words = ["/v1/enrol", "/v1/heartbeat", "/v1/work", "/submit"]
    assert find(box.inspected, words) == (set(words) if site == INSPECTS else set())


@pytest.mark.parametrize("site", [PASSES, INSPECTS])
def test_the_doctor_reaches_the_gateway_through_the_proxy_and_not_without(trained: Consortium, site: str) -> None:
    said = trained.doctors[site]
    assert f"https://{trained.target} answers in" in said
    assert "the coordinator knows this hospital as ready" in said
    box = trained.boxes[INSPECTS]
    assert find(box.inspected, ["/v1/doctor"]) == {"/v1/doctor"}
    assert find(box.inspected, [str(trained.folder), "hospital.yaml"]) == set()  # only facts were sent
    alone = trained.run("hospital", "doctor", "--folder", str(trained.hospital(site)), check=False)
    assert alone.returncode != 0
    assert f"the gateway https://{trained.target} cannot be reached" in alone.stdout + alone.stderr


def test_a_proxy_lets_nobody_through_to_anywhere_else(consortium: Consortium) -> None:
    """The control of the proxy: what it does not map, nobody reaches through it."""
    with (
        httpx.Client(proxy=consortium.boxes[PASSES].url, timeout=60) as client,
        pytest.raises(httpx.ProxyError, match="403"),
    ):
        client.get(f"https://127.0.0.1:{consortium.port}/v1/health")
    consortium.boxes[PASSES].lines.pop()
