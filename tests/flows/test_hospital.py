"""A hospital's own half of a request."""

from __future__ import annotations

import json
from typing import Any

from components.exchange.signing import Signed
from components.exchange.site_request import PREPARE, SiteRequest, read_request, request_parameters
from flows.hospital import _key
from tests.references.tiny_study import tiny_study

CALL = Signed(kind="call", body="{}", key="0" * 64, signature="A" * 88)
STUDY = tiny_study(network={"arguments": {"widths": [4, 8], "a_long_name": 3, "b": True}})


def as_postgresql_has_it(value: Any) -> Any:
    """JSON with the keys of every object by length and letters, as PostgreSQL's JSONB keeps them."""
    if isinstance(value, dict):
        return {key: as_postgresql_has_it(value[key]) for key in sorted(value, key=lambda key: (len(key), key))}
    return [as_postgresql_has_it(item) for item in value] if isinstance(value, list) else value


def test_a_request_that_comes_twice_is_one_whatever_order_a_database_gave_it() -> None:
    request = SiteRequest(kind=PREPARE, site="north", training="t1", study=STUDY, call=CALL)
    parameters = request_parameters(request)
    stored = as_postgresql_has_it(parameters)
    assert json.dumps(stored) != json.dumps(parameters)
    assert _key(read_request(stored, site="north")) == _key(request)


def test_another_request_is_another() -> None:
    request = SiteRequest(kind=PREPARE, site="north", training="t1", study=STUDY, call=CALL)
    assert _key(request) != _key(request.model_copy(update={"training": "t2"}))
