"""A hospital that sleeps past its deadline, or past the end of its credential, is revoked, or has another time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from components.exchange.keys import TlsKey
from components.gateway.signed_requests import WINDOW_S
from components.governance.certificates import Authority, issue_credential, make_csr
from components.governance.identity_files import SiteFolder
from flows.local_record import supervisor
from tests.end_to_end.faults.trained import Trained, federation
from tests.end_to_end.faults.wires import hear_of, relayed
from tests.end_to_end.loopback import children, paused, stopped
from tests.references.open_folder import open_folder

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]
SITE = "site-2"
OFF_S = 600
FAR_OFF_S = int(2 * WINDOW_S)


def test_a_hospital_that_stands_still_past_its_deadline_is_waited_for(trained: Trained) -> None:
    with trained.edition(rounds={"max": 3, "quorum": 3, "deadline_s": 10}), trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        with stopped(trained.ward.worker(SITE)):
            row.notice(lambda: [e for e in row.events("waiting") if SITE in e.data["reason"]])
            row.again()
        row.go_on()
        row.end()
    row.record("a hospital's processes stopped (SIGSTOP) past the deadline, then going on", "asked")


@pytest.mark.parametrize("how", ["killed", "standing still"])
def test_a_hospital_that_takes_its_work_and_dies_is_noticed_in_seconds(trained: Trained, how: str) -> None:
    """Before it begins, with nobody to start it again; the coordinator says so long before it would do without it."""
    ward, up = trained.ward, supervisor(trained.ward.home)
    assert up is not None
    with trained.disturbed() as row, ExitStack() as stack:
        row.reach("asked")
        accepted = partial(ward.at, SITE, "plan_accepted", training=row.training)
        ward.until(lambda: accepted()[-1].data["plan"]["round"] == 2, every_s=0.005)
        worker = ward.worker(SITE)
        stack.enter_context(stopped(worker))
        assert not row.events("update_received", round=2, site=SITE), "this machine was too busy to stop it in time"
        row.strike()
        if how == "killed":
            stack.enter_context(paused(up.pid))
            for process in (worker, *children(worker)):
                os.kill(process, signal.SIGKILL)
        row.notice(lambda: row.events("claim_lapsed", round=2, site=SITE))
        said = ward.run("status").stdout
        row.again()
        stack.close()
        row.go_on()
        row.end()
    assert f"{SITE} (took its work up and fell silent)" in " ".join(said.split())
    row.record(f"a hospital's worker {how} between taking its work and beginning it", "asked")


def test_a_hospital_that_slept_past_its_credential_is_told_and_comes_back_with_a_token(trained: Trained) -> None:
    ward, folder = trained.ward, SiteFolder(trained.ward.hospital(SITE))
    with trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        with stopped(ward.worker(SITE)):
            expire(trained, folder)
        row.notice(lambda: "this hospital's credential expired on" in (folder.state / "worker.log").read_text())
        row.again()
        token = ward.run("coordinator", "invite", SITE).stdout.strip()
        ward.run("hospital", "enroll", "--token", token, "--folder", str(folder.state))
        row.go_on()
        row.end()
    row.record("a hospital's credential expired; a new token", "asked")


def test_a_hospital_that_is_revoked_is_left_out_and_the_training_goes_on(trained: Trained) -> None:
    """Of its study's edition that needs two of three; the weights until then are those of all three."""
    ward = trained.ward
    with trained.edition(rounds={"max": 3, "quorum": 2}), trained.disturbed() as row:
        row.reach("asked")
        row.strike()
        ward.run("coordinator", "revoke", SITE)
        row.notice(lambda: row.events("site_left", site=SITE))
        row.go_on()
        before = {number: digest for number, digest in trained.undisturbed.items() if number < 2}
        row.end(like=before)
    (left,) = row.events("site_left")
    assert left.data["reason"] == "it was revoked"
    last = row.events("aggregated", round=3)[0]
    assert last.data["took_part"] == ["site-1", "site-3"]
    log = (ward.hospital(SITE) / "worker.log").read_text()
    assert "it was revoked, or has left; ask the federation's operator for a new token" in log
    row.record("a hospital's credential revoked", "asked")
    token = ward.run("coordinator", "invite", SITE).stdout.strip()
    ward.run("hospital", "enroll", "--token", token, "--folder", str(ward.hospital(SITE)))
    hear_of(trained, SITE)


def expire(trained: Trained, folder: SiteFolder) -> None:
    """Give a hospital a credential by the federation's own authority that has ended."""
    authority = Authority.load(trained.ward.home / "federation" / "secrets")
    csr, long_ago = make_csr(TlsKey.load(folder.tls_key), SITE), datetime.now(UTC) - timedelta(days=30)
    folder.write_credential(issue_credential(authority, csr, site=SITE, at=long_ago).pem)


@contextmanager
def another_time(offset_s: int) -> Iterator[Trained]:
    """A federation in which one hospital's clock is off: a library before the C library's says so to its processes."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("another time needs a C compiler")
    source = Path(__file__).with_name("clock.c")
    with open_folder() as folder:
        library = folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        environment = {"LD_PRELOAD": str(library), "CLOCK_OF": f"hospitals/{SITE}", "CLOCK_OFF_S": str(offset_s)}
        with federation(environment) as made:
            yield made


@pytest.mark.parametrize("offset_s", [OFF_S, -OFF_S], ids=["ahead", "behind"])
def test_a_clock_that_is_off_changes_nothing(trained: Trained, offset_s: int) -> None:
    """Also the first training was with it: compared with a federation whose clocks are right."""
    with another_time(offset_s) as other:
        assert_its_time_is_off(other, offset_s)
        assert other.undisturbed == trained.undisturbed
        with other.disturbed() as row:
            row.reach("asked")
            row.strike()
            row.notice(lambda: row.events("update_received", round=2, site=SITE))
            row.go_on()
            row.end(like=trained.undisturbed)
    row.record(f"a hospital's clock {OFF_S // 60} minutes {'ahead' if offset_s > 0 else 'behind'}", "always")


def test_where_requests_are_signed_a_clock_that_is_far_off_is_named() -> None:
    with another_time(FAR_OFF_S) as other, relayed(other, SITE, lambda _: "pass", let_in=False):
        log = other.ward.hospital(SITE) / "worker.log"
        said = re.compile(r"the clocks of gateway and hospital are (\d+) s apart: set this machine's clock \(NTP\)")
        (apart,) = other.ward.until(lambda: said.findall(log.read_text())[:1])
        assert abs(int(apart) - FAR_OFF_S) < 30


def assert_its_time_is_off(other: Trained, offset_s: int) -> None:
    """What it wrote into its journal has its own time."""
    theirs = datetime.fromisoformat(other.ward.at(SITE, "answer_delivered")[-1].time)
    ours = datetime.fromisoformat(other.ward.events("training_finished")[-1].time)
    assert abs((theirs - ours).total_seconds() - offset_s) < 120
