"""The operator's commands, as they are typed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from components.gateway.tokens import read_token
from flows.packages import with_packages
from tests.command_line import Run

DOCKER = ("coordinator", "init", "--federation", "chest", "--name", "gateway.example.org", "--port", "8443")
INIT = (*DOCKER, "--no-compose")


def test_a_coordinator_s_folder_has_secrets_that_only_its_owner_reads(wardround: Run, tmp_path: Path) -> None:
    assert wardround(*INIT, "--folder", str(tmp_path / "c")).code == 0
    secrets = tmp_path / "c" / "secrets"
    keys = sorted(path.name for path in secrets.glob("*.key"))
    assert keys == ["ca.key", "gateway.key", "sealing.key", "signing.key"]
    assert {stat.S_IMODE((secrets / key).stat().st_mode) for key in keys} == {0o600}


def test_made_again_it_keeps_its_keys(wardround: Run, tmp_path: Path) -> None:
    files = tmp_path / "c" / "secrets"
    wardround(*INIT, "--folder", str(tmp_path / "c"))
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    wardround(*INIT, "--prefect-url", "http://127.0.0.1:4300/api", "--folder", str(tmp_path / "c"))
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
    assert "4300" in (tmp_path / "c" / "gateway.json").read_text()


def test_an_invitation_names_gateway_federation_and_hospital(wardround: Run, tmp_path: Path) -> None:
    wardround(*INIT, "--folder", str(tmp_path / "c"))
    said = wardround("coordinator", "invite", "north", "--folder", str(tmp_path / "c")).out
    invitation = read_token(said).invitation
    assert (invitation.gateway, invitation.federation, invitation.site) == (
        "https://gateway.example.org:8443", "chest", "north",
    )  # fmt: skip
    assert "north" in wardround("status", "--folder", str(tmp_path / "c")).out


def test_mistakes_get_one_message_that_says_what_to_do(wardround: Run, tmp_path: Path) -> None:
    wardround(*INIT, "--folder", str(tmp_path / "c"))
    nobody = wardround("coordinator", "revoke", "south", "--folder", str(tmp_path / "c"))
    nowhere = wardround("status", "--folder", str(tmp_path / "none"))
    own = wardround("coordinator", "invite", "coordinator", "--folder", str(tmp_path / "c"))
    assert (nobody.code, "wardround status lists them" in nobody.err) == (4, True)
    assert (own.code, "give the hospital another" in " ".join(own.err.split())) == (4, True)
    for name, why in (("pooled", "all sites' items in one place"), ("St. Mary's", "a name of letters, digits")):
        told = wardround("coordinator", "invite", name, "--folder", str(tmp_path / "c"))
        assert (told.code, why in " ".join(told.err.split())) == (4, True)
    assert (nowhere.code, "wardround coordinator init" in " ".join(nowhere.err.split())) == (6, True)
    assert "nothing was up" in wardround("down").out


def test_for_docker_it_says_how_to_start_and_where_commands_run(wardround: Run, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    made = wardround(*DOCKER, "--folder", str(folder))
    assert (made.code, "docker compose up -d" in made.out, (folder / "compose.yaml").exists()) == (0, True, True)
    outside = wardround("coordinator", "invite", "north", "--folder", str(folder))
    assert (outside.code, "docker compose run --rm coordinator" in " ".join(outside.err.split())) == (7, True)


def test_servers_of_one_s_own_are_not_for_the_compose_file(wardround: Run, tmp_path: Path) -> None:
    told = wardround(*DOCKER, "--prefect-url", "http://127.0.0.1:4300/api", "--folder", str(tmp_path / "c"))
    assert (told.code, "--no-compose" in told.err, (tmp_path / "c").exists()) == (2, True, False)


def test_what_serves_schedules_and_shows_the_state_does_without_torch() -> None:
    """It runs for years beside the servers: torch would be 200 MB, and two seconds of every ``status``."""
    program = "import sys, flows.coordinator_process, flows.live; print('torch' in sys.modules)"
    environment = with_packages(os.environ)
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert said.stdout.split() == ["False"]
