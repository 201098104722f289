"""Starting a process without paying for what it does not use."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError

# What MONAI, Lightning and torchmetrics import when they find it, for handlers, plots and audio that a site
# never uses: a third of the seconds its process needs to start. By distribution, then by package. Readers of
# images (nibabel, pydicom) are not among them: a library that missed one while it was imported never has it.
UNUSED_AT_A_SITE = {
    "matplotlib": "matplotlib",
    "mlflow": "mlflow",
    "pandas": "pandas",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
}


@contextmanager
def lean_imports() -> Iterator[None]:
    """Make the packages a site does not use look absent, and collect no garbage, while this lasts.

    What is imported already stays. Afterwards all can be imported as ever; libraries that looked for a
    package meanwhile go on believing that it is not there. What was imported is never collected.
    """
    hidden = {name: package for name, package in UNUSED_AT_A_SITE.items() if package not in sys.modules}
    # The class method itself, so that it can be put back as it was.
    original, find = vars(Distribution)["from_name"], Distribution.from_name

    def from_name(name: str) -> Distribution:
        if name.lower().replace("_", "-") in hidden:
            raise PackageNotFoundError(name)
        return find(name)

    gc.disable()
    sys.modules.update(dict.fromkeys(hidden.values()))  # type: ignore[arg-type]  # None: importing it fails
    Distribution.from_name = staticmethod(from_name)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Distribution.from_name = original  # type: ignore[method-assign]
        for package in hidden.values():
            del sys.modules[package]
        gc.freeze()
        gc.enable()
