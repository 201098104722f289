"""The tables, on SQLite and once on PostgreSQL: of two that want the same thing, exactly one gets it."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from components.errors import RefusedError, ServiceError
from components.gateway.database import SCHEMA, Database, meta
from components.gateway.grants import Grants
from components.gateway.records import SlotKey
from components.gateway.sites import Issued, NewSite, Sites
from components.gateway.tokens import Invitation

pytestmark = pytest.mark.timeout(120)
INVITATION = Invitation(gateway="https://g", authority="0" * 64, federation="ward", site="north")
KEYS = NewSite("s", "x", "claim-1")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'g.db'}", clock=clock)
    yield made
    made.close()


def issue(serial: str) -> Any:
    return lambda name: (Issued(serial, 5000.0), name)


def test_a_token_is_used_once(database: Database) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION)
    assert sites.enrol(token.id, token.secret, KEYS, issue("a")) == "north"
    with pytest.raises(RefusedError, match="used"):
        sites.enrol(token.id, token.secret, NewSite("s", "x", "claim-2"), issue("b"))
    assert sites.find_active("north", "a") is not None


def test_the_same_keys_may_ask_again_when_the_answer_was_lost(database: Database) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION)
    sites.enrol(token.id, token.secret, KEYS, issue("a"))
    sites.enrol(token.id, token.secret, KEYS, issue("b"))
    assert sites.find_active("north", "a") is None
    assert sites.find_active("north", "b") is not None


def test_a_token_expires_and_its_secret_is_not_kept(database: Database, clock: Clock, tmp_path: Path) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION, life_s=60)
    clock.time += 61
    with pytest.raises(RefusedError):
        sites.enrol(token.id, token.secret, KEYS, issue("a"))
    database.close()
    assert not any(token.secret.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_a_credential_that_cannot_be_issued_leaves_the_token(database: Database) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION)

    def fail(name: str) -> Any:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        sites.enrol(token.id, token.secret, KEYS, fail)
    assert sites.enrol(token.id, token.secret, NewSite("s", "x", "other"), issue("a")) == "north"


def test_a_renewed_credential_leaves_the_one_before_it(database: Database) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION)
    sites.enrol(token.id, token.secret, KEYS, issue("a"))
    sites.renewed("north", Issued("b", 9000.0))
    assert all(sites.find_active("north", serial) for serial in "ab")
    sites.revoke("north")
    assert not any(sites.find_active("north", serial) for serial in "ab")
    with pytest.raises(RefusedError):
        sites.renewed("north", Issued("c", 9000.0))


def test_ready_is_enrolled_and_examined(database: Database) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION)
    with pytest.raises(RefusedError):
        sites.examined("north", {}, passed=True)
    sites.enrol(token.id, token.secret, KEYS, issue("a"))
    sites.examined("north", {"gpu": "none"}, passed=True)
    (found,) = sites.list()
    assert (found.status, found.doctor, found.doctor_at) == ("ready", {"gpu": "none"}, 1000.0)
    sites.examined("north", {}, passed=False)
    assert sites.list()[0].status == "enrolled"


def test_to_shut_out_ends_slots_and_grants(database: Database) -> None:
    sites, grants = Sites(database), Grants(database)
    slot = SlotKey(training="t", round=1, attempt=1, site="north")
    sites.invite(INVITATION)
    grants.allow("0" * 64, ["north"])
    grants.open_slot(slot, max_bytes=1 << 40)
    assert (grants.may_read("north", "0" * 64), grants.open_bytes(slot)) == (True, 1 << 40)
    sites.leave("north")
    assert (grants.may_read("north", "0" * 64), grants.open_bytes(slot)) == (False, None)


def test_nonces_are_forgotten_when_they_expired(database: Database, clock: Clock) -> None:
    sites = Sites(database)
    assert [sites.use_nonce("n", 2000.0), sites.use_nonce("n", 2000.0)] == [True, False]
    clock.time = 1999.0
    sites.sweep()
    assert not sites.use_nonce("n", 2000.0)
    clock.time = 2001.0
    sites.sweep()
    assert sites.use_nonce("n", 3000.0)


def test_committed_is_on_the_disk(database: Database) -> None:
    with database.read() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 2]


def test_tables_of_another_version_are_refused(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        connection.execute(update(meta).values(value=99))
    with pytest.raises(ServiceError, match=rf"version 99.*version {SCHEMA}"):
        Database(f"sqlite:///{tmp_path / 'g.db'}")


@pytest.mark.parametrize("url", ["mysql://h/n", "nonsense", "sqlite://"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="must be sqlite"):
        Database(url)


def test_a_database_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(ServiceError, match="is it running") as raised:
        Database("postgresql://ward:hush@127.0.0.1:1/none")
    assert "hush" not in str(raised.value)


def use(url: str, token: tuple[str, str], claim: str) -> str:
    """Try to use a token, in a process of its own."""
    database = Database(url)
    try:
        return str(Sites(database).enrol(*token, NewSite("s", "x", claim), issue(claim)))
    except RefusedError:
        return "refused"
    finally:
        database.close()


def race(url: str) -> list[str]:
    """Let two processes, made anew, use one token at once; both make the tables as well."""
    database = Database(url)
    token = Sites(database).invite(INVITATION)
    database.close()
    context = get_context("spawn")
    with context.Pool(2) as pool:
        waiting = [pool.apply_async(use, (url, (token.id, token.secret), claim)) for claim in ("a", "b")]
        found = sorted(each.get(60) for each in waiting)
        pool.close()
        pool.join()
    return found


def test_of_two_processes_exactly_one_uses_a_token(tmp_path: Path) -> None:
    assert race(f"sqlite:///{tmp_path / 'g.db'}") == ["north", "refused"]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of the test's own, without a port."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        pytest.skip("PostgreSQL's server is not in /usr/lib/postgresql")
    user = pwd.getpwuid(os.getuid()).pw_name
    as_user: list[str] = []
    # Short: a socket's path has at most 107 bytes.
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/wr-pg-XXXXXX"], text=True).strip())
    if os.getuid() == 0:
        if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        user, as_user = "postgres", ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres")
    data, control = folder / "data", [*as_user, str(places[-1] / "pg_ctl"), "-D", str(folder / "data")]
    options = f"-c listen_addresses= -c unix_socket_directories={folder}"
    init = [*as_user, str(places[-1] / "initdb"), "-A", "trust", "-U", user, "--no-sync", "-D", str(data)]
    subprocess.run(init, check=True, capture_output=True, cwd="/")
    subprocess.run(
        [*control, "-w", "-o", options, "-l", str(folder / "log"), "start"], check=True, cwd="/", capture_output=True
    )
    try:
        yield f"postgresql://{user}@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd="/", capture_output=True)
        shutil.rmtree(folder)


def test_it_is_the_same_on_postgresql(postgres: str) -> None:
    assert race(postgres) == ["north", "refused"]
    database = Database(postgres)
    try:
        sites, grants = Sites(database), Grants(database)
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda _: sites.use_nonce("n", 1.0), range(16))) == 1
            asking = partial(grants.open_slot, max_bytes=1, request="x")
            slots = [SlotKey(training="s", round=number, attempt=1, site="north") for number in range(1, 17)]
            for _ in pool.map(asking, slots):
                pass
        assert grants.rung() == {"north": 16}
        sites.heartbeat("north", "1.0", {"doing": "training"})
        slot = SlotKey(training="t", round=1, attempt=1, site="north")
        grants.open_slot(slot, max_bytes=1 << 40)
        assert grants.open_bytes(slot) == 1 << 40
        grants.close_slots("t", 1, 1)
        assert grants.open_bytes(slot) is None
        sites.revoke("north")
        assert [site.status for site in sites.list()] == ["revoked"]
        sites.sweep()
        assert sites.use_nonce("n", 1.0)
    finally:
        database.close()


def test_what_a_site_speaks_is_known_once_it_said_so(database: Database) -> None:
    sites = Sites(database)
    token = sites.invite(INVITATION)
    sites.enrol(token.id, token.secret, KEYS, issue("a"))
    assert [site.protocol for site in sites.list()] == [None]
    for protocol, known in ((1, 1), (2, 2), (None, 2)):
        sites.heartbeat("north", "0.2.0", {}, protocol)
        found = sites.get("north")
        assert found is not None
        assert found.protocol == known


def test_tables_that_are_new_are_made_in_a_database_that_has_not_got_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    made = Database(url)
    with made.write() as connection:
        for table in ("gateway_spoken", "gateway_leases"):
            connection.execute(text(f"DROP TABLE {table}"))
    made.close()
    again = Database(url)
    assert Sites(again).list() == []
    again.close()
