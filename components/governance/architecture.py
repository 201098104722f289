"""Which architecture a study trains, as one digest that a hospital approves."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from components.study import Study


def architecture_digest(study: Study) -> str:
    """Return the SHA-256 of what a study's network is built from.

    Every end builds the network itself, from its own closed table, so name, arguments and shapes decide all of
    it: an added layer, another width or another activation is another digest. The names and shapes of the
    weights are checked again when they are loaded.
    """
    built_from: dict[str, Any] = {
        "network": study.network.model_dump(mode="json"),
        "task": [study.task.kind, len(study.task.classes)],
        "images": study.data.model_dump(mode="json", include={"spatial_size", "channels"}),
    }
    if study.data.records is not None:
        built_from["table"] = study.data.records.model_dump(mode="json", include={"features", "wide"})
        built_from["method"] = study.local.method
        if study.data.records.arm is not None and study.task.treatment is not None:
            chosen = study.task.treatment.model_dump(mode="json", include={"learner", "members"})
            fitted = study.data.records.arm.model_dump(mode="json", include={"randomised", "propensity"})
            built_from["treatment"] = {**chosen, **fitted, "better": study.task.better}
    if study.task.survival is not None:
        built_from["survival"] = study.task.survival.model_dump(mode="json")
    return hashlib.sha256(json.dumps(built_from, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
