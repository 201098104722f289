"""Analyses at real hospitals on loopback: what the simulation finds, and nothing of a patient on the way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from components.errors import ServiceError
from components.governance.identity_files import SiteFolder
from components.journal import Entry, read
from flows import local_record
from flows.coordinator import read_coordinator
from flows.local_record import supervisor
from flows.servers import check_reachable
from tests.components.analytics.hospitals import write_hospitals
from tests.end_to_end.loopback import Loopback, children, paused, stopped
from tests.end_to_end.middlebox import Middlebox, make_authority, middlebox
from tests.end_to_end.records import serve_prefect
from tests.end_to_end.searching import find, find_in_folder
from tests.end_to_end.test_canary import behind
from tests.references.open_folder import open_folder

SITES = ("east", "north", "west")
QUESTIONS = 13
PATIENT, PERSON = "QZMRN00471177", "Qzdoe^Janeqz"
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Trial(Loopback):
    """A federation whose hospitals have tables of patients, and a simulation of the first analysis."""

    simulated: Path = Path()
    box: Middlebox | None = None

    def variant(self, name: str, **changes: Any) -> Path:
        """Write a study over the same tables under a name of its own."""
        found = yaml.safe_load(self.study.read_text())
        found["study"] = name
        analysis = changes.pop("analysis", {})
        path = self.study.with_name(f"{name}.yaml")
        path.write_text(yaml.safe_dump({**found, **changes, "analysis": {**found["analysis"], **analysis}}))
        for site in self.sites:
            self.change(
                site, lambda settings: settings["sources"].update({name: deepcopy(settings["sources"][self.name])})
            )
        return path

    def change(self, site: str, change: Any) -> None:
        """Change a hospital's settings, as its administrator does."""
        path = self.hospital(site) / "hospital.yaml"
        settings = yaml.safe_load(path.read_text())
        change(settings)
        path.write_text(yaml.safe_dump(settings))

    def asked(self, study: str, event: str, **match: Any) -> list[Entry]:
        """Return events of the journal of a study's analyses."""
        path = self.home / "analyses" / study / "journal.jsonl"
        entries = list(read(path)) if path.exists() else []
        return [one for one in entries if one.event == event and match.items() <= one.data.items()]

    def told(self, site: str, event: str, **match: Any) -> list[Entry]:
        """Return events of what a hospital remembers of the questions."""
        entries = read(self.hospital(site) / "analytics" / "questions.jsonl")
        return [one for one in entries if one.event == event and match.items() <= one.data.items()]

    def tables(self, home: Path, study: str) -> dict[str, str]:
        """Return the tables of a study's last analysis."""
        folder = max((home / "analyses" / study).glob("*/tables"), key=lambda path: path.stat().st_mtime)
        return {path.name: path.read_text() for path in sorted(folder.iterdir())}

    def status(self) -> str:
        """Return what the operator is shown, on one line."""
        return " ".join(self.run("status").stdout.split())

    def left_behind(self) -> list[Path]:
        """Return files that should not be there once nothing is asked any more."""
        places = [self.home / "federation" / "exchange", *(self.hospital(site) / "outgoing" for site in self.sites)]
        return [path for place in places for path in place.rglob("*") if path.is_file()]


def named(seed: int, frame: pd.DataFrame) -> pd.DataFrame:
    """Patients with names and numbers that no study asks for; nobody is old, but one at the first site."""
    frame = frame.assign(
        name=[f"{PERSON}{seed}{row}" for row in range(len(frame))], mrn=[f"{PATIENT}{row}" for row in range(len(frame))]
    )
    frame["age"] = frame["age"].clip(upper=80)
    frame.loc[frame.index[0], "age"] = 95 if seed == 0 else 80
    return frame


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    """The hospitals are behind a network that inspects TLS, so that all they say is seen in the clear."""
    with open_folder() as folder, ExitStack() as stack:
        tables = {site: (lambda frame, seed=seed: named(seed, frame)) for seed, site in enumerate(SITES)}
        study, home, simulated = write_hospitals(folder / "trial", **tables), folder / "home", folder / "simulated"
        found = Trial(study, "trial-trial", home, simulated=simulated)
        found.run("simulate", str(study), "--home", str(simulated))
        stack.callback(found.run, "down")
        found.run("up", str(study))
        found.run("down")
        port = int(SiteFolder(found.hospital("east")).read_federation().gateway.rpartition(":")[2])
        given, names = make_authority(folder / "network"), {f"gateway.ward.test:{port}": ("127.0.0.1", port)}
        trusts = home / "federation" / "secrets" / "ca.pem"
        box = stack.enter_context(middlebox(names, authority=folder / "network", trusts=trusts))
        for site in SITES:
            behind(box, found.hospital(site), given, port)
        found = replace(found, environment={"HTTPS_PROXY": box.url, "NO_PROXY": "127.0.0.1"}, box=box)
        found.run("up", str(study))
        found.run("analyse", str(study))
        yield found
        found.run("down")


def test_what_is_found_is_what_the_simulation_finds(trial: Trial) -> None:
    found = trial.tables(trial.home, trial.name)
    assert {"cox.csv", "survival.csv", "table1.csv", "meta_analysis.csv"} <= found.keys()
    assert found == trial.tables(trial.simulated, trial.name)


def test_every_question_and_answer_is_journalled_at_both_ends_and_nothing_is_left_on_the_way(trial: Trial) -> None:
    assert [one.data["number"] for one in trial.asked(trial.name, "question_asked")] == list(range(1, QUESTIONS + 1))
    for site in SITES:
        answers = trial.asked(trial.name, "answered", site=site)
        kept = {path.stem for path in (trial.home / "analyses" / trial.name).glob("*/answers/*.json")}
        assert {one.data["answer"] for one in answers} <= kept
        assert {one.data["status"] for one in answers} == {"done"}
        requests = [one.data["request"] for one in trial.told(site, "question", study=trial.name)]
        assert sorted(requests) == sorted(one.data["request"] for one in answers)
        assert len(trial.at(site, "reply_delivered", analysis=answers[0].data["analysis"])) == QUESTIONS
        assert len(trial.at(site, "analysis_allowed", study=trial.name)) == 1
    assert trial.left_behind() == []


def test_prefect_shows_the_analysis_and_every_question_in_its_hospitals_pool(trial: Trial) -> None:
    with serve_prefect(trial.home) as prefect:
        runs = trial.until(
            lambda: (
                (found := {run["name"]: run for run in prefect.find("flow_runs")})
                and all(f"pooled effect: step 4 at {site}" in found for site in SITES)
                and found
            )
        )
        pools = {pool["name"]: pool["type"] for pool in prefect.find("work_pools")}
    (analysis,) = trial.asked(trial.name, "analysis_started")
    assert runs[analysis.data["analysis"]]["state"]["type"] == "COMPLETED"
    for site in SITES:
        assert pools[site] == "hospital"
        run = runs[f"summary at {site}"]
        assert (run["state"]["type"], run["work_pool_name"]) == ("COMPLETED", site)
        assert run["parent_task_run_id"]


def test_it_is_one_run_in_mlflow_with_tables_figures_and_the_report(trial: Trial) -> None:
    served = local_record.addresses(trial.home)
    assert served is not None
    client = MlflowClient(served.mlflow, served.mlflow)
    experiment = client.get_experiment_by_name(trial.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    kept = {item.path for place in ("", "tables", "figures") for item in client.list_artifacts(run.info.run_id, place)}
    assert {"report.html", "tables/cox.csv", "figures/survival.png"} <= kept


def test_an_analysis_goes_on_where_it_was_stopped_and_where_its_driver_was_killed(trial: Trial) -> None:
    study = trial.variant("killed")
    for number, (end, code) in enumerate([(signal.SIGINT, 130), (signal.SIGKILL, -9)], 1):
        with trial.running("analyse", str(study)) as driver:
            trial.until(lambda least=3 * number: len(trial.asked("killed", "question_asked")) > least, every_s=0.01)
            with stopped(trial.worker("west")):
                asked = trial.until(lambda: trial.asked("killed", "question_asked"))[-1].data["number"]
                for site in ("east", "north"):
                    trial.until(
                        lambda site=site, asked=asked: trial.asked("killed", "answered", number=asked, site=site)
                    )
                said = trial.status()
                driver.send_signal(end)
                assert driver.wait(120) == code
        assert f"killed-{said.partition('killed-')[2].partition(':')[0]}: question {asked}, " in said
        assert "waiting for west" in said
        assert "nobody drives it" in trial.status()
    trial.run("analyse", str(study))
    assert trial.tables(trial.home, "killed") == trial.tables(trial.simulated, trial.name)
    assert (len(trial.asked("killed", "analysis_started")), len(trial.asked("killed", "analysis_resumed"))) == (1, 2)
    for site in SITES:
        assert len(trial.told(site, "question", study="killed")) == QUESTIONS  # of the budget, each once
        assert len(trial.asked("killed", "answered", site=site)) == QUESTIONS  # what was answered was not asked again
    assert trial.left_behind() == []


@pytest.mark.long
def test_an_analysis_goes_on_and_ends_while_prefect_is_away(trial: Trial) -> None:
    study, up, prefect = trial.variant("unshown"), supervisor(trial.home), trial.mark("Prefect")
    assert up is not None
    assert prefect is not None
    with trial.running("analyse", str(study)) as driver:
        trial.until(lambda: len(trial.asked("unshown", "question_asked")) > 2, every_s=0.01)
        with paused(up.pid):  # nobody starts it again
            with stopped(trial.worker("west")):
                asked = len(trial.asked("unshown", "question_asked"))
                os.kill(prefect.pid, signal.SIGKILL)
            assert driver.wait(300) == 0
        assert driver.stdout is not None
        said = driver.stdout.read()
    assert asked < QUESTIONS
    assert "Prefect does not show all of unshown-" in said
    assert trial.tables(trial.home, "unshown") == trial.tables(trial.simulated, trial.name)
    trial.until(lambda: answers(read_coordinator(trial.home / "federation").prefect_url))


@pytest.mark.parametrize("driven", [True, False])
def test_a_cancelled_analysis_ends_at_once_and_is_not_taken_up_again(trial: Trial, driven: bool) -> None:
    name = "unwanted" if driven else "orphaned"
    study = trial.variant(name)
    with trial.running("analyse", str(study)) as driver, stopped(trial.worker("west")):
        trial.until(lambda: trial.asked(name, "answered", site="east"))
        if not driven:
            driver.kill()
            driver.wait()
        said = trial.run("cancel", str(study) if driven else name, "--reason", "wrong arm").stdout
        assert ("which nobody was driving" in said) is not driven
        if driven:
            assert driver.wait(60) == 130
            assert driver.stdout is not None
            assert "was cancelled: wrong arm" in driver.stdout.read()
    (cancelled,) = trial.asked(name, "analysis_cancelled")
    assert cancelled.data["why"] == "wrong arm"
    assert f"no analysis of {name} is under way" in trial.run("cancel", name, check=False).stderr
    assert name not in trial.status()
    trial.until(lambda: trial.left_behind() == [])
    trial.run("analyse", str(study))
    assert len(trial.asked(name, "analysis_started")) == 2
    assert trial.tables(trial.home, name) == trial.tables(trial.simulated, trial.name)


@pytest.mark.long
def test_a_deployed_analysis_is_made_when_its_time_has_come(trial: Trial) -> None:
    study = trial.variant("monthly")
    assert "an analysis has no rounds" in trial.run("deploy", str(study), "--rounds", "2", check=False).stderr
    deployed = trial.run("deploy", str(study), "--cron", "* * * * *").stdout
    assert "monthly is analysed at * * * * * (UTC)" in deployed
    trial.until(lambda: trial.asked("monthly", "analysis_finished"))
    assert "off the schedule" in trial.run("deploy", str(study), "--remove").stdout
    assert trial.tables(trial.home, "monthly") == trial.tables(trial.simulated, trial.name)


def test_a_hospital_that_has_not_accepted_it_refuses_and_answers_once_it_has(trial: Trial) -> None:
    study = trial.variant("unread")
    trial.change("north", lambda settings: settings["policy"].update(analyses="accepted"))
    refused = trial.run("analyse", str(study), check=False)
    assert refused.returncode == 3
    digest = trial.asked("unread", "analysis_started")[0].data["study_digest"]
    assert refused.stderr.splitlines() == [
        f"error: north: its administrator has not accepted this version of unread, {digest[:12]}: wardround hospital "
        "accept"
    ]
    assert trial.told("north", "question", study="unread") == []
    accepted = trial.run(
        "hospital", "accept", str(study), "--reason", "vote 12", "--folder", str(trial.hospital("north"))
    )
    assert f"accepted unread, {digest[:12]}" in accepted.stdout
    trial.run("analyse", str(study))
    assert trial.at("north", "analysis_allowed", study="unread", reason="vote 12")
    assert trial.tables(trial.home, "unread") == trial.tables(trial.simulated, trial.name)
    trial.change("north", lambda settings: settings["policy"].update(analyses="any"))


def test_a_hospitals_own_policy_is_stricter_than_the_study_and_the_report_says_so(trial: Trial) -> None:
    study = trial.variant("strict")
    trial.change("west", lambda settings: settings["disclosure"].update(smallest_cell=60))
    said = trial.run("analyse", str(study)).stdout
    trial.change("west", lambda settings: settings["disclosure"].update(smallest_cell=5))
    assert "exits: without west: fewer than 60 patients of an arm are" in said
    assert "Note: west lets less leave than the study allows, by its own policy: smallest_cell: 60." in said
    study = trial.variant("mild", analysis={"disclosure": {"smallest_cell": 1}})
    said = trial.run("analyse", str(study)).stdout
    for site in SITES:
        assert f"{site} lets less leave than the study allows, by its own policy: smallest_cell: 5" in said


def test_a_differencing_attempt_is_refused_at_the_hospital_and_told_in_one_line(trial: Trial) -> None:
    study = trial.variant("attack", analysis={"cohort": [{"column": "age", "below": 90.0}]})
    said = trial.run("analyse", str(study)).stdout
    lines = [line for line in said.splitlines() if "without east" in line]
    assert len(lines) == 1
    assert lines[0].endswith(
        "without east: the cohort differs from one that was told of before by fewer than 5 patients; the difference of "
        "the answers would be theirs"
    )
    assert "without north" not in said
    assert {one.data["status"] for one in trial.told("east", "not_answered")} == {"withheld"}


def test_a_site_that_is_away_is_left_out_of_all_of_it_where_the_study_says_so(trial: Trial) -> None:
    study = trial.variant("away", attendance={"quorum": 2, "deadline_s": 4.0})
    with trial.running("analyse", str(study)) as driver:
        trial.until(lambda: len(trial.asked("away", "question_asked")) > 4, every_s=0.01)
        with stopped(trial.worker("west")):
            assert driver.wait(120) == 0
        assert driver.stdout is not None
        said = driver.stdout.read()
    (left,) = trial.asked("away", "site_left")
    assert (left.data["site"], left.data["reason"]) == ("west", "no answer within 4 s")
    assert "west took no part (2 of 3 sites did): all results are of the others alone." in said
    cox = trial.tables(trial.home, "away")["cox.csv"]
    assert cox != trial.tables(trial.simulated, trial.name)["cox.csv"]
    events = [one.data["sites"] for one in trial.asked("away", "analysis_started")]
    assert events == [list(SITES)]
    trial.until(lambda: trial.left_behind() == [])


def test_no_patient_is_in_any_store_or_log_outside_the_hospitals(trial: Trial) -> None:
    """Of tables as they should be, and of one without a first line of names, whose first patient stands there."""
    table = trial.study.parent / "west" / "patients.csv"
    whole = table.read_text()
    table.write_text(whole.partition("\n")[2])
    study = trial.variant("headless")
    failed = trial.run("analyse", str(study), check=False)
    table.write_text(whole)
    assert failed.returncode == 3
    assert "west: the table has no column time, died, arm, age, stage" in failed.stderr.replace("\n", " ")
    hospitals = trial.home / "federation" / "hospitals"
    assert find_in_folder(table.parent, [PATIENT, PERSON]) != {}  # the search finds what is there
    assert find_in_folder(trial.home, [PATIENT, PERSON, "Qzdoe"], without=[hospitals]) == {}
    assert find((failed.stdout + failed.stderr).encode(), [PATIENT, PERSON, "Qzdoe"]) == set()


def test_nothing_of_a_patient_nor_of_an_answer_was_on_the_wire(trial: Trial) -> None:
    assert trial.box is not None
    wire = trial.box.inspected
    assert find(wire, ["/v1/work", "/analyse/", "wardround-signature"]) == {
        "/v1/work",
        "/analyse/",
        "wardround-signature",
    }
    assert find(wire, [PATIENT, PERSON, "Qzdoe", str(trial.home), "Traceback"]) == set()
    assert find(wire, ["log_likelihood", "request_digest", "censored"]) == set()  # answers are sealed


def test_the_process_that_answers_has_no_torch(trial: Trial) -> None:
    trial.run("analyse", str(trial.study), "--fresh")
    for site in SITES:
        (answering,) = [one for one in children(trial.worker(site)) if "site_process" in command(one)]
        assert "torch" not in subprocess.run(["cat", f"/proc/{answering}/maps"], capture_output=True, text=True).stdout


def answers(prefect: str) -> bool:
    try:
        check_reachable(prefect, name="Prefect")
    except ServiceError:
        return False
    return True


def command(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text()
