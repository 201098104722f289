"""A site's data as an MLflow dataset: digest, counts and class balance, never rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow.entities import Dataset, DatasetInput, InputTag

from components.rounds import ItemCounts

_DIGEST_LENGTH = 36  # MLflow's limit; the whole digest is in the profile


@dataclass(frozen=True)
class SiteDataset:
    """What may be told about a site's data.

    Attributes:
        site: Name of the site.
        digest: SHA-256 of the usable items.
        counts: Expected, usable and quarantined items.
        class_counts: Per split, the items of each class.
        classes: Names of the classes, in the order of `class_counts`.
        note: Where the data comes from, in words fit to leave the site ("folder at the site").
    """

    site: str
    digest: str
    counts: ItemCounts
    class_counts: Mapping[str, Sequence[int]]
    classes: Sequence[str]
    note: str = ""

    def profile(self) -> dict[str, object]:
        """Return counts, class balance and the whole digest as plain values.

        Raises:
            ValueError: If a split does not count each class once.
        """
        for split, counts in self.class_counts.items():
            if len(counts) != len(self.classes):
                raise ValueError(f"split {split!r} counts {len(counts)} classes, the study has {len(self.classes)}")
        balance = {
            split: {name: int(count) for name, count in zip(self.classes, counts, strict=True)}
            for split, counts in sorted(self.class_counts.items())
        }
        return {"sha256": self.digest, **self.counts.model_dump(), "classes": balance}

    def to_input(self) -> DatasetInput:
        """Return the dataset as MLflow's input of a run."""
        dataset = Dataset(
            name=self.site,
            digest=self.digest[:_DIGEST_LENGTH],
            source_type="site",
            source=json.dumps({"site": self.site, "note": self.note}),
            profile=json.dumps(self.profile()),
        )
        return DatasetInput(dataset=dataset, tags=[InputTag(key="mlflow.data.context", value="training")])
