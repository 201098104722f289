"""What is asked of a site, and what it answers before the first round, of as many columns as a study may have."""

import json

import numpy as np
import pytest

from components.dispatch import Preparation
from components.exchange.keys import SigningKey
from components.exchange.signing import read_signed
from components.exchange.site_request import (
    MAX_BYTES,
    SHOWN_BYTES,
    Call,
    Prepared,
    SiteRequest,
    parse_request,
    request_parameters,
    request_text,
    sign_call,
    sign_prepared,
    verify_prepared,
)
from components.gateway.limits import Limits
from components.study import Study
from components.table_sums import FeatureSums, TableSums
from components.wide import MOST_COLUMNS
from components.wide_sums import wide_sums
from tests.references.tiny_genes import class_study

COORDINATOR, NORTH = SigningKey.generate(), SigningKey.generate()


def wide_study(columns: int) -> Study:
    """A study with names as long as Ensembl's."""
    names = [f"ENSG{number:011d}.15" for number in range(columns)]
    return class_study(0, wide={"columns": names, "keep": 2})


def request(study: Study) -> SiteRequest:
    return SiteRequest(
        kind="prepare", site="north", training="t", study=study, call=sign_call(call(study), COORDINATOR)
    )


def call(study: Study) -> Call:
    return Call(federation="ward", site="north", training="t", study_digest=study.digest, nonce="0" * 32)


def test_the_names_of_all_columns_reach_a_site() -> None:
    asked = request(wide_study(MOST_COLUMNS))
    text = request_text(asked)
    assert SHOWN_BYTES < len(text) < MAX_BYTES
    assert parse_request(text, site="north") == asked


def test_prefect_shows_of_a_long_request_whom_it_asks_for_what() -> None:
    assert request_parameters(request(wide_study(MOST_COLUMNS))) == {
        "request": {"kind": "prepare", "site": "north", "training": "t"}
    }
    short = request(wide_study(100))
    assert request_parameters(short) == {"request": json.loads(request_text(short))}


def test_the_sums_of_all_columns_come_back_from_a_site() -> None:
    table = np.random.default_rng(1).normal(8, 2, size=(100, MOST_COLUMNS))
    wide = wide_sums(table, np.arange(100) % 2, 5)
    found = Preparation(site="north", ready=True, sums=TableSums(features={"age": FeatureSums(known=100)}, wide=wide))
    asked = call(wide_study(2))
    prepared = Prepared(federation="ward", training="t", site="north", call=asked, preparation=found)
    text = sign_prepared(prepared, NORTH).model_dump_json().encode()
    assert len(text) < Limits().envelope_bytes
    assert verify_prepared(read_signed(text), NORTH.public, asked) == found


def test_a_request_longer_than_a_site_accepts_is_not_sent() -> None:
    with pytest.raises(ValueError, match="sites accept 2097152"):
        request_text(
            request(class_study(0, wide={"columns": [f"{number:050d}" for number in range(45_000)], "keep": 2}))
        )
