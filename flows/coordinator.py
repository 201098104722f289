"""The coordinator's folder: who the federation is, where its servers are, and what they share.

::

    <folder>/coordinator.json     what follows, as `CoordinatorConfig`
    <folder>/secrets/             keys and certificates (`components.governance.identity_files`)
    <folder>/exchange/            granted weights and sealed updates: the gateway reads the ones, writes the others
    <folder>/stores/<study>/      a study's weights and opened updates
    <folder>/gateway.json         what a gateway is started with
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from pydantic import ValidationError

from components.errors import RefusedError, ServiceError, StorageError
from components.exchange.keys import VerifyKey
from components.files import storage_errors, write_whole
from components.gateway.claims import Claims
from components.gateway.database import Database
from components.gateway.grants import Grants
from components.gateway.leases import Leases
from components.gateway.records import CoordinatorKeys
from components.gateway.serve import Serve
from components.gateway.sites import Sites
from components.gateway.slots import SealedSlots
from components.gateway.tokens import Invitation
from components.governance.identity_files import CoordinatorFolder, CoordinatorSecrets
from components.mistakes import explain, first_mistake
from components.rounds import Name, Record

if TYPE_CHECKING:
    from components.exchange.store import FolderStore
    from flows.tenure import Tenure

OWN_NAME = "coordinator"  # of its pool in Prefect, and of the process that builds networks
FILE, GATEWAY_FILE = "coordinator.json", "gateway.json"


class CoordinatorConfig(Record):
    """A coordinator's settings.

    Attributes:
        federation: Identifier of the federation.
        address: The gateway's address as hospitals reach it, ``https://HOST:PORT``.
        database: The gateway's database: ``sqlite:///FILE`` or ``postgresql://...``.
        prefect_url: Address of Prefect's API, inside.
        require_ready: Whether only hospitals take part whose doctor has passed.
        keep_sealed: Whether sealed updates and envelopes stay after they were taken, as evidence; by default they go.
        mlflow_url: Address of MLflow's server, inside; empty for the database of the home that trains.
    """

    federation: Name
    address: str
    database: str
    prefect_url: str
    require_ready: bool = True
    keep_sealed: bool = False
    mlflow_url: str = ""


@dataclass(frozen=True)
class CoordinatorSide:
    """What a coordinator has of its federation.

    Attributes:
        federation: Identifier of the federation.
        secrets: What it signs and opens with.
        sites: The sites, as the gateway knows them.
        grants: What the gateway lets them do.
        claims: What of it they have taken up.
        folder: The coordinator's folder.
        keep_sealed: Whether sealed updates stay after they were taken.
        leases: Who acts for it.
        tenure: The lease with which this process drives a study; None where it does not.
    """

    federation: str
    secrets: CoordinatorSecrets
    sites: Sites
    grants: Grants
    claims: Claims
    folder: Path
    leases: Leases
    keep_sealed: bool = False
    tenure: Tenure | None = None

    def require_lead(self) -> None:
        """Return if this process may act for the coordinator.

        Raises:
            LeaseLostError: If it drove a study, and another has taken over.
        """
        if self.tenure is not None:
            self.tenure.require()

    @property
    def exchange(self) -> Path:
        """What the gateway shares: ``objects`` that hospitals may read, ``sealed`` that they write."""
        return self.folder / "exchange"

    def store(self, study: str) -> FolderStore:
        """Return a study's own weights and opened updates, which the gateway does not see."""
        # torch, which an invitation, a look at the status and the supervisor of `wardround up` start without
        from components.exchange.store import FolderStore

        return FolderStore(self.folder / "stores" / study)

    @property
    def sealed(self) -> SealedSlots:
        """The slots behind the gateway."""
        return SealedSlots(self.exchange / "sealed")

    def signing_key(self, site: str) -> VerifyKey:
        """Return the key a site signs with.

        Raises:
            RefusedError: If it is not enrolled.
        """
        found = self.sites.get(site)
        if found is None or not found.active or found.signing_key is None:
            raise RefusedError(f"{site} is not enrolled, or was revoked")
        return VerifyKey.from_base64(found.signing_key)


def init_coordinator(folder: Path, config: CoordinatorConfig, *, names: list[str], port: int) -> None:
    """Make a coordinator's folder; called again, it keeps the secrets and writes the settings anew.

    Args:
        folder: The folder.
        config: The settings.
        names: Host names and addresses that hospitals reach the gateway by.
        port: Where the gateway listens.

    Raises:
        StorageError: If it cannot be written, or has the secrets of another federation.
    """
    keys = make_coordinator(folder, config, names=names)
    place = GatewayPlace(
        secrets=folder / "secrets",
        exchange=folder / "exchange",
        host="127.0.0.1" if names == ["127.0.0.1"] else "0.0.0.0",  # noqa: S104 - the federation's door
        port=port,
    )
    write_gateway(folder / GATEWAY_FILE, config, keys, place)


def make_coordinator(folder: Path, config: CoordinatorConfig, *, names: list[str]) -> CoordinatorKeys:
    """Make a coordinator's secrets, where they are not there yet, and write its settings.

    Returns:
        The public keys that hospitals pin.

    Raises:
        StorageError: If it cannot be written, or has the secrets of another federation.
    """
    hosts = [name for name in names if not _is_address(name)]
    ips = [name for name in names if _is_address(name)]
    made = CoordinatorFolder(folder).make(config.federation, names=hosts, ips=ips)
    with storage_errors("write", folder):
        (folder / "exchange").mkdir(parents=True, exist_ok=True)
        write_whole(folder / FILE, config.model_dump_json(indent=2).encode())
    return CoordinatorKeys(signing_key=made.signing.public.base64, sealing_key=made.sealing.public.base64)


@dataclass(frozen=True)
class GatewayPlace:
    """What a gateway is told of the machine or container it runs in.

    Attributes:
        secrets: Folder of its secrets.
        exchange: Folder of the exchange.
        host: Address it listens on.
        port: Where it listens.
    """

    secrets: Path
    exchange: Path
    host: str
    port: int


def write_gateway(path: Path, config: CoordinatorConfig, keys: CoordinatorKeys, place: GatewayPlace) -> None:
    """Write what a gateway is started with.

    Raises:
        StorageError: If it cannot be written.
    """
    gateway = {
        "federation": config.federation,
        "coordinator": keys.model_dump(),
        "secrets": str(place.secrets),
        "exchange": str(place.exchange),
        "prefect_url": config.prefect_url,
        "database": config.database,
        "host": place.host,
        "port": place.port,
    }
    Serve.model_validate(gateway)
    with storage_errors("write", path):
        write_whole(path, json.dumps(gateway, indent=2).encode())


def read_coordinator(folder: Path) -> CoordinatorConfig:
    """Read a coordinator's settings.

    Raises:
        StorageError: If there are none, or they are not valid.
    """
    path = folder / FILE
    with storage_errors("read", path):
        if not path.exists():
            raise StorageError(
                f"there is no coordinator in {folder}: run  wardround up  or  wardround coordinator init"
            )
        text = path.read_bytes()
    try:
        return CoordinatorConfig.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(f"{FILE}: {first_mistake(error, 'the file')}") from error


def open_side(folder: Path) -> CoordinatorSide:
    """Open the coordinator's side of its federation.

    Raises:
        StorageError: If the folder is not a coordinator's.
        ServiceError: If the gateway's database cannot be reached, or its password file is not here.
    """
    config = read_coordinator(folder)
    for password in parse_qs(urlsplit(config.database).query).get("passfile", []):
        if not Path(password).exists():
            raise ServiceError(
                f"the servers of {folder} are reached inside its containers alone. There, run the command as"
                "  docker compose run --rm coordinator ..."
            )
    database = Database(config.database)
    return CoordinatorSide(
        federation=config.federation,
        secrets=CoordinatorFolder(folder).read(),
        sites=Sites(database),
        grants=Grants(database),
        claims=Claims(database),
        folder=folder,
        leases=Leases(database),
        keep_sealed=config.keep_sealed,
    )


def invite(folder: Path, site: str) -> str:
    """Return a token with which a hospital enrols once.

    Raises:
        StorageError: If the folder is not a coordinator's.
        RefusedError: If the name is not one, or is the coordinator's own or that of all items in one place.
    """
    if site == OWN_NAME:
        raise RefusedError(f"{OWN_NAME} is the coordinator's own name in Prefect: give the hospital another")
    config = read_coordinator(folder)
    side = open_side(folder)
    try:
        invitation = Invitation(
            gateway=config.address, authority=side.secrets.authority.sha256, federation=config.federation, site=site
        )
    except ValidationError as error:
        raise RefusedError(f"{site!r} cannot be invited: {explain(error, Invitation)[0].text}") from None
    return side.sites.invite(invitation).text


def _is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
