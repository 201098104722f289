"""The part of YAML that study files are written in: nothing surprises, nothing unfolds."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.errors import StudyError
from components.yaml_lines import dump_yaml, parse_yaml


def test_every_value_has_its_line_and_plain_words_their_source() -> None:
    document = parse_yaml("a:\n  b: 1e1\n  c:\n    - 'x'\n    - yes\n", "x.yaml")
    assert document.value == {"a": {"b": 10.0, "c": ["x", True]}}
    assert document.lines == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 4, ("a", "c", 1): 5}
    assert document.sources == {("a", "b"): "1e1", ("a", "c", 1): "yes"}


def test_an_alias_bomb_is_refused_before_it_unfolds() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    with pytest.raises(StudyError, match=r":1: cannot be read as YAML: anchors"):
        parse_yaml("\n".join(lines), "x.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("7", 7), ("-0", 0), ("~", None), ("", None),
        ("true", True), ("off", False), ("010", "010"), ("1_000", "1_000"), ("12:30", "12:30"), ("0x1f", "0x1f"),
        ("2026-01-31", "2026-01-31"), ("=", "="), ("'no'", "no"), ("1.2.3", "1.2.3"), ("e5", "e5"), ("north", "north"),
    ],
)  # fmt: skip
def test_plain_words_mean_what_they_seem(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}", "x.yaml").value["key"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", [".nan", "-.INF", "1e999", "9" * 40])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(StudyError, match=r"^x\.yaml:1: key: given "):
        parse_yaml(f"key: {text}", "x.yaml")


@settings(max_examples=150, deadline=None)
@given(
    value=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(10**20), 10**20)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=12)
            | st.sampled_from(
                ["no", "1e3", "010", "1_0", "12:30", "=", "<<", "~", "null", ".5", "-", "&a", "*a", "!t"]
            ),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
        min_size=1,
        max_size=4,
    )
)
@example(value={"\x85": "a\u2028b\u2029c"})
def test_what_is_dumped_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    assert repr(parse_yaml(dump_yaml(value), "x.yaml").value) == repr(value)
