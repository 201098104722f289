"""What a study may say of thousands of columns."""

from typing import Any

import pytest
from pydantic import ValidationError

from components.wide import Wide

COLUMNS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "keep or components is missing: how many columns, or principal components, take part"),
        ({"keep": 5}, "keep must be at most the number of columns, 4, given 5"),
        ({"components": 5}, "components must be at most the number of columns that take part, 4, given 5"),
        ({"keep": 2, "components": 3}, "components must be at most the number of columns that take part, 2, given 3"),
        ({"components": 0}, "greater than or equal to 1"),
        ({"keep": 2, "range": [3, 3]}, "range must be lowest < highest"),
        ({"keep": 2, "columns": ["a", "a"]}, "columns must differ from each other, twice there: a"),
        ({"keep": 1, "columns": ["a"]}, "columns must be two at least; one is a feature"),
        ({"keep": 2, "columns": []}, "columns .* or pattern has to be given, and not both"),
        ({"keep": 2, "pattern": "gene_*"}, "columns .* or pattern has to be given, and not both"),
        ({"keep": 2, "columns": [], "pattern": "*"}, "pattern must begin with three letters or digits at least"),
        ({"keep": 2, "columns": [], "pattern": "gene"}, r"and have a \* then, given 'gene'"),
    ],
)
def test_what_cannot_be_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Wide.model_validate({"columns": COLUMNS, **words})


@pytest.mark.parametrize(
    ("words", "kept", "inputs"),
    [({"keep": 2}, 2, 2), ({"components": 3}, 4, 3), ({"keep": 3, "components": 2}, 3, 2)],
)
def test_how_many_columns_take_part_and_how_many_numbers_the_model_sees(
    words: dict[str, int], kept: int, inputs: int
) -> None:
    wide = Wide.model_validate({"columns": COLUMNS, **words})
    assert (wide.kept, wide.inputs) == (kept, inputs)


def test_a_study_without_components_is_written_as_it_ever_was() -> None:
    wide = Wide(columns=COLUMNS, keep=2)
    assert wide.model_dump() == {"columns": COLUMNS, "keep": 2, "unit": "", "range": None, "most_outside": 0.05}
