"""The reference of the study's fields is the code's own."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from components import study
from components.analytics import plan
from flows.docs import ANALYSIS_SECTIONS, PAGES, SECTIONS, study_reference, write_reference

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(tmp_path: Path, name: str) -> None:
    copy = tmp_path / name
    copy.write_text((DOCS / name).read_text())
    assert not write_reference(copy), "run: python -m flows.docs"


def test_reference_has_every_section_of_a_study() -> None:
    records = {value for value in vars(study).values() if isinstance(value, type) and issubclass(value, BaseModel)}
    parts = ("round_rules", "features", "history", "survival", "wide")
    modules = (study.__name__, *(f"components.{name}" for name in parts))
    own = {record for record in records if record.__module__ in modules}
    assert set(SECTIONS) == own - {study.Section}
    records = {value for value in vars(plan).values() if isinstance(value, type) and issubclass(value, BaseModel)}
    assert set(ANALYSIS_SECTIONS) == {record for record in records if record.__module__ == plan.__name__}


def test_reference_says_what_may_stand_in_a_field() -> None:
    text = study_reference()
    assert '| `device` | `"auto"`, `"cpu"`, `"cuda"` | `"auto"` |' in text
    assert "| `max` | whole number | `10` | Rounds at the most. |" in text
    assert "| `study` | text | required |" in text


def test_page_without_the_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Something else\n")
    with pytest.raises(ValueError, match="does not hold the line"):
        write_reference(tmp_path / "page.md")
