"""`aixgo doctor`: what is wrong with this machine, or with a file, and the fix."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS

if TYPE_CHECKING:
    from aixgo_services.doctor.findings import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--control-plane", type=ADDRESS, multiple=True, help="Whom to ask for [default: as settings and file say]."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array of findings.")
@click.pass_obj
def doctor(verbose: bool, *, file: Path | None, control_plane: tuple[str, ...], as_json: bool) -> int:
    """Tell whether this machine has what aixgo needs and, with FILE, what that file needs: versions, extras, the file
    itself and what it names, models, keys (never their values), MCP servers, stores, ports, control planes, containers.

    Each line says what is wrong and the fix. Exit code 1 when there is a problem; warnings alone are 0.
    """
    import asyncio  # uvloop is not needed here, and may be what is broken

    from aixgo_services.doctor.examination import examine
    from aixgo_services.doctor.findings import Level
    from aixgo_services.logs import set_up_logs

    set_up_logs("DEBUG" if verbose else "ERROR", "text")
    findings = asyncio.run(examine(file, control_plane))
    _show(findings, as_json=as_json)
    return Exit.FAILED if any(each.level is Level.PROBLEM for each in findings) else Exit.OK


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        told = [{"check": f.check, "level": f.level, "what": f.what, "fix": f.fix} for f in findings]
        click.echo(json.dumps(told))
        return
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = click.style(f"{finding.level:<7}", fg=_COLOURS[finding.level])
        click.echo(f"{level}  {finding.check:<{width}}  {finding.what}")
        if finding.fix:
            click.echo(f"{'':<{width + 11}}fix: {finding.fix}")
