"""A PostgreSQL of a home's own, where it is installed: for Prefect, MLflow and the gateway of ``wardround up``.

::

    <home>/federation/postgresql/data    its data, owned by the user it runs as
    <home>/federation/postgresql/log     what it says

It listens on the loopback interface alone, asks for a password (SCRAM) and opens no socket in a shared folder.
PostgreSQL refuses to run as root; for root it runs as the user ``postgres``, or else ``nobody``.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import ServiceError, StorageError
from components.exchange.secret_files import write_secret
from components.files import storage_errors
from flows.database_secrets import SUPERUSER, make_passwords
from flows.packages import ROOT

_DEBIAN = "/usr/lib/postgresql"
_PROGRAMS = ("postgres", "initdb", "psql", "pg_isready")
_UNPRIVILEGED = ("postgres", "nobody")
STATEMENTS = ROOT / "deploy" / "coordinator" / "databases.sql"
READY_WITHIN_S = 60.0
_COMMAND_WITHIN_S = 120.0
_DUMP_WITHIN_S = 7200.0  # years of runs


class PostgresMissingError(ServiceError):
    """PostgreSQL is not installed here, or cannot be run for this folder; the message says why."""


@dataclass(frozen=True)
class LocalPostgres:
    """One PostgreSQL server of this machine, not necessarily running.

    Attributes:
        programs: Folder of its programs.
        folder: Its own folder.
        user: Who it runs as, if that is not who we are.
    """

    programs: Path
    folder: Path
    user: str | None

    @property
    def version(self) -> str:
        """Its version, as it says it: ``15.18``."""
        said = subprocess.run(  # noqa: S603 - a program that was looked up, no shell
            [self.programs / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"\d+(\.\d+)*", said)
        return found.group() if found else said.strip()

    @property
    def data(self) -> Path:
        """Folder of its data."""
        return self.folder / "data"

    @property
    def ownership(self) -> dict[str, Any]:
        """How a process of this user is started, as arguments of `subprocess.Popen`."""
        if self.user is None:
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def command(self, port: int) -> list[str]:
        """Return the command that runs it."""
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *given]

    def make(self, passwords: Path) -> None:
        """Make its data and the password files, if they are not there yet; whole or not at all.

        Raises:
            StorageError: If the folder cannot be written.
            ServiceError: If `initdb` failed.
        """
        make_passwords(passwords)
        if (self.data / "PG_VERSION").exists():
            return
        with storage_errors("write", self.folder):
            draft = self.folder / "new"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(mode=0o700)
            self._give(draft)
            # A copy: the user it runs as may not read our own file.
            password = self.folder / "password"
            write_secret(password, (passwords / f"{SUPERUSER}.password").read_bytes())
            self._give(password)
            command = [
                "initdb", "-D", str(draft), "-U", SUPERUSER, "-A", "scram-sha-256", f"--pwfile={password}",
                "-E", "UTF8", "--no-locale", "--data-checksums", "--no-instructions",
            ]  # fmt: skip
            try:
                self._run(command, **self.ownership)
            finally:
                password.unlink()
            draft.rename(self.data)

    def make_databases(self, port: int, passwords: Path) -> None:
        """Make the roles and databases that are not there yet; the server runs.

        Raises:
            ServiceError: If a statement failed.
        """
        self._run_for(passwords, ["psql", "-X", "-q", *_at(port), "-f", str(STATEMENTS), "postgres"])

    def dump(self, name: str, port: int, passwords: Path, target: Path) -> None:
        """Write one of its databases into a file, as it is at one instant; the server runs.

        Raises:
            ServiceError: If `pg_dump` failed.
        """
        self._run_for(passwords, ["pg_dump", "-Fc", *_at(port), "-f", str(target), name], _DUMP_WITHIN_S)

    def load(self, name: str, port: int, passwords: Path, source: Path) -> None:
        """Fill one of its databases, which is empty, with what `dump` has written; all of it or nothing.

        Raises:
            ServiceError: If `pg_restore` failed.
        """
        command = ["pg_restore", "--exit-on-error", "--single-transaction", *_at(port), "-d", name, str(source)]
        self._run_for(passwords, command, _DUMP_WITHIN_S)

    def wait_ready(self, port: int, ended: Any) -> None:
        """Wait until it takes connections.

        Args:
            port: Where it listens.
            ended: Says whether its process has ended.

        Raises:
            ServiceError: If it ended, or takes too long.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        command = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - as above
            if ended() or time.monotonic() > deadline:
                raise ServiceError(f"PostgreSQL did not come up; {self.folder / 'log'} says why")
            time.sleep(0.05)

    def _give(self, path: Path) -> None:
        """Give a file or folder to the user it runs as."""
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _run_for(self, passwords: Path, command: list[str], within_s: float = _COMMAND_WITHIN_S) -> None:
        """Run one of its programs as the superuser of its databases."""
        secret = {"PASSWORDS": str(passwords), "PGPASSFILE": str(passwords / f"{SUPERUSER}.pgpass")}
        self._run(command, within_s, env={**os.environ, **secret})

    def _run(self, command: list[str], within_s: float = _COMMAND_WITHIN_S, **how: Any) -> None:
        """Run one of its programs to its end."""
        try:
            subprocess.run(  # noqa: S603 - as above
                [str(self.programs / command[0]), *command[1:]], cwd="/",
                capture_output=True, text=True, check=True, timeout=within_s, **how,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.splitlines() if line.strip()] or ["it does not say why"]
            raise ServiceError(f"PostgreSQL's {command[0]} failed: {said[-1][:300]}") from error
        except FileNotFoundError as error:
            raise ServiceError(f"PostgreSQL's {command[0]} is not installed beside it, in {self.programs}") from error
        except subprocess.TimeoutExpired as error:
            raise ServiceError(f"PostgreSQL's {command[0]} took longer than {within_s:g} s") from error


def find_postgres(folder: Path) -> LocalPostgres:
    """Return the PostgreSQL that can run for a folder; it is looked for on the path, then where Debian has it.

    Args:
        folder: Its own folder; made if it is not there.

    Raises:
        PostgresMissingError: If none is installed, or the user it would run as cannot enter the folder.
    """
    made_by = (folder / "data" / "PG_VERSION").read_text().strip() if _has_data(folder) else ""
    programs = _programs(made_by)
    if programs is None:
        wanted = f"PostgreSQL {made_by}, which made {folder / 'data'}," if made_by else "PostgreSQL"
        raise PostgresMissingError(f"{wanted} is not installed")
    found = LocalPostgres(programs, folder, _runs_as())
    with storage_errors("make", folder):
        folder.mkdir(parents=True, exist_ok=True)
    if found.user is not None and not _may_enter(found):
        raise PostgresMissingError(
            f"PostgreSQL, which for root runs as the user {found.user}, may not enter {folder}: "
            "give a --home that others may enter (chmod o+x), or work as another user than root"
        )
    return found


def free_port(wanted: int = 0) -> int:
    """Return a free port of the loopback interface: the wanted one where it is free."""
    with suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        return int(probe.getsockname()[1])
    return free_port()


def _at(port: int) -> list[str]:
    """Return how its own programs reach it."""
    return ["-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER]


def _has_data(folder: Path) -> bool:
    try:
        return (folder / "data" / "PG_VERSION").exists()
    except PermissionError as error:
        raise StorageError(f"{folder / 'data'} belongs to another user: work as that one, or as root") from error


def _programs(made_by: str) -> Path | None:
    """Return the folder of the programs: of the version that made the data, else of the newest."""
    on_path = shutil.which("postgres")
    debian = sorted(Path(_DEBIAN).glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    for folder in [*([Path(on_path).resolve().parent] if on_path else []), *debian]:
        complete = all(os.access(folder / name, os.X_OK) for name in _PROGRAMS)
        if complete and made_by in ("", LocalPostgres(folder, folder, None).version.partition(".")[0]):
            return folder
    return None


def _runs_as() -> str | None:
    """Return the user PostgreSQL runs as; None if that is who we are."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in _UNPRIVILEGED:
        if name in known:
            return name
    raise PostgresMissingError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _may_enter(postgres: LocalPostgres) -> bool:
    """Whether the user it runs as may reach its folder."""
    asked = [shutil.which("test") or "/usr/bin/test", "-x", str(postgres.folder)]
    return subprocess.run(asked, check=False, cwd="/", **postgres.ownership).returncode == 0  # noqa: S603 - as above
