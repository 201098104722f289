import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.errors import RefusedError, StorageError
from components.exchange.keys import SigningKey, TlsKey
from components.governance.certificates import Authority, issue_credential, make_csr, verify_chain
from components.governance.identity_files import CoordinatorFolder, Federation, SiteFolder, pin

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The modes must not depend on a careful umask."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return SiteFolder(tmp_path / "state")


@pytest.fixture
def coordinator(tmp_path: Path) -> CoordinatorFolder:
    return CoordinatorFolder(tmp_path / "coordinator")


def modes(folder: Path) -> dict[str, int]:
    found = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    return found | {".": stat.S_IMODE(folder.stat().st_mode)}


def pinned_by(authority: Authority, site: SiteFolder) -> Federation:
    return Federation(
        federation="fed-1",
        site="north",
        gateway="https://localhost:8443",
        ca=authority.pem.decode(),
        coordinator=pin(site.read_keys().public, date(2026, 11, 22)),
    )


def test_a_sites_folder_is_whole_and_only_its_owners(site: SiteFolder, authority: Authority) -> None:
    keys = site.make_keys()
    issued = issue_credential(authority, make_csr(keys.tls, "north"), site="north")
    assert site.write_credential(issued.pem) == issued == site.read_credential()
    pinned = pinned_by(authority, site)
    site.write_federation(pinned)
    assert site.read_federation() == pinned
    assert modes(site.state) == {
        ".": 0o700,
        "keys": 0o700,
        "keys/signing.key": 0o600,
        "keys/sealing.key": 0o600,
        "keys/tls.key": 0o600,
        "credential.pem": 0o600,
        "federation.json": 0o600,
    }


def test_keys_that_are_there_are_kept_and_those_that_are_missing_made(site: SiteFolder) -> None:
    first = site.make_keys()
    site.tls_key.unlink()
    again = site.make_keys()
    assert again.public == first.public == site.read_keys().public
    assert again.tls.public != first.tls.public


MAKE = """
import sys
from pathlib import Path
from components.governance.identity_files import SiteFolder
print(SiteFolder(Path(sys.argv[1])).make_keys().public.to_json())
"""


def test_two_processes_at_once_get_the_same_keys(site: SiteFolder) -> None:
    command = [sys.executable, "-c", MAKE, str(site.state)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=120)[0].strip() for process in started}
    assert said == {str(site.read_keys().public.to_json())}


def test_who_loses_the_race_uses_the_winners_key(site: SiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    winner, loser = SigningKey.generate(), SigningKey.generate()

    def generate() -> SigningKey:
        winner.save(site.state / "keys" / "signing.key")
        return loser

    monkeypatch.setattr(SigningKey, "generate", generate)
    assert site.make_keys().signing.public == winner.public == site.read_keys().signing.public


def test_nothing_here_needs_torch(site: SiteFolder) -> None:
    """A worker that has not trained yet, and the gateway, stay light."""
    modules = "components.exchange.sealing, components.exchange.signed"
    code = f"{MAKE}import {modules}\nassert not {{'torch', 'mlflow'}} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code, str(site.state)], cwd=ROOT, check=True, capture_output=True, timeout=120
    )


@pytest.mark.parametrize("name", ["signing.key", "sealing.key", "tls.key"])
def test_a_key_that_is_missing_damaged_or_open_is_named(site: SiteFolder, name: str) -> None:
    site.make_keys()
    path = site.state / "keys" / name
    path.chmod(0o644)
    with pytest.raises(StorageError, match=f"Run: chmod 600 state/keys/{name}"):
        site.read_keys()
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StorageError, match=rf"{name} cannot be used: not a private key .*enrol again"):
        site.read_keys()
    with pytest.raises(StorageError, match="cannot be used"):
        site.make_keys()
    path.unlink()
    with pytest.raises(StorageError, match=f"cannot read state/keys/{name}: it is not there"):
        site.read_keys()


def test_a_credential_for_another_key_is_not_kept(site: SiteFolder, authority: Authority) -> None:
    keys = site.make_keys()
    good = issue_credential(authority, make_csr(keys.tls, "north"), site="north")
    site.write_credential(good.pem)
    other = issue_credential(authority, make_csr(TlsKey.generate(), "north"), site="north")
    with pytest.raises(RefusedError, match="north is for another TLS key"):
        site.write_credential(other.pem)
    with pytest.raises(RefusedError, match="not one certificate"):
        site.write_credential(b"nonsense")
    assert site.read_credential() == good


def test_a_renewed_credential_takes_the_place_of_the_last(
    site: SiteFolder, authority: Authority, now: datetime
) -> None:
    csr = make_csr(site.make_keys().tls, "north")
    first = site.write_credential(issue_credential(authority, csr, site="north", at=now).pem)
    site.write_credential(issue_credential(authority, csr, site="north", at=first.renew_at).pem)
    renewed = site.read_credential()
    assert renewed.not_after > first.not_after
    assert verify_chain(renewed.pem, authority.pem, now + timedelta(days=8)).site == "north"


def test_a_credential_that_is_damaged_or_missing_is_named(site: SiteFolder) -> None:
    site.make_keys()
    with pytest.raises(StorageError, match=r"cannot read .*credential\.pem: it is not there"):
        site.read_credential()
    site.credential.write_text("nonsense")
    site.credential.chmod(0o600)
    with pytest.raises(StorageError, match=r"credential\.pem cannot be used: .*enrol again"):
        site.read_credential()


DAMAGE: list[tuple[Any, str]] = [
    (lambda fields: fields | {"extra": 1}, "extra"),
    (lambda fields: fields | {"gateway": "http://x"}, "gateway must be https"),
    (lambda fields: fields | {"coordinator": {**fields["coordinator"], "signing": "AAAA"}}, "coordinator"),
    (lambda fields: {key: value for key, value in fields.items() if key != "ca"}, "ca"),
    (lambda fields: [], "the file"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_what_was_pinned_is_checked_when_it_is_read(
    site: SiteFolder, authority: Authority, change: Any, message: str
) -> None:
    site.make_keys()
    site.write_federation(pinned_by(authority, site))
    site.federation.write_text(json.dumps(change(json.loads(site.federation.read_text()))))
    with pytest.raises(StorageError, match=rf"federation\.json cannot be used: .*{message}"):
        site.read_federation()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_pins_that_others_may_change_are_not_believed(site: SiteFolder, authority: Authority, mode: int) -> None:
    site.make_keys()
    site.write_federation(pinned_by(authority, site))
    site.federation.chmod(mode)
    with pytest.raises(StorageError, match=r"may read or change it\. Run: chmod 600 .*federation\.json"):
        site.read_federation()
    site.federation.chmod(0o644)
    site.read_federation()
    site.state.chmod(0o777)
    with pytest.raises(StorageError, match="Run: chmod 700"):
        site.read_federation()


def test_a_coordinators_folder_is_whole_and_only_its_owners(coordinator: CoordinatorFolder, now: datetime) -> None:
    made = coordinator.make("fed-1", names=["localhost"], ips=["127.0.0.1"], at=now)
    read = coordinator.read()
    assert read.public == made.public
    assert read.authority.sha256 == made.authority.sha256
    assert read.authority.federation == "fed-1"
    assert modes(coordinator.secrets) == {
        ".": 0o700,
        **dict.fromkeys(["ca.key", "ca.pem", "gateway.key", "gateway.pem", "signing.key", "sealing.key"], 0o600),
    }


def test_making_again_changes_nothing(coordinator: CoordinatorFolder) -> None:
    coordinator.make("fed-1", names=["localhost"])
    before = {path: path.read_bytes() for path in coordinator.secrets.iterdir()}
    coordinator.make("fed-1", names=["elsewhere.example"])
    assert {path: path.read_bytes() for path in coordinator.secrets.iterdir()} == before
    with pytest.raises(StorageError, match="holds the authority of federation 'fed-1'"):
        coordinator.make("fed-2", names=["localhost"])


KILLED = """
import os, signal, sys
from pathlib import Path
from components.governance.identity_files import CoordinatorFolder
left = [int(sys.argv[2])]
def die(name, _):
    if name in ("os.rename", "os.link"):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
CoordinatorFolder(Path(sys.argv[1])).make("fed-1", names=["localhost"])
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_kill_9_at_any_file_is_gone_on_with(coordinator: CoordinatorFolder, step: int) -> None:
    command = [sys.executable, "-c", KILLED, str(coordinator.folder), str(step)]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == -9
    kept = {path: path.read_bytes() for path in coordinator.secrets.iterdir() if not path.name.startswith(".tmp-")}
    assert len(kept) == step - 1
    made = coordinator.make("fed-1", names=["localhost"])
    assert made.authority.key.public == coordinator.read().authority.key.public
    assert {path: path.read_bytes() for path in kept} == kept
    assert coordinator.read_gateway().key.public == TlsKey.load(coordinator.gateway_key).public


def test_the_gateways_certificate_is_issued_anew_for_its_key(coordinator: CoordinatorFolder, now: datetime) -> None:
    secrets = coordinator.make("fed-1", names=["localhost"], at=now)
    first = coordinator.read_gateway()
    coordinator.write_gateway(secrets.authority, names=["gateway.example"], at=now + timedelta(days=300))
    later = coordinator.read_gateway()
    assert later.key.public == first.key.public
    assert later.not_after == first.not_after + timedelta(days=300)


def test_secrets_do_not_show(coordinator: CoordinatorFolder, site: SiteFolder) -> None:
    for text in (repr(coordinator.make("fed-1", names=["localhost"])), repr(site.make_keys())):
        assert text in ("CoordinatorSecrets()", "SiteKeys()")
