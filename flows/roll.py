"""Who belongs to a training or an analysis, by the gateway's list of sites, and since when each was not heard of."""

from __future__ import annotations

import logging
import math
import time

from components.errors import QuorumError, ServiceError
from components.exchange.protocol import speaks_otherwise
from components.gateway.claims import Claim, ClaimState
from components.gateway.records import SlotKey, own_version
from components.gateway.sites import Site
from components.study import Sites, VirtualSites
from flows.coordinator import CoordinatorSide
from flows.heard import Heard

log = logging.getLogger("wardround.coordinator")
LOOK_AT_SITES_EVERY_S = 1.0


class Roll:
    """The hospitals that take part.

    Args:
        sites: What the study says of its sites. Where it names them, only those take part, else every one that is
            enrolled.
        side: The coordinator's side of the federation.
        require_ready: Whether only sites take part whose doctor has passed.
    """

    def __init__(self, sites: Sites, side: CoordinatorSide, *, require_ready: bool) -> None:
        self._side, self._require_ready = side, require_ready
        self._named = None if isinstance(sites, VirtualSites) else {site.name for site in sites}
        self._sites: dict[str, Site] = {}
        self._claims: dict[SlotKey, Claim] = {}
        self._heard, self._renewed = Heard[str](), Heard[SlotKey]()
        self._looked = -math.inf

    def silent_s(self, site: str) -> float:
        """Return for how long a site was not heard of, by this process's own clock, from when it began to listen.

        While the gateway's database is away nobody grows silent: nobody could have been heard.
        """
        self.read_sites()
        return self._heard.silent_s(site)

    def claim_on(self, slot: SlotKey) -> ClaimState:
        """Return whether a site has taken up what goes into a slot; by this process's own clock, as `silent_s`."""
        self.read_sites()
        if slot not in self._claims:
            return "open"
        return "lapsed" if self._renewed.silent_s(slot) > self._claims[slot].life_s else "held"

    def speaks_otherwise(self, site: str) -> str:
        """Return, in words, that a site is of another version that this coordinator does not understand; or nothing."""
        self.read_sites()
        found = self._sites.get(site)
        return "" if found is None else speaks_otherwise(found.protocol, found.version, own=own_version())

    def read_sites(self, *, now: bool = False) -> None:
        """Read the gateway's list of sites, not too often; while its database is away, what it said last holds."""
        seen_at = time.monotonic()
        if not now and seen_at - self._looked < LOOK_AT_SITES_EVERY_S:
            return
        self._looked = seen_at
        try:
            sites, self._claims = self._side.sites.list(), self._side.claims.all()
        except ServiceError as error:
            if not self._sites:
                raise  # there is nothing to begin with
            log.warning("the list of sites is that of before: %s", error)
            self._heard.could_not()
            self._renewed.could_not()
            return
        self._sites = {site.name: site for site in sites}
        self._heard.note({site.name: site.last_seen for site in sites}, seen_at)
        self._renewed.note({slot: claim.renewed_at for slot, claim in self._claims.items()}, seen_at)

    def _is_member(self, site: Site) -> bool:
        """Return whether a site takes part."""
        if self._named is not None and site.name not in self._named:
            return False
        if speaks_otherwise(site.protocol, site.version, own=own_version()):
            return False
        return site.status == "ready" if self._require_ready else site.active

    def _require_enrolled(self) -> set[str]:
        """Return who is enrolled; refuse to begin where a named site, or every site, is not."""
        enrolled = {name for name, site in self._sites.items() if site.active}
        absent = sorted((self._named or set()) - enrolled)
        if absent or not enrolled:
            who = f"{', '.join(absent)} not enrolled" if absent else "no hospital is enrolled"
            raise QuorumError(f"{who}: invite each with  wardround coordinator invite NAME")
        return enrolled

    def _expected(self) -> set[str]:
        """Return the sites that should take part, whether or not they can: a part of them is a part of all of these."""
        enrolled = {name for name, site in self._sites.items() if site.active}
        return enrolled if self._named is None else enrolled & self._named

    def _why_gone(self, name: str) -> str:
        """Return why a site takes no part any more."""
        site = self._sites.get(name)
        return self.speaks_otherwise(name) or (
            "its doctor has not passed since" if site and site.active else f"it was {site.status if site else 'lost'}"
        )
