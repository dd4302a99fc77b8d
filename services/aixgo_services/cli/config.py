"""`aixgo config`: check files, rewrite those of v1, print the schema."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def config() -> None:
    """Check and migrate YAML files, print their schema."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def check(file: Path, as_json: bool) -> None:
    """Check FILE: its syntax, its keys, its names, its roles. Nothing is started.

    All problems are told at once, as `file:line: what is wrong; fix`.
    """
    from aixgo.config.build import build_agents
    from aixgo.config.load import load
    from aixgo.config.settings import Settings, read_environment
    from aixgo.launch import make_resources

    variables = read_environment(file.parent)
    Settings.read(variables)
    found = load(file, variables)
    build_agents(found, make_resources(found, variables))
    agents = [agent.name for agent in found.agents]
    orchestrations = [spec.name for spec in found.patterns]
    if as_json:
        click.echo(json.dumps({"file": str(file), "agents": agents, "orchestrations": orchestrations}))
    else:
        click.echo(f"{file}: ok; agents: {', '.join(agents)}; orchestrations: {', '.join(orchestrations) or 'none'}")


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A new file to write [default: stdout].")
@click.option("--json", "as_json", is_flag=True, help="The text and what needs a hand, as JSON.")
def migrate(file: Path, output: Path | None, as_json: bool) -> None:
    """Write FILE, which is of aixgo v1, as v2. FILE itself is not changed.

    What needs a hand stands in comments (`# By hand: ...`) where it belongs, and on stderr.
    """
    from aixgo.config.version1 import migrate as migrated

    new = migrated(file)
    if output is not None:
        _write_new(output, new.text)
    if as_json:
        told = {"file": str(file), "output": output and str(output), "text": new.text, "by_hand": list(new.notes)}
        click.echo(json.dumps(told))
        return
    if output is None:
        click.echo(new.text, nl=False)
    for note in new.notes:
        click.echo(f"by hand: {note}", err=True)


def _write_new(path: Path, text: str) -> None:
    from aixgo.errors import ConfigError

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: there is such a file; name one that is new") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


@config.command()
def schema() -> None:
    """Print the JSON schema of the YAML file, for editors."""
    from aixgo.config.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
