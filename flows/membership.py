"""The hospitals of a training: who is asked to prepare, who is there, who comes and who goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from uuid import UUID

from components.assemble import quorum_of
from components.dispatch import Preparation
from components.errors import QuorumError, WardRoundError
from components.gateway.claims import ClaimState
from components.gateway.records import slot_of_order
from components.rounds import Order
from components.study import Study
from flows.coordinator import CoordinatorSide
from flows.progress import Watcher
from flows.readiness import reasons_text
from flows.remote import RemoteDispatcher
from flows.roll import Roll
from flows.taking_part import no_data_anywhere

log = logging.getLogger("wardround.coordinator")
LOOK_EVERY_S = 0.1
LOOK_AT_SITES_EVERY_S = 1.0
LONG_SILENT_S = 15.0  # before the first round, a site not heard of for so long is not waited for if others are enough
ASK_AGAIN_S = 120.0  # a site that was not ready: its data may be mended
_NOBODY: Mapping[str, Preparation] = {}


class Membership(Roll):
    """The hospitals of one training; a `flows.session.Hospitals`.

    Args:
        study: What is trained. Where it names its sites, only those take part, else every one that is enrolled.
        side: The coordinator's side of the federation.
        dispatcher: Asks sites to prepare, and shows and withdraws their work.
        require_ready: Whether only sites take part whose doctor has passed.
    """

    def __init__(
        self, study: Study, side: CoordinatorSide, dispatcher: RemoteDispatcher, *, require_ready: bool
    ) -> None:
        super().__init__(study.sites, side, require_ready=require_ready)
        self._study, self._dispatcher = study, dispatcher
        self._asked: dict[str, Future[Preparation]] = {}
        self._again_at: dict[str, float] = {}
        self._found: dict[str, Preparation] = {}
        self._at_work: Mapping[str, Preparation] = {}

    def gather(
        self, watcher: Watcher, check: Callable[[], None], *, at_work: Mapping[str, Preparation] = _NOBODY
    ) -> dict[str, Preparation]:
        """Ask every hospital to prepare, and wait for them, or for enough of them where the others are away.

        Args:
            watcher: Is told for whom is waited.
            check: Called now and then; raises what ends the waiting.
            at_work: Sites that an asynchronous training which is taken up has at work, and what they found before
                they began: they answer after their work, and nobody waits for that.

        Returns:
            What each site found; one that is away is not ready, and joins when it answers. Those that take no part are
            not among them (`without_data`).

        Raises:
            QuorumError: If a site the study names is not enrolled, or none is, or none has data for it.
        """
        self._at_work = at_work
        self._look(now=True)
        self._require_members()
        said = ""
        while waiting := self._waiting_for():
            check()
            if waiting != said:
                said = waiting
                (watcher.waiting if self._all_silent() else watcher.phase)(waiting)
            time.sleep(LOOK_EVERY_S)
            self._look()
        found = {**at_work, **self._found}
        if not self._expected():
            raise QuorumError(no_data_anywhere(self._study.study, self.without_data))
        return {name: found.get(name) or self._away(name) for name in sorted(self._expected())}

    def changes(self, known: Sequence[str]) -> list[Preparation]:
        """See `flows.session.Hospitals`."""
        self._look(now=True)
        ready = {name for name, found in self._found.items() if found.ready}
        gone = {name: self._why_gone(name) for name in sorted(set(known) - self._asked.keys())}
        gone |= {name: self._found[name].reason for name in self.without_data if name in known}
        left = [Preparation(site=name, ready=False, reason=reason) for name, reason in gone.items()]
        return left + [self._found[name] for name in sorted(ready - set(known))]

    @property
    def without_data(self) -> list[str]:
        """Sites that take no part, since they have no data for the study, which does not name them; they may join."""
        if self._named is not None:
            return []
        return sorted(name for name, found in self._found.items() if not found.has_data)

    def begin_round(self, number: int, run: UUID) -> None:
        """See `flows.session.Hospitals`."""
        self._dispatcher.begin_round(number, run)

    def say(self, number: int, text: str) -> None:
        """See `flows.session.Hospitals`."""
        self._dispatcher.say(number, text)

    def withdraw(self, order: Order) -> None:
        """See `flows.session.Hospitals`."""
        self._dispatcher.withdraw(order)

    def claim(self, order: Order) -> ClaimState:
        """See `flows.session.Hospitals`."""
        return self.claim_on(slot_of_order(order))

    def estimate_s(self, site: str) -> float | None:
        """See `flows.session.Hospitals`."""
        found = self._sites.get(site)
        about = ((found.doctor or {}).get("findings") or {}).get("a_round") if found is not None else None
        if not isinstance(about, dict) or about.get("study") != self._study.study:
            return None
        seconds = about.get("first_round_s")
        return float(seconds) if isinstance(seconds, int | float) else None

    def _look(self, *, now: bool = False) -> None:
        """See who is a member, ask those who were not asked, and take what they found."""
        self.read_sites(now=now)
        members = {name for name, site in self._sites.items() if self._is_member(site)}
        for name in sorted(members):
            again = name in self._again_at and time.monotonic() >= self._again_at[name]
            if name not in self._asked or again:
                self._asked[name] = self._dispatcher.prepare(name)
                self._found.pop(name, None)
                self._again_at.pop(name, None)
        for name in sorted(self._asked.keys() - members):
            del self._asked[name]
            self._found.pop(name, None)
            self._again_at.pop(name, None)
        for name, asked in list(self._asked.items()):
            if asked.done() and name not in self._found:
                self._take(name, asked)

    def _take(self, name: str, asked: Future[Preparation]) -> None:
        """Take what a site found; one that is not ready is asked again after a while."""
        try:
            self._found[name] = asked.result()
        except WardRoundError as error:
            self._found[name] = Preparation(site=name, ready=False, reason=str(error))
        if not self._found[name].ready:
            self._again_at[name] = time.monotonic() + ASK_AGAIN_S
            if other := self.speaks_otherwise(name):  # it has said so since it was asked
                self._found[name] = self._found[name].model_copy(update={"reason": other})

    def _require_members(self) -> None:
        """Refuse to begin where a named site, or every site, is missing from the federation, or none can take part."""
        enrolled = self._require_enrolled()
        others = {name: text for name in sorted(enrolled) if (text := self.speaks_otherwise(name))}
        if not self._asked and others:
            raise QuorumError(reasons_text(others))
        if not self._asked:
            raise QuorumError(
                f"{', '.join(sorted(enrolled))}: enrolled, but no doctor has passed. Run at each hospital: "
                "wardround hospital doctor"
            )

    def _waiting_for(self) -> str:
        """Say for whom the first round waits; empty if it can begin, or never will."""
        open_ones = self._unanswered()
        found = {**self._at_work, **self._found}
        ready = sum(one.ready for one in found.values())
        enough = ready >= self._needed() and not set(self._study.rounds.required) - found.keys()
        if not open_ones or (enough and self._all_silent()):
            return ""
        if self._all_silent():
            return f"waiting for quorum: {ready} of {self._needed()} sites are ready, missing: {', '.join(open_ones)}"
        return f"waiting for {', '.join(open_ones)} to open their data"

    def _expected(self) -> set[str]:
        """See `Roll`."""
        return super()._expected() - {*self.without_data}

    def _unanswered(self) -> list[str]:
        return sorted(self._asked.keys() - self._found.keys() - self._at_work.keys())

    def _all_silent(self) -> bool:
        """Return whether nobody who has not answered was heard of for long."""
        return all(self.silent_s(name) > LONG_SILENT_S for name in self._unanswered())

    def _needed(self) -> int:
        return self._study.rounds.updates_needed or quorum_of(self._study, len(self._expected()))

    def _away(self, name: str) -> Preparation:
        reason = "away when the training began" if name in self._asked else "its doctor has not passed"
        reason = self.speaks_otherwise(name) or reason
        return Preparation(site=name, ready=False, reason=reason)
