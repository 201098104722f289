"""How a row is made of a patient's dated records: codes, the index date, the label, the arm, and the follow-up."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.later import LaterFields
from components.section import Section

Dated = Literal["measurement", "condition", "visit", "medication", "procedure"]
Days = Annotated[list[Annotated[int, Field(ge=-36525, le=36525)]], Field(min_length=2, max_length=2)]
Code = Annotated[
    str,
    Field(
        max_length=200,
        description="a terminology and a code of it, such as LOINC 2093-3; OMOP and a concept id; or a URI and a code",
    ),
]
Day = Annotated[str, Field(pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="a day as YYYY-MM-DD")]

OMOP = "OMOP"
DAYS = {"days": 1.0, "weeks": 7.0, "months": 30.4375, "years": 365.25}  # in a unit of survival times
# The terminologies that a study may name by a word: their URI in FHIR, and their name in OMOP's vocabularies, if any.
TERMINOLOGIES = {
    "LOINC": ("http://loinc.org", "LOINC"),
    "SNOMED": ("http://snomed.info/sct", "SNOMED"),
    "ICD10": ("http://hl7.org/fhir/sid/icd-10", "ICD10"),
    "ICD10CM": ("http://hl7.org/fhir/sid/icd-10-cm", "ICD10CM"),
    "ICD10GM": ("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "ICD10GM"),
    "ICD9CM": ("http://hl7.org/fhir/sid/icd-9-cm", "ICD9CM"),
    "ATC": ("http://www.whocc.no/atc", "ATC"),
    "RXNORM": ("http://www.nlm.nih.gov/research/umls/rxnorm", "RxNorm"),
    "ACTCODE": ("http://terminology.hl7.org/CodeSystem/v3-ActCode", ""),
}

# Units (UCUM, in small letters) that a message may name; another might be anything that somebody typed.
UNITS = frozenset({
    "%", "/min", "/ul", "10*3/ul", "10*6/ul", "10*9/l", "10*12/l", "[iu]/l", "[degf]", "cel", "cm", "d", "fl", "g",
    "g/dl", "g/l", "h", "kg", "kg/m2", "kpa", "l", "m", "meq/l", "mg", "mg/dl", "mg/l", "mg/mmol", "min", "ml",
    "ml/min", "mm", "mm/h", "mm[hg]", "mmhg", "mmol/l", "mmol/mol", "mol/l", "ng/dl", "ng/l", "ng/ml", "nmol/l",
    "pg", "pg/ml", "pmol/l", "s", "u/l", "ug/dl", "ug/l", "ug/ml", "umol/l", "a", "mo", "wk",
})  # fmt: skip


def code_mistake(code: str) -> str:
    """Say what is wrong with a code; nothing if it is right.

    >>> code_mistake("LOINC 2093-3"), code_mistake("OMOP 3027114"), code_mistake("ICD10 I21*")
    ('', '', '')
    >>> code_mistake("2093-3")
    "given '2093-3'; must be a terminology and a code, such as LOINC 2093-3"
    """
    word, _, rest = code.partition(" ")
    rest = rest.strip()
    if not rest or rest == "*":
        return f"given {code!r}; must be a terminology and a code, such as LOINC 2093-3"
    if word == OMOP:
        return "" if re.fullmatch(r"[1-9][0-9]*", rest) else f"given {code!r}; OMOP is followed by a concept id"
    if word in TERMINOLOGIES or re.fullmatch(r"(https?://|urn:)\S+", word):
        return ""
    return f"given {code!r}; its terminology must be a URI or one of {', '.join([*TERMINOLOGIES, OMOP])}"


def codes_mistake(codes: list[str]) -> str:
    """Say what is wrong with some codes; nothing if they are right."""
    twice = sorted({code for code in codes if codes.count(code) > 1})
    return next(filter(None, map(code_mistake, codes)), f"given twice: {', '.join(twice)}" if twice else "")


def rising(window: list[int] | None) -> bool:
    """Whether a window of days ends on or after the day it begins."""
    return window is None or window[0] <= window[1]


def day(text: str) -> int:
    """Return a day as a number that counts days.

    Raises:
        ValueError: If there is no such day.

    >>> day("2020-03-01") - day("2020-02-28")
    2
    """
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        raise ValueError(f"given {text!r}; there is no such day (YYYY-MM-DD)") from None


class Index(Section):
    """The day from which a patient is looked at: that of one of their records.

    Attributes:
        record: Of what kind the record is.
        codes: What it has to be coded as, any of these: for visits for example ``ACTCODE IMP`` and ``OMOP 9201`` (in
            hospital); a code that ends with ``*`` stands for all that begin so. Empty takes any visit.
        take: Which of a patient's records, if there are several between `earliest` and `latest`.
        earliest: First day that it may have; empty is any.
        latest: Last day that it may have; empty is any.
    """

    record: Dated = "visit"
    codes: list[Code] = Field(default_factory=list)
    take: Literal["first", "last"] = "first"
    earliest: Day = ""
    latest: Day = ""

    @model_validator(mode="after")
    def _check(self) -> Index:
        wrong = codes_mistake(self.codes)
        if wrong or (not self.codes and self.record != "visit"):
            raise ValueError(f"codes {wrong or f'are missing: which {self.record} is it?'}")
        if self.earliest and self.latest and day(self.earliest) > day(self.latest):
            raise ValueError(f"earliest must not be after latest, given {self.earliest} and {self.latest}")
        day(self.earliest or "1900-01-01")
        day(self.latest or "1900-01-01")
        return self


class Outcome(Section, LaterFields):
    """What is to be foreseen: whether, or for ``task.kind: survival`` when, a patient gets a record of a kind.

    Attributes:
        record: Of what kind the record is.
        codes: What it has to be coded as, any of these; as of the index. May be left out with `death`.
        window_days: First and last day after the index date that count. For survival nobody is looked on for longer
            than the last, and who is not looked on until the first is left out.
        new: Whether patients are left out who had it before the window already.
        death: Whether death is it, too; without `codes`, death alone.
        follow_up: For survival, what says until when a patient was looked on who did not get it: the last ``record`` of
            any kind, the end of the last ``visit``, or of the ``period`` (OMOP's ``observation_period``) that the index
            date is in. Death ends it, and so does `until`.
    """

    later = frozenset({"death", "follow_up"})

    record: Dated = "condition"
    codes: list[Code] = Field(default_factory=list)
    window_days: Days
    new: bool = True
    death: bool = False
    follow_up: Literal["", "record", "visit", "period"] = ""

    @model_validator(mode="after")
    def _check(self) -> Outcome:
        wrong = codes_mistake(self.codes)
        if wrong or not (self.codes or self.death):
            raise ValueError(f"codes {wrong or f'are missing: which {self.record} is it? (death alone: death: true)'}")
        if not rising(self.window_days):
            raise ValueError(f"window_days must be first and last day, given {self.window_days}")
        return self


class Given(Section):
    """Which of a patient's dated records say what they were given.

    Attributes:
        record: Of what kind the records are.
        codes: For a level of the arm, what the record has to be coded as, any of these. Where both levels have codes, a
            patient with neither is left out; where the second alone has, they were given the first. A patient with both
            is left out.
        window_days: First and last day, counted from the index date, on which they count; ``[-30, 0]``.
    """

    record: Dated = "medication"
    codes: Annotated[dict[str, Annotated[list[Code], Field(min_length=1)]], Field(min_length=1)]
    window_days: Days

    @model_validator(mode="after")
    def _check(self) -> Given:
        wrong = codes_mistake([code for codes in self.codes.values() for code in codes])
        if wrong:
            raise ValueError(f"codes {wrong}")
        if not rising(self.window_days):
            raise ValueError(f"window_days must be first and last day, given {self.window_days}")
        return self


class History(Section):
    """How a row of the table is made of a patient's dated records; one row for each patient.

    Attributes:
        index: The day from which a patient is looked at.
        label: What is to be foreseen; the second class.
        until: The last day of the hospitals' records that counts. Whose label's window ends later is left out (for
            survival nobody is looked on for longer), and a record with a later date is not used.
        ages: Completed years at the index date, lowest and highest, of the patients who take part.
    """

    index: Index = Index()
    label: Outcome
    until: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a day as YYYY-MM-DD")]
    ages: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _check(self) -> History:
        day(self.until)
        if self.ages is not None and not 0 <= self.ages[0] <= self.ages[1]:
            raise ValueError(f"ages must be lowest and highest, given {self.ages}")
        return self
