"""What hospitals are asked in a federation: requests go out through the gateway's list of work, answers come back.

What counts is the envelope in a request's slot behind the gateway. Prefect shows what the hospitals are asked
(`flows.site_runs`); a site works, and answers, while Prefect is away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Failed

from components.errors import LeaseLostError, RefusedError, ServiceError, WardRoundError
from components.exchange.site_request import AnyRequest, request_text
from components.gateway.records import SlotKey
from flows.clerk import Clerk
from flows.coordinator import CoordinatorSide
from flows.site_runs import SiteRun, SiteRuns

LOOK_EVERY_S = 0.02
AGAIN_S = 1.0
log = logging.getLogger("wardround.coordinator")


@dataclass
class Errand:
    """One thing that a site is asked for.

    Attributes:
        slot: Where its answer goes.
        request: What asks for it.
        read: Returns what was delivered from its envelope, verified; raises what is wrong with it.
        end: Returns the state in which its run in Prefect ends.
        future: What was delivered.
        shown: What its run in Prefect is called, and the round that is shown with it; None if it has no run.
        reads: Digest of what the site may read for it.
    """

    slot: SlotKey
    request: AnyRequest
    read: Callable[[bytes], Any]
    end: Callable[[Any], State[None]]
    future: Future[Any]
    shown: tuple[str, int | None] | None = None
    reads: str | None = None

    @property
    def key(self) -> str:
        """What its run in Prefect is known by."""
        return self.slot.folder.as_posix()


class Errands:
    """What is asked of the hospitals for one training or analysis, until it is answered or withdrawn.

    Args:
        side: The coordinator's side of the federation.
        runs: Shows what is asked in Prefect.
    """

    def __init__(self, side: CoordinatorSide, runs: SiteRuns) -> None:
        self._side, self._runs = side, runs
        self._lock, self._waiting = threading.Lock(), dict[SlotKey, Errand]()
        self._closed, self.clerk = threading.Event(), Clerk(side.grants, side.tenure.guard if side.tenure else None)
        self._watching = threading.Thread(target=self._watch, daemon=True, name="answers")
        self._watching.start()

    @property
    def read(self) -> set[str]:
        """Digests of what sites may read for what they are asked now."""
        with self._lock:
            return {item.reads for item in self._waiting.values() if item.reads is not None}

    def send(self, item: Errand, max_bytes: int) -> Future[Any]:
        """Ask for something, and show it; what lies in its slot already is taken at once.

        Raises:
            ValueError: If the request is longer than a site accepts.
        """
        text = request_text(item.request)
        with self._lock:
            self._waiting[item.slot] = item
        self.clerk.do(self._side.grants.opening(item.slot, max_bytes=max_bytes, request=text, reads=item.reads))
        if item.shown is not None and self._side.sealed.envelope(item.slot) is None:
            name, number = item.shown
            self._runs.show(SiteRun(name, item.key, item.request, number))
        return item.future

    def withdraw(self, slot: SlotKey) -> None:
        """Have a site stop what it was asked, and take no answer any more."""
        self._side.require_lead()
        with self._lock:
            item = self._waiting.pop(slot, None)
        self._close(slot, wake=True, discard=True)
        if item is not None:
            self._runs.ended(item.key, Cancelled(message="withdrawn by the coordinator"))
            item.future.cancel()

    def stop(self) -> None:
        """Take no more answers; the sites' work goes on, and what they deliver is collected by the next start."""
        self._closed.set()
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for item in waiting:
            _fail(item.future, WardRoundError("the training was ended here"))
        self._watching.join()

    def close(self) -> None:
        """Stop, make what was asked of the list of work, and show what is still to be shown."""
        self.stop()
        self.clerk.close()
        self._runs.close()

    def _watch(self) -> None:
        """Take answers as they come."""
        while not self._closed.wait(LOOK_EVERY_S):
            with self._lock:
                waiting = list(self._waiting.values())
            for item in waiting:
                if self._closed.is_set():
                    return
                try:
                    self._take(item)
                except LeaseLostError:
                    return
                except Exception:  # the gateway's database may be away for a moment: looked at again
                    log.exception("an answer of %s could not be taken", item.slot.site)
                    self._closed.wait(AGAIN_S)

    def _take(self, item: Errand) -> None:
        """Take an answer if it is there."""
        try:
            text = self._side.sealed.envelope(item.slot)
            if text is None:
                return
            self._side.require_lead()
            result = self._read(item, text)
        except (ServiceError, LeaseLostError):  # no fault of the site
            raise
        except WardRoundError as error:
            # What was refused nobody takes any more, and the journal has the reason.
            self._settle(item, discard=isinstance(error, RefusedError) and not self._side.keep_sealed)
            _fail(item.future, error)
            self._runs.ended(item.key, Failed(name="Refused", message=f"the answer is not taken: {error}"))
            return
        if not item.future.done():
            item.future.set_result(result)  # the round goes on; the slot is tidied up beside it
        self._settle(item, discard=not self._side.keep_sealed)  # what it held is in the store, or in the journal
        self._runs.ended(item.key, item.end(result))

    def _read(self, item: Errand, text: bytes) -> Any:
        """Return what a site delivered, verified; whatever it is that cannot be read is refused."""
        try:
            return item.read(text)
        except WardRoundError:
            raise
        except Exception as error:
            log.exception("an answer of %s cannot be read", item.slot.site)
            raise RefusedError(f"the answer of {item.slot.site} cannot be read ({type(error).__name__})") from error

    def _settle(self, item: Errand, *, discard: bool) -> None:
        """Wait for a piece of work no more, and close its slot."""
        self._close(item.slot, wake=False, discard=discard)
        with self._lock:
            self._waiting.pop(item.slot, None)

    def _close(self, slot: SlotKey, *, wake: bool, discard: bool) -> None:
        """Close a slot, and then drop what lies in it: until it is closed, a site may bring what it brought again."""
        then = partial(self._side.sealed.discard, slot) if discard else None
        self.clerk.do(self._side.grants.closing(slot, wake=wake), then)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
