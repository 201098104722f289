"""`python -m benchmarks` and what it is asked."""

import pytest

from benchmarks.__main__ import FEDERATION, PARTS, parse


def test_without_a_part_all_are_run_and_nothing_is_written_into_docs() -> None:
    options = parse([])
    assert list(options.parts) == list(PARTS)
    assert not options.write_docs


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["speeed"])
    assert "speeed" in capsys.readouterr().err


def test_the_parts_of_the_federation_have_one_name_and_each_its_own() -> None:
    assert parse(["federation"]).parts == list(FEDERATION)
    assert parse(["memory", "federation", "speed"]).parts == ["memory", "rounds", "hospitals", "delivery", "speed"]
