"""The tables in the docs are those that the tests make."""

from __future__ import annotations

import ast

import pytest

from flows.packages import ROOT
from tests.end_to_end.faults.attacks import ATTACKS, TESTS, Attack, table


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_every_row_of_the_attack_table_has_its_test(attack: Attack) -> None:
    path, _, name = attack.test.partition("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    assert name in {part.name for part in tree.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_docs_have_the_attack_table_as_it_is() -> None:
    assert table() in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
