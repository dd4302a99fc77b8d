"""`aixgo index`: documents into the vector store that a retriever searches."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from aixgo.agents.retriever import RetrieverAgent
    from aixgo.retrieval.index import Progress, Report
    from aixgo.usage import Usage

_CONFIGS = (".yaml", ".yml")


@click.command()
@click.argument("place", metavar="PLACE", type=click.Path(path_type=Path))
@click.option("--agent", help="The retriever of the YAML file PLACE [default: its only one].")
@click.option("--store", help="A folder, or the URL of a Qdrant server (key: QDRANT_API_KEY).")
@click.option("--collection", help="The collection's name in the store [default: documents].")
@click.option("--embeddings", help="vendor/model of the embeddings [default: local/minilm].")
@click.option("--chunk-size", type=int, help="Characters of a chunk [default: 800].")
@click.option("--overlap", type=int, help="Characters that two chunks share [default: 100].")
@click.option("--fresh", is_flag=True, help="Remove the collection first, with all it has.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@click.pass_obj
def index(verbose: bool, *, place: Path, agent: str | None, fresh: bool, as_json: bool, **options: Any) -> None:
    """Index documents, so that a retriever finds them.

    PLACE is a YAML file, whose retriever says what to index and where to; or a folder or a file of documents, which
    then needs --store. What has not changed is not embedded again, and what is gone is removed; interrupted, it goes on
    where it was.
    """
    from aixgo.launch import run_async

    from aixgo_services.logs import set_up_logs

    set_up_logs("DEBUG" if verbose else "ERROR", "text")
    told = {key: value for key, value in options.items() if value is not None}
    if place.suffix.lower() in _CONFIGS:
        _refuse_options(told)
        run_async(_indexed_by_config(place, agent, fresh=fresh, as_json=as_json))
    else:
        run_async(_indexed(place, agent, told, fresh=fresh, as_json=as_json))


def _refuse_options(options: Mapping[str, Any]) -> None:
    from aixgo.errors import InvalidInput

    if options:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise InvalidInput(f"{names}: with a YAML file its retriever says this; change it there")


async def _indexed_by_config(file: Path, agent: str | None, *, fresh: bool, as_json: bool) -> None:
    from aixgo.agents.retriever import RetrieverAgent
    from aixgo.config.load import load
    from aixgo.config.settings import read_environment
    from aixgo.errors import ConfigError
    from aixgo.launch import make_resources
    from aixgo.names import nearest

    variables = read_environment(file.parent)
    config = load(file, variables)
    specs = {spec.name: spec for spec in config.agents if spec.role == RetrieverAgent.role}
    name = agent or (next(iter(specs)) if len(specs) == 1 else "")
    if name not in specs:
        wrong = f"{name!r} is no retriever" if name else "name a retriever by --agent"
        raise ConfigError(f"{file}: {wrong}; {nearest(name, specs)}")
    resources = make_resources(config, variables)
    try:
        retriever = RetrieverAgent(specs[name], models=resources.models, folder=config.folder)
        await _load(retriever, fresh=fresh, as_json=as_json)
    finally:
        await resources.close()


async def _indexed(place: Path, agent: str | None, options: Mapping[str, Any], *, fresh: bool, as_json: bool) -> None:
    from aixgo.agents.retriever import RetrieverAgent
    from aixgo.config.spec import AgentSpec
    from aixgo.errors import InvalidInput

    if agent is not None:
        raise InvalidInput(f"--agent names a retriever of a YAML file, and {place} is none")
    if "store" not in options:
        raise InvalidInput("--store: say where to, a folder or the URL of a Qdrant server")
    config = {"documents": str(place), **options}
    await _load(RetrieverAgent(AgentSpec(name="index", role="retriever", config=config)), fresh=fresh, as_json=as_json)


async def _load(retriever: RetrieverAgent, *, fresh: bool, as_json: bool) -> None:
    from math import inf

    from aixgo.call import entered, root

    state = root(inf)  # a large folder takes as long as it takes
    try:
        _check(retriever)
        with entered(state), _progress(shown=not as_json) as progress:
            report = await retriever.load(progress, fresh=fresh)
    finally:
        await retriever.stop()
    _tell(retriever, report, state.ledger.usage, as_json=as_json)


def _check(retriever: RetrieverAgent) -> None:
    from aixgo.errors import ConfigError

    where = f"agents.{retriever.name}.config"
    if not retriever.config.documents:
        raise ConfigError(f"{where}.documents: it is empty, so there is nothing to index; name a folder")
    if retriever.config.store == "memory":
        raise ConfigError(
            f"{where}.store: what is in memory ends with this command; name a folder, or the URL of a Qdrant server"
        )


@contextmanager
def _progress(*, shown: bool) -> Generator[Progress]:
    """A bar on stderr, and what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, next_: str) -> None:
            bar.update(task, completed=done, total=total, description=next_)

        yield show


def _tell(retriever: RetrieverAgent, report: Report, usage: Usage, *, as_json: bool) -> None:

    from aixgo_services.cli.output import show_cost, usage_json

    if as_json:
        config = retriever.config
        where = {"store": config.store, "collection": config.collection, "embeddings": config.embeddings}
        click.echo(json.dumps(where | asdict(report) | {"usage": usage_json(usage)}))
        return
    for one in report.skipped:
        click.echo(click.style(f"skipped {one.path}: {one.reason}", fg="yellow"), err=True)
    counts = ", ".join(
        f"{len(names)} {what}"
        for what, names in (
            ("added", report.added),
            ("changed", report.changed),
            ("as before", report.unchanged),
            ("removed", report.removed),
        )
    )
    click.echo(f"{counts}; {report.chunks} chunks embedded")
    show_cost(usage)
