"""The weights before the first round, with what is fitted to a table's columns: from what all sites told."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.dispatch import InitialModel, OrderDispatcher, Preparation
from components.principal import ToldComponents
from components.study import Study
from components.table_sums import Fitted
from flows.abandoned import preparing
from flows.readiness import fitted_to

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class FirstWeights:
    """The first weights, and what is said of how they came about.

    Attributes:
        model: The weights.
        components: What is said of the principal components; None where there are none.
    """

    model: InitialModel
    components: ToldComponents | None = None


def make_first_weights(
    study: Study,
    preparations: Mapping[str, Preparation],
    *,
    initialise: Callable[[Study, Fitted | None], Future[InitialModel]],
    dispatcher: OrderDispatcher,
    exchange: Path,
    say: Callable[[str], None],
    check: Callable[[], object],
) -> FirstWeights:
    """Fit what is fitted to all sites' rows, asking them for products where that has principal components.

    Args:
        study: The study.
        preparations: What the sites found; those that are ready take part.
        initialise: Builds the network.
        dispatcher: Reaches the sites.
        exchange: Root of the exchange.
        say: Is told what is done.
        check: Called while a site is waited for; raises what ends the waiting.

    Raises:
        DataError: As `flows.readiness.fitted_to` and `components.principal_rounds.fit_components`.
        RefusedError: If what a site told fails a check.
    """
    fitted, count = fitted_to(study, preparations), number_of_components(study)
    if fitted is None or fitted.wide is None or not count:
        return FirstWeights(initialise(study, fitted).result())
    # Torch, and only for a study that has principal components.
    from components.exchange.store import FolderStore
    from components.principal_rounds import Asked, fit_components

    asked = Asked(
        study=study,
        rows={site: sum(found.class_counts["train"]) for site, found in sorted(preparations.items()) if found.ready},
        training=f"{preparing(study.study)}{secrets.token_hex(8)}",
        dispatcher=dispatcher,
        store=FolderStore(exchange),
        say=say,
        check=check,
    )
    components = fit_components(asked, fitted.wide, count)
    fitted = fitted.model_copy(update={"wide": fitted.wide.model_copy(update={"components": components})})
    return FirstWeights(initialise(study, fitted).result(), components.told)


def number_of_components(study: Study) -> int:
    """Return how many principal components a study's model sees; 0 where its first weights follow from sums alone."""
    wide = study.data.records.wide if study.data.records is not None else None
    return (wide.components or 0) if wide is not None else 0
