"""The examination of a hospital: what must hold before it takes part, each with how to mend it.

What a check says is for the hospital's own terminal and may name folders; what leaves is `Finding.facts`: counts,
versions and seconds.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.analytics.table import open_cohort, read_table
from components.errors import StorageError, StudyError, WardRoundError
from components.exchange.keys import TlsKey
from components.files import storage_errors, write_whole
from components.gateway.client import GatewayClient
from components.gateway.records import Health, own_version
from components.governance.acceptances import Acceptances
from components.governance.credentials import verify_chain
from components.governance.hospital_settings import FILE, read_settings, review_analysis
from components.governance.identity_files import SiteFolder
from components.yaml_lines import read_yaml
from flows.doctor_child import Opened, Timed
from flows.doctor_process import ask_child
from flows.hospital_route import read_route

APART_S = 60.0  # clocks; signed requests allow for 15 minutes, credentials for less
FREE_BYTES = 1 << 30  # decoded images and a few versions of a model
SHARED_BYTES = 60 << 20  # a container's default is 64 MiB
_PATIENCE_S = 5.0  # a person waits
_ENROLL = "ask the operator for a new token, then: wardround hospital enroll --token TOKEN"

Fact = bool | int | float | str


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: Of the check.
        passed: Whether the hospital may take part as far as this goes.
        said: What was found, for the hospital's own terminal.
        fix: What to do, if it did not pass.
        facts: What of it leaves the hospital: counts, versions, seconds; no path, no name of a file.
    """

    name: str
    passed: bool
    said: str
    fix: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)


def examine(folder: Path, study: Path | None = None) -> list[Finding]:
    """Examine the hospital of a folder.

    Args:
        folder: The hospital's folder.
        study: A study file, to look at its data and to estimate a round.
    """
    checks: list[Callable[[Path], Finding]] = [check_keys, check_credential]
    findings = [check(folder) for check in checks]
    findings += check_gateway(folder)
    findings += [check(folder) for check in (check_settings, check_data, check_state, check_disk)]
    findings.append(check_shared_memory(Path("/dev/shm")))  # noqa: S108 - where Linux has it
    if study is None or not _analyses(study):
        return findings + check_computing(folder, study)
    return [*findings, *check_computing(folder, None), check_table(folder, study)]


def check_keys(folder: Path) -> Finding:
    """Check that the private keys are there, and that nobody else can read them."""
    try:
        SiteFolder(folder).read_keys()
    except WardRoundError as error:
        fix = f"take other users' rights away: chmod 700 {folder}/keys && chmod 600 {folder}/keys/*.key"
        lost = f"put the keys back from a backup; without one, {_ENROLL}"
        return Finding("keys", False, str(error), fix if "has mode" in str(error) else lost)
    return Finding("keys", True, "three private keys that only their owner can read")


def check_credential(folder: Path) -> Finding:
    """Check that the credential is the federation's, for this hospital's key, and within its time."""
    identity, now = SiteFolder(folder), datetime.now(UTC)
    try:
        credential = identity.read_credential()
        left_days = (credential.not_after - now).total_seconds() / 86400
        facts = {"days_left": round(left_days, 2)}
        verify_chain(credential.pem, identity.read_federation().ca.encode(), now)
        if credential.public != TlsKey.load(identity.tls_key).public:
            raise StorageError("the credential is for another TLS key than the one in keys/")
    except WardRoundError as error:
        return Finding("credential", False, str(error), _ENROLL)
    said = f"of {credential.site}, good until {credential.not_after:%Y-%m-%d %H:%M} UTC ({left_days:.1f} days)"
    return Finding("credential", True, f"{said}; renewed by itself while the hospital runs", facts=facts)


def check_gateway(folder: Path) -> list[Finding]:
    """Check that the gateway answers, speaks our protocol, has our time, and lets this hospital in."""
    try:
        route = replace(read_route(folder), patience_s=_PATIENCE_S)
        with GatewayClient(SiteFolder(folder), route) as client:
            client.health()  # the connection is made
            begun = time.time()
            health = client.health()
            ended = time.time()
            findings = [_answers(health, client.pinned.gateway, ended - begun), _clocks(health, (begun + ended) / 2)]
            return [*findings, check_membership(client, signed=route.signed or route.authority_file is None)]
    except WardRoundError as error:
        fix = "see that this machine reaches the gateway by HTTPS (HTTPS_PROXY, --ca and --signed of enroll)"
        return [Finding("gateway", False, str(error), fix)]


def check_membership(client: GatewayClient, *, signed: bool = True) -> Finding:
    """Check that the gateway lets this hospital in, with the keys that were pinned.

    Args:
        client: At the gateway.
        signed: Whether the credential can get there: signed, or by a connection that nobody inspects.
    """
    try:
        pinned = client.federation()
    except WardRoundError as error:
        passes = "a proxy that inspects TLS keeps the credential back: enroll again with the same token and --signed"
        return Finding("membership", False, str(error), _ENROLL if signed else passes)
    others = _count(len(pinned.peers), "other hospital")
    said = f"{pinned.site} in the federation {pinned.federation}, with {others}; all keys as pinned"
    return Finding("membership", True, said, facts={"others": len(pinned.peers)})


def check_settings(folder: Path) -> Finding:
    """Check that the settings and the policy are valid, and that only their owner can change them."""
    path = folder / FILE
    try:
        settings = read_settings(folder)
        with storage_errors("read", path):
            mode = stat.S_IMODE(path.stat().st_mode)
    except WardRoundError as error:
        return Finding("settings", False, str(error), f"edit {path}; `wardround hospital settings` prints what counts")
    if mode & 0o022:
        said = f"{FILE} has mode {mode:04o}: other users of this machine may change the policy"
        return Finding("settings", False, said, f"chmod 600 {path}")
    policy = settings.policy
    studies = "any study" if "*" in policy.studies else f"{len(policy.studies)} studies"
    said = f"{FILE} is valid: {studies}, rounds of {policy.min_sites} hospitals or more"
    return Finding("settings", True, said, facts={"min_sites": policy.min_sites, "max_epochs": policy.max_epochs})


def check_data(folder: Path) -> Finding:
    """Check that every folder of data can be read; that none can be written is advice."""
    try:
        settings = read_settings(folder)
    except WardRoundError:
        return Finding("data", False, "not known before the settings are valid", f"edit {folder / FILE}")
    sources = [part.path for source in settings.sources.values() for part in source.parts]
    paths = [Path(path) for path in [*settings.data.values(), *sources]]
    problems = [problem for path in paths if (problem := _unreadable(path))]
    facts = {"places": len(paths), "unreadable": len(problems)}
    if problems:
        fix = f"correct the folder in {folder / FILE}, mount it, or let this user read it"
        return Finding("data", False, "; ".join(problems), fix, facts)
    writable = sum(os.access(path, os.W_OK) for path in paths)
    advice = " (writable from here; mount it read-only to be sure)" if writable else ", read-only"
    return Finding("data", True, f"{_count(len(paths), 'place')} readable{advice}", facts=facts)


def check_state(folder: Path) -> Finding:
    """Check that the hospital's own folder can be written, durably, and by nobody else."""
    probe = folder / "doctor.tmp"
    try:
        with storage_errors("write", folder):
            write_whole(probe, b"examined")
            probe.unlink()
            mode = stat.S_IMODE(folder.stat().st_mode)
    except WardRoundError as error:
        return Finding("state", False, str(error), f"let this user write {folder}, on a local disk")
    if mode & 0o022:
        said = f"{folder} has mode {mode:04o}: other users of this machine may change it"
        return Finding("state", False, said, f"chmod 700 {folder}")
    return Finding("state", True, f"{folder} can be written")


def check_disk(folder: Path, needed: int = FREE_BYTES) -> Finding:
    """Check that there is room for decoded images and models."""
    try:
        with storage_errors("look at", folder):
            free = shutil.disk_usage(folder).free
    except StorageError as error:
        return Finding("disk", False, str(error), "look at the disk")
    said, facts = f"{free / 1e9:.1f} GB free", {"free_gb": round(free / 1e9, 1)}
    fix = f"free {needed / 1e9:.1f} GB on the disk of {folder}, or move the folder to another disk"
    return Finding("disk", free >= needed, said, "" if free >= needed else fix, facts)


def check_shared_memory(place: Path, needed: int = SHARED_BYTES) -> Finding:
    """Check the size of the memory that processes share."""
    if not place.is_dir():
        return Finding("shared memory", True, "this system sets no size")
    size = shutil.disk_usage(place).total
    said, facts = f"{size >> 20} MiB", {"mib": size >> 20}
    fix = "give the container more: docker run --shm-size=1g, or shm_size: 1gb in the compose file"
    return Finding("shared memory", size >= needed, said, "" if size >= needed else fix, facts)


def check_computing(folder: Path, study: Path | None) -> list[Finding]:
    """Time a batch in a process like a site's, and open a study's data there."""
    try:
        timed, opened = ask_child(folder, SiteFolder(folder).read_federation().site, study)
    except StorageError as error:
        timed, opened = ask_child(folder, "unknown", None)[0], Opened(problem=str(error)) if study else None
    findings = [judge_timed(timed)]
    if opened is not None:
        findings.append(judge_opened(opened))
        if findings[0].passed and findings[1].passed:
            findings.append(estimate_round(timed, opened))
    return findings


def check_table(folder: Path, study: Path) -> Finding:
    """Check that the table of an analysis is what the study says, and that this version of it was accepted."""
    from components.study_file import load_analysis  # it brings torch, without which the doctor answers at once

    try:
        loaded, settings = load_analysis(study), read_settings(folder)
        accepted = Acceptances(folder).analysis(loaded.study, loaded.digest)
        review_analysis(settings.policy, loaded, accepted=accepted is not None)
        file = settings.table_of(loaded, SiteFolder(folder).read_federation().site)
        cohort = open_cohort(read_table(file), loaded.analysis)
    except WardRoundError as error:
        return Finding("table", False, str(error), "mend the table or the settings; read the study and accept it")
    smallest = loaded.analysis.disclosure.stricter(settings.disclosure).smallest_cell
    said = f"{loaded.study}: {_count(len(cohort), 'patient')}; nothing of fewer than {smallest} leaves"
    return Finding("table", True, said, facts={"study": loaded.study})


def judge_timed(timed: Timed) -> Finding:
    """Say whether a site's process can train here."""
    if timed.problem:
        fix = "end other programs on the GPU or ask for a smaller batch" if "memory" in timed.problem else (
            "install WardRound anew; on a GPU, look at its driver with nvidia-smi"
        )  # fmt: skip
        return Finding("computing", False, timed.problem, fix, {"torch": timed.torch})
    facts: dict[str, Fact] = {
        "device": timed.device, "gpus": timed.gpus, "torch": timed.torch, "batch_size": timed.batch_size,
        "step_s": round(timed.step_s, 5), "start_s": round(timed.start_s, 2),
    }  # fmt: skip
    where = f"GPU ({timed.gpus} visible)" if timed.device == "cuda" else "CPU"
    said = f"{where}: a batch of {timed.batch_size} takes {timed.step_s:.3f} s"
    if timed.driver and not timed.gpus:
        fix = "start the container with --gpus all, and look at nvidia-smi inside: torch must fit the driver"
        return Finding("computing", False, f"{said}; this machine has a GPU that its processes do not see", fix, facts)
    return Finding("computing", True, said, facts=facts)


def judge_opened(opened: Opened) -> Finding:
    """Say whether a study's data can be used."""
    if opened.problem or opened.items is None:
        fix = "correct the data, the settings or the study; quarantine.csv in the study's folder names each file"
        return Finding("data set", False, opened.problem, fix)
    items = opened.items
    said = f"{opened.study}: {items.expected} expected, {items.usable} usable, {items.quarantined} set aside"
    facts: dict[str, Fact] = {**items.model_dump(), "study": opened.study, "seconds": round(opened.seconds, 2)}
    return Finding("data set", True, f"{said} ({opened.seconds:.1f} s to open)", facts=facts)


def estimate_round(timed: Timed, opened: Opened) -> Finding:
    """Estimate the seconds of a round from the timed batch and the items."""
    round_s = opened.steps * timed.step_s + opened.scored * timed.score_s
    said = f"about {round_s:.0f} s: {opened.steps} batches and {opened.scored} items to score"
    first_s = round_s + timed.start_s + opened.seconds
    facts: dict[str, Fact] = {"study": opened.study, "round_s": round(round_s, 2), "first_round_s": round(first_s, 2)}
    return Finding("a round", True, f"{said}; the first about {first_s:.0f} s", facts=facts)


def send_report(folder: Path, findings: Sequence[Finding]) -> None:
    """Tell the coordinator: what passed, and the facts.

    Raises:
        WardRoundError: If it could not be told; the hospital is then not known as ready.
    """
    passed = all(finding.passed for finding in findings)
    told = {finding.name.replace(" ", "_"): {"passed": finding.passed, **finding.facts} for finding in findings}
    with GatewayClient(SiteFolder(folder), replace(read_route(folder), patience_s=_PATIENCE_S)) as client:
        client.doctor(passed=passed, findings=told)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print every finding, and below what did not pass, what to do."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("mark", "name"):
        table.add_column(column, no_wrap=True)
    table.add_column("said", overflow="fold")
    for finding in findings:
        mark = Text("ok", "green") if finding.passed else Text("FAILED", "bold red")
        said = Text(finding.said)
        if not finding.passed and finding.fix:
            said.append("\nto mend it: ", "bold").append(finding.fix)
        table.add_row(mark, Text(finding.name), said)
    console.print(table)


def _answers(health: Health, address: str, took_s: float) -> Finding:
    """Say who answered."""
    own = own_version()
    versions = f"WardRound {health.version} there, {own} here" if own != health.version else f"WardRound {own}"
    said = f"{address} answers in {took_s * 1000:.0f} ms: {versions}, protocol {health.protocol}"
    facts: dict[str, Fact] = {"version": health.version, "protocol": health.protocol, "answer_s": round(took_s, 4)}
    return Finding("gateway", True, said, facts=facts)


def _clocks(health: Health, now: float) -> Finding:
    """Say how far apart the clocks are."""
    apart = health.time - now
    said = f"{abs(apart):.1f} s apart from the coordinator's"
    if abs(apart) <= APART_S:
        return Finding("clock", True, said, facts={"apart_s": round(apart, 2)})
    way = "behind" if apart > 0 else "ahead of"
    fix = "set this machine's clock by NTP (timedatectl set-ntp true); if it is right, tell the operator"
    said = f"{said}: this machine is {way} it"
    return Finding("clock", False, said, fix, {"apart_s": round(apart, 2)})


def _unreadable(path: Path) -> str:
    """Return why data cannot be read; empty if it can."""
    if not path.is_absolute():
        return f"{path} depends on where a command is run: write the folder in full, from / on"
    try:
        if path.is_dir():
            return "" if any(path.iterdir()) else f"{path} is empty"
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path}: {error.strerror or type(error).__name__}"
    return ""


def _analyses(study: Path) -> bool:
    """Whether a study file analyses; one that cannot be read is told by who opens it."""
    try:
        return "analysis" in read_yaml(study).value
    except StudyError:
        return False


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
