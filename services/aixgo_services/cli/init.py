"""`aixgo init`: a project to begin with."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@click.option("--force", is_flag=True, help="Write into a folder that is not empty; files of the same names are lost.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def init(directory: Path, force: bool, as_json: bool) -> None:
    """Write a project into DIRECTORY [default: here]: agents in YAML, one in Python, its test, an image, a Compose
    file. It runs at once, without a key.
    """
    from aixgo_services.project.scaffold import create

    written = create(directory, force=force)
    if as_json:
        click.echo(json.dumps({"directory": str(directory), "files": [path.name for path in written]}))
        return
    for path in written:
        click.echo(f"  {path}")
    click.echo("next:")
    if directory.resolve() != Path.cwd():
        click.echo(f"  cd {directory}")
    click.echo('  aixgo run aixgo.yaml -i "The shop is down!"')
