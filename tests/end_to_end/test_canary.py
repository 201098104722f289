"""What is planted at a hospital is found in no store, on no wire and in no log outside of it.

A federation of three hospitals behind a network that inspects TLS, so that all they say is seen in the clear. Two have
films whose headers, names and folders hold a patient's data, and files that cannot be decoded; of the third first the
list and then the folder it works in are broken in ways whose errors name what they found. Then every byte outside of
the hospitals is searched, packed or not.
"""

from __future__ import annotations

import csv
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from components.gateway.transport import Route
from components.governance.identity_files import SiteFolder
from flows.hospital_route import keep_route
from flows.local_federation import federation_folder
from tests.end_to_end.middlebox import Middlebox, make_authority, middlebox
from tests.end_to_end.searching import find, find_in_folder
from tests.references.tiny_study import STUDY, sections

ROOT = Path(__file__).resolve().parents[2]
PATIENT, PERSON = "QZMRN00471177", "Qzdoe^Janeqz"
UID = "1.2.826.0.1.3680043.8.498.47110815004223"
FOLDER, FILE = "qzward-of-doe-jane", "qzfilm-doe-jane"
TOKEN = "sk-Qz9VbN3kLm8PqRs2TuWx4Yz"
CANARIES = (PATIENT, PERSON, "Qzdoe", UID, FOLDER, FILE, TOKEN)
GOOD, BROKEN = ("north", "south"), "west"
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Searched:
    """A federation that has trained, and everything that was said in the clear on its way."""

    home: Path
    wire: bytes
    said: str
    trained: subprocess.CompletedProcess[str]
    failed: subprocess.CompletedProcess[str]

    @property
    def hospitals(self) -> Path:
        return federation_folder(self.home) / "hospitals"

    def journal(self) -> str:
        return (self.home / "trainings" / STUDY / "journal.jsonl").read_text()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    folder = tmp_path_factory.mktemp("canary")
    home, ward = folder / "home", folder / FOLDER
    for site in (*GOOD, BROKEN):
        write_site(ward / site, header=site != BROKEN)
    studies = [write_study(place) for place in (ward, folder / "operator")]
    given = make_authority(folder / "network")
    # What a hospital's administrator may have set, for another server and for another program.
    secret = {"PACS_PASSWORD": TOKEN, "WARDROUND_PACS_PASSWORD": TOKEN, "PREFECT_LOGGING_TO_API_ENABLED": "true"}
    try:
        wardround("up", str(studies[0]), home=home, **secret)
        wardround("down", home=home)
        gateway = SiteFolder(federation_folder(home) / "hospitals" / "north").read_federation().gateway
        port = int(gateway.rpartition(":")[2])
        names = {f"gateway.ward.test:{port}": ("127.0.0.1", port)}
        authority = federation_folder(home) / "secrets" / "ca.pem"
        with middlebox(names, authority=folder / "network", trusts=authority) as box:
            for site in (*GOOD, BROKEN):
                behind(box, federation_folder(home) / "hospitals" / site, given, port)
            wardround("up", str(studies[0]), home=home, HTTPS_PROXY=box.url, NO_PROXY="127.0.0.1", **secret)
            trained = wardround("train", str(studies[1]), home=home)
            break_site(ward / BROKEN, federation_folder(home) / "hospitals" / BROKEN)
            failed = wardround("train", str(studies[1]), "--rounds", "2", home=home, check=False)
            said = wardround("status", home=home).stdout
            wardround("down", home=home)
            yield Searched(home, box.inspected, said, trained, failed)
    finally:
        wardround("down", home=home)


def wardround(*arguments: str, home: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WARDROUND_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "", **more}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def write_study(folder: Path) -> Path:
    """Write the study; the one beside the films is a hospital's, the other the operator's."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sections(
        data={"source": "folder", "table": "items.csv", "window": [0, 4095], "minimum_usable_fraction": 0.5},
        rounds={"max": 1, "quorum": 2},
    )
    del found["data"]["path"]
    found["sites"] = [{"name": site, "path": site} for site in (*GOOD, BROKEN)]
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def write_site(folder: Path, *, header: bool) -> None:
    """Write films of patients, some that cannot be decoded, and their list."""
    films = folder / PATIENT
    films.mkdir(parents=True)
    rows = []
    random = np.random.default_rng(len(folder.name))
    for number in range(48):
        name = f"{PATIENT}/{FILE}-{number}.dcm"
        write_film(folder / name, random, ill=number % 2 == 0, broken=number >= 44)
        rows.append([name, number % 2, f"{PATIENT}-{number}"])
    rows.append([f"{FILE}-lost.dcm", 1, PATIENT])
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*([["file", "label", "patient"]] if header else []), *rows])


def write_film(path: Path, random: np.random.Generator, *, ill: bool, broken: bool) -> None:
    """Write one film; a broken one has a photometric interpretation, a syntax and a length that no reader knows."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, UID
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = UID
    dataset.PatientID, dataset.PatientName, dataset.StudyDescription = PATIENT, PERSON, TOKEN
    dataset.Modality = "CR"
    dataset.PhotometricInterpretation = PATIENT if broken else "MONOCHROME2"
    dataset.Rows = dataset.Columns = 16
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    pixels = random.integers(0, 2500, (16, 16))
    pixels[4:12, 4:12] += 900 * ill
    dataset.PixelData = pixels.astype("<u2").tobytes()[: 100 if broken else None]
    dataset.save_as(path, enforce_file_format=True)


def behind(box: Middlebox, hospital: Path, given: Path, port: int) -> None:
    """Put a hospital behind the network's proxy: it reaches the gateway by a name that only the proxy knows."""
    folder = SiteFolder(hospital)
    pinned = folder.read_federation()
    folder.write_federation(pinned.model_copy(update={"gateway": f"https://gateway.ward.test:{port}"}))
    keep_route(hospital, Route(authority_file=given, signed=True))


def break_site(data: Path, hospital: Path) -> None:
    """Mend a site's list, and break the folder it works in: what is raised there names it."""
    text = (data / "items.csv").read_text()
    (data / "items.csv").write_text("file,label,patient\n" + text)
    (hospital / "studies").rename(hospital / "studies-before")
    (hospital / "studies").mkdir()
    (hospital / "studies" / STUDY).symlink_to("nowhere")


def secrets_of(hospital: Path) -> list[bytes]:
    """Return a part of each private key of a hospital that stands on one line of its file."""
    found = []
    for name in ("signing", "sealing", "tls"):
        key = serialization.load_pem_private_key((hospital / "keys" / f"{name}.key").read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            found.append(key.private_numbers().private_value.to_bytes(32, "big")[:12])
        else:
            assert isinstance(key, ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey)
            found.append(key.private_bytes_raw()[:12])
    return found


def test_the_hospitals_did_what_is_searched_for(searched: Searched) -> None:
    """The positive control of the data: it was read, errors named it, and the hospital has it all."""
    assert searched.trained.returncode == 0
    for site in GOOD:
        quarantined = (searched.hospitals / site / "studies" / STUDY / "quarantine.csv").read_text()
        assert quarantined.count("cannot be read: truncated, damaged") == 4
        assert FILE in quarantined
    broken = searched.hospitals / BROKEN
    assert "has no column" in (broken / "studies-before" / STUDY / "journal.jsonl").read_text()
    assert f"File exists: '{broken / 'studies' / STUDY}'" in (broken / "worker.log").read_text()


def test_the_search_finds_what_must_be_there(searched: Searched) -> None:
    """The positive control of the search."""
    outside = find_in_folder(searched.home, [STUDY, *GOOD], without=[searched.hospitals])
    for store in ("mlflow.db", "prefect/prefect.db", "federation/gateway.db", f"trainings/{STUDY}/journal.jsonl"):
        assert outside[store] >= {"north"}, store
    assert find(searched.wire, [STUDY, *GOOD, "/v1/work", "wardround-signature"]) == {
        STUDY, *GOOD, "/v1/work", "wardround-signature"
    }  # fmt: skip


def test_nothing_planted_is_in_any_store_outside_the_hospitals(searched: Searched) -> None:
    names = [f"hospitals/{site}/" for site in (*GOOD, BROKEN)]
    assert find_in_folder(searched.home, [*CANARIES, *names], without=[searched.hospitals]) == {}


def test_nothing_planted_was_on_the_wire(searched: Searched) -> None:
    assert len(searched.wire) > 100_000
    assert find(searched.wire, [*CANARIES, str(searched.home), "Traceback", "items.csv.", "quarantine.csv,"]) == set()


def test_no_log_of_a_hospital_was_sent_to_prefect(searched: Searched) -> None:
    with closing(sqlite3.connect(searched.home / "prefect" / "prefect.db")) as database:
        assert database.execute("select count(*) from flow_run").fetchone()[0] > 6
        assert database.execute("select count(*) from log").fetchone() == (0,)
    assert find(searched.wire, ["/api/logs", "/api/events"]) == set()


def test_nothing_planted_was_said_to_the_operator(searched: Searched) -> None:
    told = "".join(
        [searched.said, *(part for run in (searched.trained, searched.failed) for part in (run.stdout, run.stderr))]
    )
    assert find(told.encode(), CANARIES) == set()
    # It was told why, as far as that may leave.
    assert "site west: items.csv has no column [value]" in searched.journal()
    assert "see the hospital's own log" in searched.journal() + searched.failed.stderr


def test_no_key_of_a_hospital_is_outside_of_it(searched: Searched) -> None:
    for site in (*GOOD, BROKEN):
        keys = secrets_of(searched.hospitals / site)
        assert set(find_in_folder(searched.hospitals / site, keys)) == {
            f"keys/{name}.key" for name in ("sealing", "signing", "tls")
        }
        assert find_in_folder(searched.home, keys, without=[searched.hospitals]) == {}
        assert find(searched.wire, keys) == set()
