"""What may leave a hospital as text: a short reason of our own, with everything taken out that could name a patient.

The rule is that only messages of our own leave (`components.errors.fit_to_leave`). This filter is the net behind it,
for the day on which such a message is given a value it should not have. It would rather take out too much than too
little: where it cannot tell a value from a word it takes out the rest of the line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from components.errors import fit_to_leave

LONGEST = 500  # characters of what leaves; a reason is a sentence
_READ = 2000  # characters that are looked at: more is no reason but a dump

# Words of our own that look like files: fields of a study, and what the hospital's state folder has.
OUR_WORDS = frozenset({
    "codes.yaml", "data.columns", "data.columns.patient", "data.minimum_usable_fraction", "data.path", "data.records",
    "data.records.separator",
    "data.records.wide.columns", "data.records.wide.components", "data.records.wide.keep", "data.records.wide.pattern",
    "data.splits.validation", "data.table", "evaluate.compare", "features.yaml", "hospital.yaml", "local.batch_size",
    "local.epochs", "local.optimizer.learning_rate", "local.optimizer.weight_decay", "local.steps",
    "minimum_usable_fraction", "quarantine.csv", "rounds.convergence", "rounds.convergence.metric", "rounds.quorum",
    "sites.count", "task.classes", "task.survival.loss", "task.survival.typical",
})  # fmt: skip
# What may stand after "patient" in a sentence of ours. Any other word there may be a name.
_AFTER_PATIENT = frozenset({
    "a", "and", "appears", "are", "by", "cannot", "column", "columns", "data", "each", "for", "has", "have", "in", "is",
    "of", "or", "per", "than", "the", "to", "was", "were", "with",
})  # fmt: skip

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_TIME = r"(?:[T ]?\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?Z?)?"
_HEX = r"(?:0x)?[0-9a-f]{4}"
_SLASH = r"(?:[^\s/\\]*[/\\]\S*)"
_TAG = re.compile(rf"\( ?{_HEX} ?[,|] ?{_HEX} ?\)|(?<![0-9a-f]){_HEX}[,|]{_HEX}(?![0-9a-f])", re.I)
# In this order: first what takes whole words, so that no pattern leaves a half of what another would have taken.
_PATTERNS: Sequence[tuple[str, re.Pattern[str]]] = tuple(
    (f"[{name}]", re.compile(pattern, flags))
    for name, pattern, flags in (
        ("object", r"<[^<>]*>", 0),
        ("date", rf"(?<!\S)\d+/\d+/\d+{_TIME}(?=[\s,.;)]|$)", 0),
        ("address", r"\S+@\S+", 0),
        # A part of a path may hold spaces: what goes on with capitals or digits is taken for one.
        (
            "path",
            rf"(?<!\S)(?!\(?\d{{1,3}}/\d{{1,3}}[).,;:]*(?:\s|$)){_SLASH}(?:[ ](?:{_SLASH}|(?:[^\W_a-z]|\d)\S*))*",
            0,
        ),
        ("name", r"\S*\^\S+|\S+\^", 0),
        ("file", r"(?:\b[A-Z]\w*[ ])*\S*(?:[\w\]]\.[^\W\d_]|[^\W\d]\w*\.\w)\S*|(?<!\S)\.[^\W\d]\S*", 0),
        ("token", r"[A-Za-z0-9+/_-]{20,}=*", 0),
        ("uid", r"\d+(?:\.\d+){2,}", 0),
        ("date", rf"\d{{1,2}}\.?[ -]{_MONTH}[ ,.-]*\d{{2,4}}{_TIME}", re.I),
        ("date", rf"\b{_MONTH}[ -]\d{{1,2}}(?:st|nd|rd|th)?[ ,.-]+\d{{2,4}}{_TIME}", re.I),
        ("date", rf"\d+-\d+-\d+{_TIME}", 0),
        ("value", r"(?<==)(?!\d{1,4}(?:\.\d{1,4})?(?:[^\w.]|$)|\[)\S+", 0),
        ("time", r"\d{1,2}:\d{2}(?::\d{2})?", 0),
        ("id", r"\b(?:mrn|pid|ssn|nhs|dob|born|accession)\b[\s:#.]*[^\s\[]\S*", re.I),
        ("number", r"0x[0-9a-f]+", re.I),
        ("number", r"[\w-]*\d{5,}[\w-]*", 0),
        ("number", r"\d{2,}(?:[ .-]\d{2,}){2,}|\d{3,}[ .-]\d{3,}", 0),
        ("id", r"[^\W\d_]+[_#-]?\d{4,}\w*", 0),
    )
)
_DOTTED_WORDS = re.compile(r"(?<!\S)[(]?(?:e\.g\.|i\.e\.)")
_TRACEBACK = re.compile(
    r"Traceback \(most recent|^\s*File [\"']|[\"'], line \d|, line \d+, in |During handling of", re.M
)
_PATIENT = re.compile(r"patient\w*", re.I)
_WORD = re.compile(r"((?:'s)?[\s:=#]*)([^\s:=#]+)")
_MARK = re.compile(r"[\"']")
_APOSTROPHE = re.compile(r"(?<=\w)'(?=(?:s|t|re|ve|ll|d)\b)|(?<=s)'(?=\s)")
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn"})
_DOUBLE, _SINGLE = "\u201c\u201d\u201e\u00ab\u00bb\u201f", "\u2018\u2019\u201a\u2039\u203a\u201b"
_TYPOGRAPHIC = str.maketrans(dict.fromkeys(_DOUBLE, '"') | dict.fromkeys(_SINGLE, "'"))


@dataclass(frozen=True)
class Failure:
    """Why something failed at a hospital, fit to leave it.

    Attributes:
        stage: What the site was doing, for example ``review``, ``fetch``, ``train`` or ``submit``.
        kind: Name of the error's class.
        message: What is wrong, in words of our own.
    """

    stage: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.message}" if self.stage else self.message


def failure_of(error: BaseException, stage: str, *, keep: Collection[str] = ()) -> Failure:
    """Return what may be told of an error.

    Args:
        error: What was raised.
        stage: What the site was doing.
        keep: As of `redact`.

    Guarantees:
        As of `components.errors.fit_to_leave`, which says what may leave; `redact` is the net behind it.

    >>> str(failure_of(OSError("/data/doe.dcm is gone"), "train"))
    "train: OSError; see the hospital's own log"
    """
    return Failure(stage, type(error).__name__, redact(fit_to_leave(error), keep=keep))


def redact(text: str, *, keep: Collection[str] = ()) -> str:
    """Return a text without what could name a patient, a file or a secret; a line of `LONGEST` characters at most.

    Taken out: paths, names of files, UIDs, DICOM tags, long numbers, dates and times, addresses, tokens and digests,
    values in quotes or after ``=``, what stands after "patient", and a traceback from its beginning on.

    Args:
        text: Any text.
        keep: Identifiers of our own that stay as they are where they stand alone: a site, a training, a digest.

    Guarantees:
        What was redacted stays the same when redacted again.

    >>> redact("site north: 3 of 80 items can be used: 77 x missing patient")
    'site north: 3 of 80 items can be used: 77 x missing patient'
    >>> redact("cannot read /pacs/Doe John/1.dcm of Patient Jane Doe (0010,0020), born 1980-02-01")
    'cannot read [path] of Patient [name], born [date]'
    """
    line = _one_line(text)
    kept = sorted({*OUR_WORDS, *filter(None, keep)}, key=lambda word: (-len(word), word))
    for place, word in enumerate(kept):
        line = re.sub(rf"(?<![\w.+/=@^\\-]){re.escape(word)}(?![\w+/=@^\\-]|\.\w)", chr(0xE000 + place), line)
    line = _DOTTED_WORDS.sub(lambda found: found[0].replace(".", "\uf8ff"), line)
    line = _patients(_TAG.sub("[tag]", _quoted(line)))
    for mark, pattern in _PATTERNS:
        line = pattern.sub(mark, line)
    line = _patients(line)
    line = line.replace("\uf8ff", ".")
    for place, word in enumerate(kept):
        line = line.replace(chr(0xE000 + place), word)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4].rpartition(' ')[0]} ..."


def _one_line(text: str) -> str:
    """Return a text in one form, as one line, up to where a traceback begins."""
    text = unicodedata.normalize("NFKC", text[:_READ].rpartition(" ")[0] if len(text) > _READ else text)
    text = text.translate(_TYPOGRAPHIC)
    found = _TRACEBACK.search(text)
    if found:
        text = text[: found.start()].rpartition("\n")[0] + " [traceback]"
    seen = "".join(char for char in text if char.isspace() or unicodedata.category(char) not in _UNSEEN)
    return " ".join(seen.split())


def _quoted(line: str) -> str:
    """Take out values in quotes; where the marks do not pair, everything from the first on."""
    spared = {found.start() for found in _APOSTROPHE.finditer(line)}
    pieces, end, opened = [], 0, -1
    for found in _MARK.finditer(line):
        place = found.start()
        if opened >= 0 and line[place] != line[opened]:
            continue
        if opened < 0 and place in spared:
            continue
        if opened < 0 and _opens(line, place):
            pieces.append(line[end:place])
            opened = place
        elif opened >= 0 and _closes(line, place):
            pieces.append("[value]")
            opened, end = -1, place + 1
        else:
            return _up_to_first_mark(line)
    return _up_to_first_mark(line) if opened >= 0 else "".join([*pieces, line[end:]])


def _opens(line: str, place: int) -> bool:
    """Say whether a mark can only be the first of a pair."""
    return (place == 0 or line[place - 1] in " (=[{:,") and not line[place + 1 : place + 2].isspace()


def _closes(line: str, place: int) -> bool:
    """Say whether a mark can only be the second of a pair."""
    return line[place - 1] not in " \\" and (place + 1 == len(line) or line[place + 1] in " ).,;:]}")


def _up_to_first_mark(line: str) -> str:
    """Drop a line from its first quotation mark on, with the word it stands in."""
    found = _MARK.search(line)
    return line if found is None else f"{line[: found.start()].rpartition(' ')[0]} [value]".strip()


def _patients(line: str) -> str:
    """Take out what stands after "patient", up to a word that is none of a name."""
    pieces, end = [], 0
    for found in _PATIENT.finditer(line):
        if found.start() < end:
            continue
        plain = found[0].lower() in ("patient", "patients")
        stop = _end_of_name(line, found.end())
        pieces += [line[end : found.start()], found[0] if plain else "patient"]
        pieces += [] if plain and stop == found.end() else [" [name]"]
        end = stop
    return "".join([*pieces, line[end:]])


def _end_of_name(line: str, start: int) -> int:
    """Return where a name ends that begins at a place; the place itself if there is none."""
    end = start
    for found in _WORD.finditer(line, start):
        between, word = found[1], found[2]
        if line[end] in ".,;)" and not word.lstrip(".,;)")[:1].isupper():
            break
        stated = end == start and any(mark in between for mark in ":=#")
        if word.strip("().,;").lower() in _AFTER_PATIENT and not stated:
            break
        end = found.end() - len(word) + len(word.rstrip(".,;)"))
    return end
