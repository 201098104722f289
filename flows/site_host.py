"""What one process does for all the sites assigned to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.dispatch import InitialModel, Preparation, Progress, SiteSetting
from components.exchange.store import FolderStore
from components.rounds import Answer, Order
from components.site import SiteRuntime, initialise
from components.study import Study
from components.table_sums import Fitted
from flows.build import build_module, export_network

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule


class SiteHost:
    """What one process does for all sites assigned to it; sites share the network, not the data."""

    def __init__(self, settings: Mapping[str, SiteSetting]) -> None:
        self._settings = dict(settings)
        self._tell: Callable[[Progress], None] | None = None
        self._runtimes: dict[str, SiteRuntime] = {}
        self._modules: dict[str, LightningModule] = {}
        self._stores: dict[str, FolderStore] = {}

    def module(self, study: Study) -> LightningModule:
        """Return the study's network, built once, with the study's own initial weights."""
        if study.digest not in self._modules:
            self._modules[study.digest] = build_module(study)
        return self._modules[study.digest]

    def initialise(self, study: Study, fitted: Fitted | None = None) -> InitialModel:
        """Put the study's initial weights into the exchange."""
        store = FolderStore(next(iter(self._settings.values())).store)
        return initialise(study, store, build_module(study, fitted))

    def prepare(self, site: str) -> Preparation:
        """Let a site open its data."""
        return self._runtime(site).prepare()

    def answer(self, order: Order) -> Answer:
        """Let a site answer an order."""
        return self._runtime(order.site).answer(order)

    def export(self, study: Study, file: Path) -> Path:
        """Export the study's network for its users."""
        export_network(study, file)
        return file

    def tell(self, tell: Callable[[Progress], None]) -> None:
        """Say from now on how far a training is; before the first call."""
        self._tell = tell

    def close(self) -> None:
        """Let go of the sites' journals."""
        for runtime in self._runtimes.values():
            runtime.close()
        self._runtimes.clear()

    def _runtime(self, site: str) -> SiteRuntime:
        if site not in self._runtimes:
            setting = self._settings[site]
            store = self._stores.setdefault(setting.store, FolderStore(setting.store))
            self._runtimes[site] = SiteRuntime(setting, lambda: self.module(setting.study), store, self._tell)
        return self._runtimes[site]


def call(host: SiteHost, name: str, payload: Mapping[str, Any]) -> Any:
    """Make one call that arrived as JSON; return its result as JSON."""
    if name == "initialise":
        fitted = Fitted.model_validate(payload["fitted"]) if payload.get("fitted") else None
        return host.initialise(Study.model_validate_json(payload["study"]), fitted).model_dump(mode="json")
    if name == "prepare":
        return host.prepare(payload["site"]).model_dump(mode="json")
    if name == "answer":
        return host.answer(Order.model_validate_json(payload["order"])).model_dump(mode="json")
    if name == "export":
        return str(host.export(Study.model_validate_json(payload["study"]), Path(payload["file"])))
    raise ValueError(f"unknown call {name!r}")
