"""Whatever is planted in a text does not come out; what we say ourselves does."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import DataError, RefusedError, StorageError
from components.redaction import LONGEST, OUR_WORDS, failure_of, redact

ROOT = Path(__file__).resolve().parents[2]
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

digits = st.text("0123456789", min_size=1, max_size=6)
word = st.text(string.ascii_letters, min_size=3, max_size=8)
stem = st.text(string.ascii_letters + string.digits + "_-", min_size=3, max_size=10)
surrounding = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["cannot read ", "site north: ", "it's ", "'", '"', " of 'x", "the pool's type is ", "(", ": ", "Patient ", "="]
)

# What is planted: the text, and the part of it that must not come out.
UID = st.lists(digits.filter(lambda part: part[0] != "0"), min_size=4, max_size=8).map(".".join)
LONG_NUMBER = st.text("0123456789", min_size=5, max_size=12)
GROUPED_NUMBER = st.tuples(*[st.integers(100, 999)] * 3, st.sampled_from(" -.")).map(
    lambda drawn: drawn[3].join(map(str, drawn[:3]))
)
ISO_DATE = st.dates().map(str)
DAY_FIRST = st.tuples(st.dates(), st.sampled_from("./-")).map(
    lambda drawn: f"{drawn[0].day:02}{drawn[1]}{drawn[0].month:02}{drawn[1]}{drawn[0].year:04}"
)
WRITTEN_DATE = st.dates().map(lambda day: f"{day.day} {day:%B} {day.year:04}")
ABSOLUTE_PATH = st.lists(stem.filter(lambda part: not part.isdigit()), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
RELATIVE_PATH = st.lists(stem, min_size=3, max_size=4).map("/".join)
WINDOWS_PATH = st.lists(stem, min_size=1, max_size=3).map(lambda parts: "C:\\" + "\\".join(parts))
FILE = st.tuples(stem.filter(str.isalpha), st.sampled_from(["dcm", "nii.gz", "png", "IMA", "x1"])).map(".".join)
MAIL = st.tuples(stem, stem).map(lambda drawn: f"{drawn[0]}@{drawn[1]}.org")
TAG = st.tuples(*[st.text("0123456789abcdefABCDEF", min_size=4, max_size=4)] * 2).map(
    lambda pair: f"({pair[0]},{pair[1]})"
)
TOKEN = st.text(string.ascii_letters + string.digits + "+/-_", min_size=20, max_size=60)
HEX = st.text("0123456789abcdef", min_size=20, max_size=64)
PERSON_NAME = st.tuples(word, word).map("^".join)
IDENTIFIER = st.tuples(word, st.text("0123456789", min_size=4, max_size=8), st.sampled_from(["", "-", "_"])).map(
    lambda drawn: f"{drawn[0]}{drawn[2]}{drawn[1]}"
)
PLANTED = {
    "uid": UID, "long number": LONG_NUMBER, "grouped number": GROUPED_NUMBER, "date": ISO_DATE, "day first": DAY_FIRST,
    "written date": WRITTEN_DATE, "absolute path": ABSOLUTE_PATH, "relative path": RELATIVE_PATH,
    "windows path": WINDOWS_PATH, "file": FILE, "mail": MAIL, "tag": TAG, "token": TOKEN, "digest": HEX,
    "person": PERSON_NAME, "identifier": IDENTIFIER,
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_between_words_does_not_come_out(kind: str) -> None:
    @MANY
    @given(PLANTED[kind], surrounding, surrounding)
    def check(planted: str, before: str, after: str) -> None:
        assert planted not in redact(f"{before} {planted} {after}")

    check()


@pytest.mark.parametrize("kind", sorted(set(PLANTED) - {"written date", "grouped number", "tag", "date", "day first"}))
def test_what_is_planted_within_a_word_does_not_come_out(kind: str) -> None:
    @MANY
    @given(PLANTED[kind], surrounding, surrounding)
    def check(planted: str, before: str, after: str) -> None:
        assert planted not in redact(before + planted + after)

    check()


@MANY
@given(st.sampled_from("'\""), st.text(string.ascii_letters, min_size=8, max_size=12), surrounding, surrounding)
def test_a_value_in_quotes_does_not_come_out(mark: str, planted: str, before: str, after: str) -> None:
    assert planted not in redact(f"{before}{mark}{planted}{mark}{after}")


@MANY
@given(st.text(min_size=1, max_size=30), surrounding, surrounding)
def test_python_s_own_quotation_of_a_value_does_not_come_out(value: str, before: str, after: str) -> None:
    planted = f"Quxzil {value}"
    assert "Quxzil" not in redact(f"{before} {planted!r} {after}")


@MANY
@given(
    st.sampled_from(["Patient ", "patient ", "Patient: ", "PatientName=", "Patient's name ", "patient id: "]),
    st.lists(word.map(str.capitalize), min_size=1, max_size=3), surrounding, surrounding,
)  # fmt: skip
def test_a_name_after_patient_does_not_come_out(said: str, names: list[str], before: str, after: str) -> None:
    found = redact(f"{before} {said}{' '.join(f'Qz{name}' for name in names)} {after}")
    assert not [name for name in names if f"Qz{name}" in found]


@MANY
@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from(["north", "", "a" * 64]))
def test_it_is_one_short_line_and_stays_as_it_is(before: str, after: str, kept: str) -> None:
    once = redact(f"{before}/{after}", keep=[kept])
    assert redact(once, keep=[kept]) == once
    assert len(once) <= LONGEST
    assert once.splitlines() in ([], [once])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /pacs/Doe John/scan 1.dcm of site north", "cannot read [path] of site north"),
        ("Doe John.dcm is damaged", "[file] is damaged"),
        ("[Errno 2] No such file or directory: '/data/x y z'", "[Errno 2] No such file or directory: [value]"),
        ("bad\nTraceback (most recent call last):\n  File \"/a.py\", line 3, in doe\nKeyError: Doe", "bad [traceback]"),
        ("Patient Jane van der Doe cannot be read", "Patient [name] cannot be read"),
        ("Patient: is Doe, or not", "Patient [name], or not"),
        ("missing patient, 3 x empty file", "missing patient, 3 x empty file"),
        ("<pydicom.Dataset object at 0x7f00aa>", "[object]"),
        ("value O'Brien", "value [value]"),
        ("MRN \uff11\uff12\uff13\uff14\uff15", "[id]"),
        ("tag 0010,0020 and (0x0010, 0x0010)", "tag [tag] and [tag]"),
        ("pw=hunter2 n=3", "pw=[value] n=3"),
    ],
)  # fmt: skip
def test_examples(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_identifiers_stay_where_they_stand_alone() -> None:
    digest = "0123456789abcdef" * 4
    said = f"the gateway's object {digest} of north-20261122 was changed, not x{digest}"
    assert redact(said, keep=[digest, "north-20261122"]) == (
        f"the gateway's object {digest} of north-20261122 was changed, not [token]"
    )


def test_a_dump_is_cut_without_leaving_half_of_a_value() -> None:
    assert len(redact("word " * 1000)) <= LONGEST
    assert redact("x " * 998 + "secretsecretsecretsecretsecret").count("s") == 0


def test_only_the_words_of_refusals_leave() -> None:
    assert str(failure_of(RefusedError("3 local epochs; the hospital's policy allows 2"), "review")) == (
        "review: 3 local epochs; the hospital's policy allows 2"
    )
    assert failure_of(DataError("no list in /data/Doe"), "data").message == "no list in [path]"
    for error in (StorageError("cannot write state/doe.csv"), KeyError("Doe"), OSError(2, "none", "doe.dcm")):
        told = failure_of(error, "train")
        assert (told.kind, told.message) == (
            type(error).__name__,
            f"{type(error).__name__}; see the hospital's own log",
        )


def messages() -> Iterator[tuple[str, str]]:
    """What this installation refuses with: each message of `RefusedError` and `DataError`, its values put in as 7."""
    for path in sorted([*(ROOT / "components").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") in ("RefusedError", "DataError")
                and node.args
            ):
                text = plain(node.args[0])
                if text:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def plain(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        text = ""
        for part in node.values:
            text += plain(part) if isinstance(part, ast.Constant) else "" if text[-1:].isalnum() else "7"
        return text
    if isinstance(node, ast.BinOp):
        return plain(node.left) + plain(node.right)
    return ""


# Said where no patient is, of a command's own arguments: these need not be readable elsewhere.
NOT_A_HOSPITAL_S = ("components/data/known.py", "components/data/sources.py", "components/governance/certificates.py")


def test_our_own_refusals_stay_readable() -> None:
    found = list(messages())
    assert len(found) > 120
    unreadable = {
        where: (text, redact(text))
        for where, text in found
        if not where.startswith(NOT_A_HOSPITAL_S)
        and "'" not in text.replace("'s ", " ")
        and redact(text) != " ".join(text.split())
    }
    assert unreadable == {}


def test_words_of_ours_are_words_of_ours() -> None:
    """Each stands in a message or a record of the product; one that does not is a hole for nothing."""
    sources = "".join(path.read_text() for path in (ROOT / "components").rglob("*.py") if path.name != "redaction.py")
    assert [word for word in sorted(OUR_WORDS) if word.rpartition(".")[2] not in sources] == []
