"""`aixgo run`: a YAML file in this process."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aixgo_services.cli.options import DURATION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-i", "--input", "text", required=True, help="What to say; `-` reads it from stdin.")
@click.option("--target", help="Whom to call [default: the orchestration, or the only agent].")
@click.option("--stream", is_flag=True, help="Show what happens while it happens.")
@click.option("--trace", is_flag=True, help="Show the tree of calls afterwards: where, time, tokens, cost, error.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: the reply, or with --stream one event a line.")
@click.option("--timeout", type=DURATION, help="How long the call may take [default: 5m].")
@click.option("--reload", is_flag=True, help="Run again whenever a file of the directory changes.")
@click.pass_obj
def run(verbose: bool, *, reload: bool, **given: Any) -> None:
    """Run FILE in this process: build its agents, call one, print the reply."""
    from aixgo.launch import run_async

    from aixgo_services.cli.inputs import read_text

    given["text"] = read_text(given["text"])
    job = Job(verbose=verbose, **given)
    if reload:
        _watched(job)
    else:
        run_async(_run(job))


@dataclass(frozen=True, slots=True)
class Job:
    """What one `aixgo run` was asked to do; `timeout` is in seconds."""

    verbose: bool
    file: Path
    text: str
    target: str | None
    stream: bool
    trace: bool
    as_json: bool
    timeout: float | None

    def arguments(self) -> list[str]:
        """The command line that does the same, without --reload."""
        wanted = {
            f"--target={self.target}": self.target,
            "--stream": self.stream,
            "--trace": self.trace,
            "--json": self.as_json,
            f"--timeout={self.timeout}s": self.timeout,
        }
        options = [option for option, given in wanted.items() if given]
        return [*(["-v"] if self.verbose else []), "run", str(self.file), f"--input={self.text}", *options]


async def _run(job: Job) -> None:
    from aixgo.config.load import load
    from aixgo.config.settings import Settings, read_environment
    from aixgo.launch import default_target, opened

    from aixgo_services.cli.output import show_reply, show_stream
    from aixgo_services.cli.trace import show_traced
    from aixgo_services.logs import set_up_logs

    variables = read_environment(job.file.parent)
    settings = Settings.read(variables)
    set_up_logs("DEBUG" if job.verbose else "WARNING", settings.log_format)
    config = load(job.file, variables)
    name = job.target or default_target(config)
    async with opened(config, variables=variables) as runtime:
        if job.trace:
            events = runtime.stream(name, job.text, timeout=job.timeout)
            await show_traced(name, events, streaming=job.stream, as_json=job.as_json)
        elif job.stream:
            await show_stream(runtime.stream(name, job.text, timeout=job.timeout), as_json=job.as_json)
        else:
            show_reply(await runtime.call(name, job.text, timeout=job.timeout), as_json=job.as_json)


def _watched(job: Job) -> None:
    from aixgo.errors import ConfigError
    from aixgo.launch import run_async

    try:
        watchfiles: Any = importlib.import_module("watchfiles")
    except ImportError as error:
        raise ConfigError("--reload needs watchfiles; install it with: pip install 'aixgo[reload]'") from error
    run_async(_again_and_again(watchfiles.awatch(job.file.resolve().parent, Path.cwd()), job.arguments()))


async def _again_and_again(changes: AsyncIterator[Any], arguments: list[str]) -> None:
    import asyncio
    import sys

    while True:  # in a process of its own each time: a changed module is imported anew only there
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "aixgo_services.cli.main", *arguments)
        ended = asyncio.create_task(child.wait())
        changed = asyncio.ensure_future(anext(changes))
        try:
            await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not changed.done():
                click.echo(click.style("waiting for changes ...", dim=True), err=True)
            await changed
        finally:
            changed.cancel()
            if child.returncode is None:
                child.terminate()
            await ended
