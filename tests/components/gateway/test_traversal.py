"""Names that lead elsewhere, in each place of each route that takes one: refused, nothing read, nothing written."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from components.gateway.prefect_proxy import PREFIX
from components.gateway.prefect_routes import ROUTES
from components.governance.identity_files import SiteFolder
from tests.components.gateway.gates import Build, Gate
from tests.components.gateway.test_isolation import NAMED, PLENTY
from tests.components.gateway.test_limits import answer

pytestmark = pytest.mark.timeout(180)
NAMES = [f"{method} {PREFIX}{path}" for method, path in ((route.method, route.path) for route in ROUTES)]
ELSEWHERE = {
    "one up": b"..", "three up": b"../../..", "here": b".", "absolute": b"/etc/passwd", "nothing": b"",
    "one up, encoded": b"%2e%2e", "a slash, encoded": b"..%2f..", "encoded twice": b"%252e%252e%252f",
    "a longer form of the slash": b"..%c0%af..", "backslashes": b"..\\..", "a zero byte": b"south\0",
    "a zero byte, encoded": b"south%00", "a line break, encoded": b"south%0a", "a blank, encoded": b"%20south",
    "full stops of full width": "\uff0e\uff0e".encode(), "a Cyrillic letter": "\u0455outh".encode(), "a home": b"~root",
    "an option": b"--south", "a parameter": b"south;x=1", "a list": b"{south,north}", "a star": b"*",
    "a thousand letters": b"a" * 1000,
}  # fmt: skip


@pytest.fixture(scope="module")
def gate(build: Build) -> Gate:
    """With a Prefect server that is away: who is let through to it learns that, by another status."""
    made = build(ROUTES, prefect_url="http://127.0.0.1:9/api", limits=PLENTY)
    digest = hashlib.sha256(b"weights").hexdigest()
    made.put_object(digest, b"weights")
    made.grants.allow(digest, ["north"])
    return made


@pytest.fixture(scope="module")
def caller(gate: Gate) -> SiteFolder:
    folder = gate.enrol("north")
    gate.open_slot("north")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """What lies in a folder, but the database, which a request may lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".db" not in path.name)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", [*sorted(NAMED), *NAMES])
def test_a_name_that_leads_elsewhere_leads_nowhere(gate: Gate, caller: SiteFolder, name: str) -> None:
    method, path = name.split()
    own = {"digest": "0" * 64, "training": "chest-1", "round": "1", "attempt": "1", "kind": "train", "site": "north",
           "name": "north", "id": "0" * 8 + "-0000-0000-0000-" + "0" * 12}  # fmt: skip
    places, before, wrong = re.findall(r"{(\w+)}", path), contents(gate.folder), {}
    assert places
    for place in places:
        for how, evil in ELSEWHERE.items():
            parts = {**{key: value.encode() for key, value in own.items()}, place: evil}
            target = re.sub(rb"{(\w+)}", lambda found, p=parts: p[found[1].decode()], path.encode())
            query = b"?offset=0" if method == "PUT" else b""
            head = b"%s %s%s HTTP/1.1\r\nHost: g\r\nConnection: close\r\n" % (method.encode(), target, query)
            body = b"" if method in ("GET", "HEAD") else b"{}"
            said = answer(gate, head + b"Content-Length: %d\r\n\r\n" % len(body) + body, caller)
            if not re.match(rb"HTTP/1\.1 (400|403|404|431) ", said) or b"weights" in said or b"root:" in said:
                wrong[place, how] = said[:200]
    assert wrong == {}
    assert contents(gate.folder) == before
