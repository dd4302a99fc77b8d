"""`aixgo model`: fetch the weights of the embedded model, and serve it to other processes."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS


@click.group()
def model() -> None:
    """Fetch and serve the embedded model (local/smollm2-135m)."""


@model.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Where to [default: AIXGO_MODEL_DIR].")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def pull(directory: Path | None, as_json: bool) -> None:
    """Fetch the weights (93 MB) by their pinned hash, unless they are there."""
    from aixgo.config.settings import Settings
    from aixgo.launch import run_async
    from aixgo.llm.weights import pull_weights
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=as_json, transient=True) as progress:
        task = progress.add_task("smollm2-135m", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        path = run_async(pull_weights(directory or Settings.read().model_dir, show))
    click.echo(json.dumps({"path": str(path)}) if as_json else f"{path}")


@model.command()
@click.option("--listen", type=ADDRESS, default="127.0.0.1:0", show_default=True, help="host:port to bind.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Where from [default: AIXGO_MODEL_DIR].")
@click.option("--json", "as_json", is_flag=True, help="The ready line as JSON.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when stdin ends.")
@click.pass_obj
def serve(verbose: bool, *, listen: str, directory: Path | None, as_json: bool, with_parent: bool) -> int:
    """Serve the embedded model over HTTP in the OpenAI format, so that a fleet loads it once.

    Others use it by AIXGO_LOCAL_MODEL_URL.
    """
    import asyncio

    from aixgo.config.settings import Settings
    from aixgo.launch import run_async
    from aixgo.llm.embedded import serve_model
    from aixgo.llm.weights import require_weights
    from aixgo.security.security import check_insecure

    from aixgo_services.logs import set_up_logs
    from aixgo_services.stopping import stop_signals

    settings = Settings.read()
    check_insecure(listen if listen.rpartition(":")[0] else f"127.0.0.1{listen}", settings.allow_insecure)
    set_up_logs("DEBUG" if verbose else settings.log_level, settings.log_format)
    host, _, port = listen.rpartition(":")

    async def process() -> int:
        with stop_signals(with_parent=with_parent) as stop:
            path = require_weights(directory or settings.model_dir)
            served = await asyncio.to_thread(serve_model, path, host or "127.0.0.1", int(port))
            click.echo(json.dumps({"url": served.base_url}) if as_json else f"model at {served.base_url}")
            await stop.event.wait()
            await asyncio.to_thread(served.close)
            return Exit.INTERRUPTED if stop.interrupted else Exit.OK

    return run_async(process())
