"""Which of the study's features, index and label a hospital's code means, and by what its unit is multiplied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import DataError, StudyError
from components.features import Feature, Records
from components.history import OMOP, TERMINOLOGIES, code_mistake
from components.yaml_lines import read_yaml

SITE_CODES = "codes.yaml"  # a hospital's own codes and units, beside its records
INDEX, LABEL = "the index date", "the label"
DEATH, PERIOD = "death", "observation period"  # kinds of record that have no code, and what they are wanted for


@dataclass(frozen=True)
class OwnCodes:
    """What a hospital says of its own codes.

    Attributes:
        codes: For a code of the study, the hospital's codes that mean it; none says that it is not recorded there.
        units: For a unit of the study, how the hospital writes it.
    """

    codes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    units: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the study asks for, by code.

    Attributes:
        exact: For each kind of record, what each code is wanted for.
        prefixes: The same, for codes that begin so.
        every: For each kind of record, what all its records are wanted for, whatever their code.
        bare: For each kind of record, what a code is wanted for in its own terminology.
        absent: Features of which the hospital says that it does not record them.
    """

    exact: Mapping[str, Mapping[str, tuple[str, ...]]]
    prefixes: Mapping[str, Mapping[str, tuple[str, ...]]]
    every: Mapping[str, tuple[str, ...]]
    bare: Mapping[str, Mapping[str, tuple[str, ...]]]
    absent: frozenset[str]

    def of(self, record: str, codes: Iterable[str]) -> set[str]:
        """Return what a record with these codes is wanted for."""
        exact, prefixes = self.exact.get(record, {}), self.prefixes.get(record, {})
        found = set(self.every.get(record, ()))
        for code in codes:
            found.update(exact.get(code, ()))
            for prefix, names in prefixes.items():
                if code.startswith(prefix):
                    found.update(names)
        return found

    def elsewhere(self, record: str, codes: Iterable[str]) -> set[str]:
        """Return what the codes would be wanted for, were they of another terminology than they are."""
        bare = self.bare.get(record, {})
        return {name for code in codes for name in bare.get(code.rpartition("|")[2], ())}

    @property
    def records(self) -> set[str]:
        """Kinds of record that anything is wanted of."""
        return {*self.exact, *self.prefixes, *self.every}


def key_of(code: str) -> str:
    """Return a code as records of every format give it: the terminology's URI, and the code.

    >>> key_of("LOINC 2093-3"), key_of("OMOP 3027114")
    ('http://loinc.org|2093-3', 'OMOP|3027114')
    """
    word, _, rest = code.partition(" ")
    return f"{TERMINOLOGIES[word][0] if word in TERMINOLOGIES else word}|{rest.strip()}"


def wanted_codes(records: Records) -> list[tuple[str, str, list[str]]]:
    """Return what is asked for: its name, the kind of record, and the study's codes."""
    assert records.history is not None  # the study's own check
    index, label, arm = records.history.index, records.history.label, records.arm
    found = [(feature.name, feature.record, feature.codes) for feature in records.features if feature.code]
    dated: list[tuple[str, str, list[str]]] = [item for item in found if item[1] not in ("", "age", "sex")]
    dated += [(INDEX, index.record, index.codes)] + [(LABEL, label.record, label.codes)] * bool(label.codes)
    dated += [(DEATH, DEATH, [])] * (label.death or bool(label.follow_up))
    dated += [(PERIOD, PERIOD, [])] * (label.follow_up == "period")
    if arm is None or arm.given is None:
        return dated
    return dated + [(arm_name(level), arm.given.record, codes) for level, codes in arm.given.codes.items()]


def arm_name(level: str) -> str:
    """Return what a record that says which arm a patient is of is wanted for.

    >>> arm_name("statin")
    'the arm statin'
    """
    return f"the arm {level}"


def build_wanted(records: Records, own: OwnCodes, more: Mapping[str, Sequence[str]] | None = None) -> Wanted:
    """Say what each code is wanted for.

    Args:
        records: The study's.
        own: What the hospital says of its codes.
        more: Further keys (see `key_of`) that mean a code of the study, found in a table of concepts.
    """
    exact: dict[str, dict[str, set[str]]] = {}
    prefixes: dict[str, dict[str, set[str]]] = {}
    bare: dict[str, dict[str, set[str]]] = {}
    every: dict[str, set[str]] = {}
    absent = set()
    for name, record, codes in wanted_codes(records):
        if not codes:
            every.setdefault(record, set()).add(name)
        if codes and all(code in own.codes and not own.codes[code] for code in codes if not _is_omop(code)):
            absent |= {name} if any(not _is_omop(code) for code in codes) else set()
        keys = [key_of(same) for code in codes for same in (code, *own.codes.get(code, ()))]
        keys += [key for code in codes for key in (more or {}).get(code, ())]
        for key in keys:
            place = prefixes if key.endswith("*") else exact
            place.setdefault(record, {}).setdefault(key.removesuffix("*"), set()).add(name)
            if not key.startswith(f"{OMOP}|") and not key.endswith("*"):
                bare.setdefault(record, {}).setdefault(key.rpartition("|")[2], set()).add(name)
    return Wanted(
        exact=_frozen(exact),
        prefixes=_frozen(prefixes),
        every={record: tuple(sorted(names)) for record, names in every.items()},
        bare=_frozen(bare),
        absent=frozenset(absent),
    )


def _frozen(found: Mapping[str, Mapping[str, set[str]]]) -> dict[str, dict[str, tuple[str, ...]]]:
    return {record: {key: tuple(sorted(names)) for key, names in keys.items()} for record, keys in found.items()}


def _is_omop(code: str) -> bool:
    return code.startswith(f"{OMOP} ")


def read_own_codes(folder: Path, owner: str) -> OwnCodes:
    """Read a hospital's ``codes.yaml``, if it has one.

    Raises:
        DataError: If it is not what `OwnCodes` says; nothing of it is in the message.
    """
    file = folder / SITE_CODES
    if not file.is_file():
        return OwnCodes()
    wrong = DataError(
        f"{owner}: its {SITE_CODES} must hold 'codes' and 'units' only: for each code or unit of the study a list of "
        "those that mean the same there"
    )
    try:
        value = read_yaml(file).value
    except StudyError:
        raise wrong from None
    tables = {word: value.get(word) or {} for word in ("codes", "units")}
    lists = [item for table in tables.values() if isinstance(table, dict) for item in table.values()]
    if not value.keys() <= tables.keys() or not all(isinstance(table, dict) for table in tables.values()):
        raise wrong
    if not all(isinstance(item, list) and all(isinstance(word, str) for word in item) for item in lists):
        raise wrong
    codes = [code for key, item in tables["codes"].items() for code in (key, *item)]
    if any(map(code_mistake, codes)):
        raise DataError(f"{owner}: its {SITE_CODES} holds a code that is not a terminology and a code")
    return OwnCodes(codes=tables["codes"], units=tables["units"])


def unit_factors(feature: Feature, own: OwnCodes, more: Mapping[str, Sequence[str]] | None = None) -> dict[str, float]:
    """Return by what a value is multiplied, for each unit that may be taken.

    >>> unit_factors(Feature(name="chol", unit="mg/dL", convert={"mmol/L": 38.67}), OwnCodes())
    {'mg/dl': 1.0, 'mmol/l': 38.67}
    """
    factors = {feature.unit: 1.0, **feature.convert}
    same = {
        other: factor
        for unit, factor in factors.items()
        for other in (*own.units.get(unit, ()), *(more or {}).get(plain_unit(unit), ()))
    }
    return {plain_unit(unit): factor for unit, factor in {**same, **factors}.items()}


def plain_unit(unit: str) -> str:
    """Write a unit (UCUM) in one way: a litre as ``l``, annotations left out, ``1/min`` as ``/min``.

    >>> plain_unit("mg/dL"), plain_unit("{beats}/min"), plain_unit("{score}")
    ('mg/dl', '/min', '1')
    """
    text = re.sub(r"\{[^{}]*\}", "", unit.strip())
    text = re.sub(r"L(?![a-zA-Z])", "l", text)
    return (text.removeprefix("1") if text.startswith("1/") else text) or ("1" if unit.strip() else "")
