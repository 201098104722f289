"""Python runs this at the start of every process that has this folder on its path: unpickling raises from then on.

``WARDROUND_UNPICKLING_LOG`` names a folder. Each process writes there what it is, and each attempt to unpickle,
with its stack: an attempt whose error a library swallows is seen all the same.
"""

import _pickle
import os
import pickle
import sys
import traceback
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LOG = Path(os.environ["WARDROUND_UNPICKLING_LOG"])
# The one exemption. Prefect's server hands tasks to itself through a queue in its own memory (docket, `memory://`)
# and pickles them on the way in: what it unpickles was never in a file, nor on the network.
PREFECT_QUEUE = ("docket.execution", "from_message")
LOADS = pickle.loads


def loads(data: bytes, **options: Any) -> Any:
    caller = sys._getframe(1)
    if (caller.f_globals.get("__name__"), caller.f_code.co_name) == PREFECT_QUEUE:
        return LOADS(data, **options)
    return refuse()


def refuse(*_: Any, **__: Any) -> NoReturn:
    stack = "".join(traceback.format_stack(limit=12))
    (LOG / f"attempt-{os.getpid()}-{len(list(LOG.iterdir()))}.txt").write_text(stack)
    raise RuntimeError("something is unpickled: see " + str(LOG))


class RefusingUnpickler(_pickle.Unpickler):
    """Libraries derive from it while they are imported; it never loads."""

    load = refuse


class RefusingPythonUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the one written in Python
    """The same for the implementation in Python, from which pandas and torch derive."""

    load = refuse


class TorchLoader(Loader):
    """Imports ``torch.serialization`` with a `load` that refuses, before torch hands it on."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self.wrapped.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        self.wrapped.exec_module(module)
        module.load = refuse  # type: ignore[attr-defined]


class TorchFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch.serialization":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = TorchLoader(spec.loader)
        return spec


for module in (pickle, _pickle):
    module.load, module.loads = refuse, loads  # type: ignore[attr-defined]
    module.Unpickler = RefusingUnpickler  # type: ignore[attr-defined,misc]
pickle._load = pickle._loads = refuse  # type: ignore[attr-defined]
pickle._Unpickler = RefusingPythonUnpickler  # type: ignore[attr-defined]
sys.meta_path.insert(0, TorchFinder)  # type: ignore[arg-type]
(LOG / f"guarded-{os.getpid()}.txt").write_bytes(Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" "))
