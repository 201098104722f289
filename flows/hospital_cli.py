"""The commands of a hospital's administrator: ``wardround hospital``."""

from __future__ import annotations

import logging
import os
import pwd
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from components.errors import RefusedError, WardRoundError
from components.files import storage_errors
from flows.options import StudyFile, examples

# As in `flows.cli`: the commands import what they need themselves, so that help and enrolment answer at once.

DEFAULT = Path("hospital")
TEMPLATE = """\
# Where this hospital's data is, and what may be done with it. Read at every request: no restart is needed.
data:
  "*": /data                # folder of the items, for any study; or one line for each:
  # pneumonia: /data/films  # a study's name and its folder
policy:
  studies: ["*"]            # names of the studies that may be trained here; "*" is every one
  networks: [CNN, DenseNet, ResNet, EfficientNet, ViT, LogisticRegression, MLP, BoostedTrees]
  max_epochs: 50            # most local epochs in a round
  max_steps: 100000         # most optimiser steps in a round, where a study counts steps
  min_sites: 2              # fewest hospitals in a round or an analysis: a sum over fewer says too much about each
  analyses: accepted        # studies that analyse need  wardround hospital accept STUDY ; "any" needs none
disclosure:                 # of analyses: what a study allows beyond this does not leave
  smallest_cell: 5          # least number of patients behind any number
  rounding: 1               # counts leave as multiples of this
  queries: 200              # questions that are answered about one cohort, for good
  risk_sets: refuse         # or grouped: regressions with one baseline hazard for all hospitals
"""

hospital_app = typer.Typer(help="Enroll, examine and run a hospital of a federation.", no_args_is_help=True)

Folder = Annotated[
    Path,
    typer.Option("--folder", metavar="DIR", envvar="WARDROUND_HOSPITAL", help="The hospital's folder."),
]


@hospital_app.command(
    epilog=examples(
        "wardround hospital enroll --token wr1.eyJh.3f2a.Zk9x",
        "wardround hospital enroll --token TOKEN --ca proxy.pem --signed",
    )
)
def enroll(
    token: Annotated[
        str,
        typer.Option(metavar="TOKEN", envvar="WARDROUND_TOKEN", help="What the operator gave.", show_default=False),
    ],
    folder: Folder = DEFAULT,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Authority (PEM) of a proxy of this network that inspects TLS."),
    ] = None,
    signed: Annotated[
        bool,
        typer.Option("--signed", help="Sign requests: client certificates do not pass this network's proxy."),
    ] = False,
) -> None:
    """Join a federation with the operator's token.

    The keys are made here and stay here; the token is usable once. Nothing listens: all goes out by HTTPS.
    """
    from components.gateway.client import enrol
    from components.governance.identity_files import SiteFolder
    from flows.hospital_route import given_route, keep_route

    route = given_route(ca, signed=signed)
    _require_same(token, folder)
    credential = enrol(token, SiteFolder(folder), route)
    keep_route(folder, route)
    typer.echo(
        f"{credential.site} is enrolled in the federation {credential.federation}; its credential is good until "
        f"{credential.not_after:%Y-%m-%d} and is renewed by itself while the hospital runs."
    )
    settings = folder / "hospital.yaml"
    if _write_template(settings):
        typer.echo(f"Now say in {settings} where the data is, then run")
    else:
        typer.echo("Now run")
    option = "" if folder == DEFAULT else f" --folder {shlex.quote(str(folder))}"
    typer.echo(f"  wardround hospital doctor{option}\n  wardround hospital start{option}")


@hospital_app.command(epilog=examples("wardround hospital start", "wardround hospital start --folder ward"))
def start(folder: Folder = DEFAULT) -> None:
    """Work for the federation until Ctrl-C or SIGTERM."""
    from components.governance.hospital_settings import read_settings

    _require_enrolled(folder)
    read_settings(folder)
    _require_credential(folder)
    from flows.hospital_process import run_hospital  # Prefect

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    raise typer.Exit(run_hospital(folder))


@hospital_app.command(epilog=examples("wardround hospital doctor", "wardround hospital doctor --study pneumonia.yaml"))
def doctor(
    folder: Folder = DEFAULT,
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY", help="Look at this study's data, and estimate a round.")
    ] = None,
) -> None:
    """Examine this hospital, print how to mend what is wrong, and report to the coordinator.

    Passed, the coordinator knows the hospital as ready. The report holds counts, versions and seconds.
    """
    from rich.console import Console

    from flows.doctor import examine, print_findings, send_report

    _require_enrolled(folder)
    console = Console(highlight=False)
    with console.status("examining this hospital ..."):
        findings = examine(folder, study)
    print_findings(console, findings)
    failed = sum(not finding.passed for finding in findings)
    try:
        send_report(folder, findings)
    except WardRoundError as error:
        if not failed:
            raise
        console.print(f"the report was not sent: {error}", markup=False, soft_wrap=True)
    if failed:
        console.print(f"[red]{failed} of {len(findings)} checks failed[/red]: mend them and run the doctor again")
        raise typer.Exit(1)
    console.print(f"[green]all {len(findings)} checks passed[/green]: the coordinator knows this hospital as ready")
    if study is None:
        console.print("the data was not opened: give a study file with --study to see what is usable for it")


@hospital_app.command(epilog=examples("wardround hospital settings", "wardround hospital settings > s.yaml"))
def settings(folder: Folder = DEFAULT) -> None:
    """Print the settings as they count, defaults included."""
    import yaml

    from components.governance.hospital_settings import read_settings

    typer.echo(yaml.safe_dump(read_settings(folder).model_dump(mode="json"), sort_keys=False), nl=False)


@hospital_app.command(
    "accept-older", epilog=examples('wardround hospital accept-older chest-20261123-000100-4e9b --reason "restored"')
)
def accept_older(
    training: Annotated[str, typer.Argument(metavar="TRAINING", help="Its identifier, as the operator has it.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for this hospital's journal.", show_default=False)],
    folder: Folder = DEFAULT,
) -> None:
    """Accept once that a training goes back to a round this hospital has seen.

    A coordinator that was restored from a backup asks for rounds that are done already. This hospital refuses them
    until its administrator accepts it; that, and who did, is in its journal.
    """
    from components.governance.acceptances import Acceptance, Acceptances

    _require_enrolled(folder)
    given = datetime.now(UTC).isoformat(timespec="seconds")
    Acceptances(folder).give(training, Acceptance(by=_own_name(), given=given, reason=reason))
    typer.echo(f"the next plan of {training} may be older than the last one; the journal will say so")


@hospital_app.command(
    epilog=examples('wardround hospital accept trial.yaml --reason "vote 12/2026 of the ethics board"')
)
def accept(
    study: StudyFile,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for this hospital's journal.")] = "",
    take_back: Annotated[bool, typer.Option("--take-back", help="Answer its questions no more.")] = False,
    folder: Folder = DEFAULT,
) -> None:
    """Accept a study that analyses: this hospital answers no question of a version that it has not accepted.

    Read the file before: it says which columns are looked at and what leaves. It must be the very one that the operator
    has, which its digest tells. What is accepted counts from the next question on, and so does what is taken back.
    """
    from components.governance.acceptances import Acceptance, Acceptances
    from components.governance.hospital_settings import read_settings
    from components.study_file import load_analysis

    _require_enrolled(folder)
    loaded, acceptances = load_analysis(study), Acceptances(folder)
    if take_back:
        gone = acceptances.take_back_analysis(loaded.study, loaded.digest)
        typer.echo(
            f"{loaded.study}, {loaded.digest[:12]}, {'is not accepted any more' if gone else 'was not accepted'}"
        )
        return
    given = datetime.now(UTC).isoformat(timespec="seconds")
    acceptances.give_analysis(loaded.study, loaded.digest, Acceptance(by=_own_name(), given=given, reason=reason))
    analysis = loaded.analysis
    policy = analysis.disclosure.stricter(read_settings(folder).disclosure)
    columns = [analysis.time.column, analysis.event.column, analysis.arm.column]
    columns += [covariate.name for covariate in analysis.covariates]
    typer.echo(
        f"accepted {loaded.study}, {loaded.digest[:12]}: {', '.join(analysis.methods)}, over the columns "
        f"{', '.join(columns)} of {analysis.table.name}; no number from fewer than {policy.smallest_cell} patients, "
        f"{policy.queries} questions at the most"
    )


def _own_name() -> str:
    """Return who runs this, as the machine knows them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container nobody has named
        return f"user {os.getuid()}"


def _require_enrolled(folder: Path) -> None:
    """Refuse a folder in which nobody enrolled."""
    if not (folder / "federation.json").exists():
        raise WardRoundError(
            f"no hospital is enrolled in {folder}: run  wardround hospital enroll --token TOKEN, or name its folder "
            "with --folder or WARDROUND_HOSPITAL"
        )


def _require_same(token: str, folder: Path) -> None:
    """Refuse a token that would turn an enrolled hospital's folder into another's."""
    from components.gateway.tokens import read_token
    from components.governance.identity_files import SiteFolder

    invitation = read_token(token).invitation
    if not (folder / "federation.json").exists():
        return
    pinned = SiteFolder(folder).read_federation()
    if (pinned.federation, pinned.site) != (invitation.federation, invitation.site):
        raise RefusedError(
            f"{folder} is that of {pinned.site} in the federation {pinned.federation}, and this token is for "
            f"{invitation.site} in {invitation.federation}: give another folder with --folder"
        )


def _require_credential(folder: Path) -> None:
    """Refuse to start with a credential that opens no door any more."""
    from components.governance.credentials import verify_chain
    from components.governance.identity_files import SiteFolder

    identity = SiteFolder(folder)
    verify_chain(identity.read_credential().pem, identity.read_federation().ca.encode(), datetime.now(UTC))


def _write_template(path: Path) -> bool:
    """Write settings to be filled in, unless there are some; return whether it was done."""
    with storage_errors("write", path):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(TEMPLATE)
        except FileExistsError:
            return False
        path.chmod(0o600)  # what may be done with the data is the administrator's to say
    return True
