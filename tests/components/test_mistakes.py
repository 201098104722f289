"""Mistakes are put into words by what the model itself allows."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.mistakes import Mistake, dotted, explain, first_mistake, nearest, undotted, unknown_key


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    low: Annotated[float, Field(ge=0, lt=1)] = 0.0
    high: Annotated[float, Field(gt=0)] = 1.0
    mode: Literal["max", "min"] = "max"

    @model_validator(mode="after")
    def _check(self) -> "Inner":
        if self.low > self.high:
            raise ValueError(f"low must be at most high, given {self.low}")
        return self


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    inner: Inner | None = None
    several: list[Inner] = []
    flag: bool = False
    free: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("value", "message", "place"),
    [
        ({"inner": {"low": -1}}, "inner.low: given -1; must be 0 or more and below 1", ("inner", "low")),
        ({"inner": {"high": 0}}, "inner.high: given 0; must be above 0", ("inner", "high")),
        ({"inner": {"low": 0.9, "high": 0.1}}, "inner: low must be at most high, given 0.9", ("inner", "low")),
        ({"inner": 3}, "inner: given 3; must be a table with the keys low, high, mode, or null", ("inner",)),
        ({"several": [{}, {"mode": "mx"}]}, "several[1].mode: given 'mx'; must be one of max, min; did you mean max?",
         ("several", 1, "mode")),
        ({"several": {}}, "several: given a table; must be a list, each a table with the keys low, high, mode",
         ("several",)),
        ({"flag": "yes"}, "flag: given 'yes'; must be true or false", ("flag",)),
        ({"flag": 1}, "flag: given 1; must be true or false", ("flag",)),
        ({"free": []}, "free: given a list; must be a table", ("free",)),
        ({"free": "x" * 100}, f"free: given '{'x' * 57}...'; must be a table", ("free",)),
        ({"low": 1}, "low: unknown key; did you mean inner.low?; allowed: inner, several, flag, free", ("low",)),
    ],
)  # fmt: skip
def test_each_error_is_put_into_words(value: dict[str, Any], message: str, place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    [mistake] = explain(caught.value, Outer)
    assert (str(mistake), mistake.place) == (message, place)


def test_a_model_inside_a_file_keeps_its_place_and_what_was_written_there() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"high": -1000.0})
    [mistake] = explain(caught.value, Inner, under=("rounds",), sources={("rounds", "high"): "-1e3"})
    assert str(mistake) == "rounds.high: given -1e3; must be above 0"


def test_a_field_is_named_once() -> None:
    assert str(Mistake(("a", "b"), "a.b: wrong", ())) == str(Mistake(("a", "b"), "wrong", ())) == "a.b: wrong"
    assert str(Mistake((), "wrong", ())) == "wrong"


@pytest.mark.parametrize("path", [(), ("a",), ("a", 0, "b"), ("sites", 12, 3)])
def test_paths_are_read_as_they_are_written(path: tuple[str | int, ...]) -> None:
    assert undotted(dotted(path)) == path


def test_nearest_ignores_case_and_says_nothing_if_nothing_is_near() -> None:
    assert nearest("RESNET", ["CNN", "ResNet"]) == "ResNet"
    assert nearest("zebra", ["CNN", "ResNet"]) is None
    assert unknown_key("zebra", []) == "unknown key; allowed: none"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"inner": {"low": "Smith^Anna"}}, "inner.low: Input should be a valid number"),
        ({"several": [{}, {"mode": "Smith^Anna"}]}, "several.1.mode: Input should be 'max' or 'min'"),
        ("Smith^Anna", "the file: Input should be a valid dictionary or instance of Outer"),
    ],
)
def test_the_first_mistake_is_one_line_without_what_was_given(value: Any, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    assert first_mistake(caught.value, "the file") == line


def test_the_first_mistake_is_short_whatever_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"k" * 5000: 1})
    assert first_mistake(caught.value) == f"{'k' * 100}: Extra inputs are not permitted"
