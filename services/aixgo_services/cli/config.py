"""`aixgo config`: check files, print the schema."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def config() -> None:
    """Check YAML files, print their schema."""


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
    from aixgo.launch import make_models

    variables = read_environment(file.parent)
    Settings.read(variables)
    found = load(file, variables)
    build_agents(found, make_models(found, variables))
    agents = [agent.name for agent in found.agents]
    orchestrations = [spec.name for spec in found.patterns]
    if as_json:
        click.echo(json.dumps({"file": str(file), "agents": agents, "orchestrations": orchestrations}))
    else:
        click.echo(f"{file}: ok; agents: {', '.join(agents)}; orchestrations: {', '.join(orchestrations) or 'none'}")


@config.command()
def schema() -> None:
    """Print the JSON schema of the YAML file, for editors."""
    from aixgo.config.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
