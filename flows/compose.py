"""The coordinator's folder for Docker: what ``wardround coordinator init`` writes and ``docker compose up`` starts.

::

    <folder>/compose.yaml  compose.interfaces.yaml    from the package, the same for every federation
    <folder>/databases.sql                            run at each start (`flows.database_secrets`)
    <folder>/.env                                     the image, the user, the port
    <folder>/secrets/                                 keys and certificates of the coordinator
    <folder>/gateway/                                 the gateway's settings, and copies of the secrets it needs
    <folder>/databases/                               passwords
    <folder>/postgresql/  mlflow/  exchange/  stores/  home/    state

The containers run as the one who owns the folder: files that only their owner may read are read by nobody else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from components.exchange.secret_files import make_secret_folder, read_secret, write_secret
from components.files import make_folder, storage_errors, write_whole
from components.governance.identity_files import CoordinatorFolder
from flows.coordinator import CoordinatorConfig, GatewayPlace, make_coordinator, write_gateway
from flows.database_secrets import database_url, make_passwords
from flows.early import ROOT

TEMPLATES = ROOT / "deploy" / "coordinator"
_FILES = ("compose.yaml", "compose.interfaces.yaml", "databases.sql")
_STATE = ("postgresql/data", "mlflow", "exchange", "stores", "home/federation")
_GATEWAY_SECRETS = ("ca.key", "ca.pem", "gateway.key", "gateway.pem")
_GATEWAY_PORT = 8443  # inside; what is published is the operator's choice
IMAGE_USER = 10001  # the image's own, for a folder that root makes: nothing runs as root


@dataclass(frozen=True)
class Deployment:
    """What an operator chooses.

    Attributes:
        federation: Identifier of the federation.
        names: Names and addresses that hospitals reach the gateway by; the first is the one they are told.
        port: Where hospitals reach it.
        image: WardRound's image.
    """

    federation: str
    names: list[str]
    port: int
    image: str


def write_deployment(folder: Path, chosen: Deployment) -> None:
    """Make the folder; called again, it keeps secrets and state and writes the rest anew.

    Args:
        folder: The folder, absolute.
        chosen: What the operator chooses.

    Raises:
        StorageError: If it cannot be written, or has the secrets of another federation.
    """
    with storage_errors("write", folder):
        make_folder(folder)
        for name in _FILES:
            write_whole(folder / name, (TEMPLATES / name).read_bytes())
        make_state(folder)
        make_passwords(folder / "databases")
        _write_gateway(folder, chosen)
        owner = _give_away(folder)
        _write_env(folder / ".env", {
            "WARDROUND_IMAGE": chosen.image, "WARDROUND_USER": owner, "WARDROUND_PORT": str(chosen.port),
        })  # fmt: skip


def make_state(folder: Path) -> None:
    """Make the folders that containers have their state in: Docker would make those that are missing as root's.

    Raises:
        StorageError: If one cannot be made.
    """
    for name in _STATE:
        make_secret_folder(folder / name)


def _write_gateway(folder: Path, chosen: Deployment) -> None:
    """Write the coordinator's settings and the gateway's, with the addresses and paths inside the containers."""
    config = CoordinatorConfig(
        federation=chosen.federation,
        address=f"https://{chosen.names[0]}:{chosen.port}",
        database=database_url("gateway", host="postgresql", port=5432, passwords=Path("/run/secrets")),
        prefect_url="http://prefect:4200/api",
        mlflow_url="http://mlflow:5000",
    )
    keys = make_coordinator(folder, config, names=chosen.names)
    inside = Path("/federation/gateway")
    place = GatewayPlace(inside / "secrets", Path("/federation/exchange"), "0.0.0.0", _GATEWAY_PORT)  # noqa: S104
    make_secret_folder(folder / "gateway")
    write_gateway(folder / "gateway" / "gateway.json", config, keys, place)
    for name in _GATEWAY_SECRETS:
        public = name.endswith(".pem")
        secret = read_secret(CoordinatorFolder(folder).secrets / name, public=public)
        write_secret(folder / "gateway" / "secrets" / name, secret)


def _give_away(folder: Path) -> str:
    """Give the folder to the image's user if we are root; return the user and group the containers run as."""
    if os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    for path in (folder, *folder.rglob("*")):
        os.chown(path, IMAGE_USER, IMAGE_USER, follow_symlinks=False)
    return f"{IMAGE_USER}:{IMAGE_USER}"


def _write_env(path: Path, ours: dict[str, str]) -> None:
    """Write our lines, and keep those the operator has added."""
    before = path.read_text().splitlines() if path.exists() else []
    theirs = [line for line in before if line.partition("=")[0].strip() not in ours]
    write_whole(path, "\n".join([*(f"{name}={value}" for name, value in ours.items()), *theirs, ""]).encode())
