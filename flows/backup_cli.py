"""The commands that keep a coordinator: ``wardround coordinator backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import home as homes
from flows.options import FederationFolder, Home, examples

Backups = Annotated[Path, typer.Argument(metavar="BACKUPS", help="The folder of backups.", show_default=False)]


def add_to(coordinator: typer.Typer) -> None:
    """Add the commands to ``wardround coordinator``."""
    coordinator.command(epilog=examples("wardround coordinator backup /backups/wardround --keep 30"))(backup)
    coordinator.command(epilog=examples("wardround coordinator restore /backups/wardround --home /srv/new"))(restore)


def backup(
    into: Backups,
    keep: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Keep the newest N backups, this one included (default: all)."),
    ] = None,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Back up everything the coordinator needs to go on elsewhere, also while it works.

    Journals, weights, keys and passwords, the databases of gateway, MLflow and Prefect, MLflow's files. What an
    earlier backup in the folder has is not stored again. Keep the folder as you keep keys.
    """
    from flows.backup import back_up

    recorded = homes.home_folder(home)
    made = back_up(recorded, folder or recorded / "federation", into, keep=keep)
    found = made.backup
    size = sum(file.bytes for file in found.files)
    typer.echo(
        f"backup {found.made} of {found.federation}: {len(found.files)} files, {_mb(size)}, {_mb(made.new_bytes)} new"
    )
    for study, head in found.journals.items():
        typer.echo(f"  {study}: journal to line {head.lines} ({head.hash[:12]})")
    for what in found.left_out:
        typer.echo(f"  not in it: {what}")


def restore(
    source: Backups,
    made: Annotated[str, typer.Option("--made", metavar="NAME", help="Which backup (default: the newest).")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only read all of it and compare the digests.")] = False,
    folder: FederationFolder = None,
    home: Home = None,
) -> None:
    """Restore a backup into an empty home, whole or not at all. Nothing is overwritten."""
    from components.backups import BackupFolder
    from flows.restore import restore as restore_backup

    if check:
        found = BackupFolder(source).read(made)
        BackupFolder(source).check(found)
        typer.echo(f"backup {found.made} of {found.federation} is whole: {len(found.files)} files")
        return
    recorded = homes.home_folder(home)
    found = restore_backup(source, recorded, folder or recorded / "federation", made=made)
    typer.echo(f"restored {found.federation} of {found.made} into {recorded}")
    for line in (
        "Invitations of before are void. Hospitals that were revoked since: wardround coordinator revoke NAME",
        "A training that went on since is refused by the hospitals that saw it: wardround train STUDY --fresh",
        *(f"It did not have {what}" for what in found.left_out),
    ):
        typer.echo(f"  {line}")


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
