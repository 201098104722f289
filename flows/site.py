"""The site's flows: what a Prefect worker runs at a hospital, and the in-process dispatcher runs here.

Their only parameter is an order, checked strictly again where it arrives. What they return is the
answer, as JSON; an error at the site is an answer too, never a traceback that leaves the site.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from prefect import flow

from components.errors import WardRoundError
from components.rounds import Answer, Order

if TYPE_CHECKING:
    from flows.site_host import SiteHost

_host: ContextVar[SiteHost] = ContextVar("wardround_site_host")


@flow(name="site-training", flow_run_name="train at {site}, round {number}", persist_result=False)
def site_training(site: str, number: int, order: dict[str, Any]) -> dict[str, Any]:
    """Train at one site and put the update into the round's slot.

    Args:
        site: Name of the site; must be the order's.
        number: Number of the round; must be the order's.
        order: A `components.rounds.Order` as JSON.

    Returns:
        A `components.rounds.Answer` as JSON.
    """
    return _answer(site, number, order, "train")


@flow(name="site-evaluation", flow_run_name="evaluate at {site}, round {number}", persist_result=False)
def site_evaluation(site: str, number: int, order: dict[str, Any]) -> dict[str, Any]:
    """Evaluate weights at one site; parameters and result as in `site_training`."""
    return _answer(site, number, order, "evaluate")


def run_site_flow(host: SiteHost, order: Order) -> Answer:
    """Run the site flow of an order in this process."""
    chosen = site_training if order.kind == "train" else site_evaluation
    with _serving(host):
        answer = chosen(site=order.site, number=order.plan.round, order=order.model_dump(mode="json"))
    return Answer.model_validate(answer)


def _answer(site: str, number: int, order: dict[str, Any], kind: str) -> dict[str, Any]:
    checked = Order.model_validate(order)
    if (checked.site, checked.plan.round, checked.kind) != (site, number, kind):
        raise WardRoundError(f"the order is not to {kind} at {site} in round {number}")
    return _host.get().answer(checked).model_dump(mode="json")


@contextmanager
def _serving(host: SiteHost) -> Iterator[None]:
    token = _host.set(host)
    try:
        yield
    finally:
        _host.reset(token)
