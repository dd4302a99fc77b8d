"""`aixgo render`: the YAML file as a Compose file or Kubernetes manifests."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from aixgo.config.schema import Config

    from aixgo_services.render.fleet import FleetPlan

_COMPOSE_FILE = "docker-compose.yml"
_OUTPUT = click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="A folder to write to [default: stdout]."
)
_IMAGE = click.option(
    "--image", default="aixgo:latest", show_default=True, help="For all that name none under deployment.agents."
)
_MODEL_IMAGE = click.option(
    "--model-image",
    default="aixgo-model:latest",
    show_default=True,
    help="For the model server: built with EXTRAS=local and MODEL=1.",
)
_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def render() -> None:
    """Write FILE as what other supervisors read: Compose, Kubernetes.

    Modules beside FILE that its roles name (`desk` for `desk:Ticket`) are mounted with it; packages belong into an
    image of your own.
    """


@render.command()
@_FILE
@_OUTPUT
@_IMAGE
@_MODEL_IMAGE
def compose(*, file: Path, output: Path | None, image: str, model_image: str) -> None:
    """Write a Compose file. Its paths lead from the folder it is written to, else from the working directory."""
    from aixgo_services.render.compose import compose_document
    from aixgo_services.render.documents import to_yaml
    from aixgo_services.render.fleet import FILE

    _, plan = _planned(file, image, model_image)
    originals = {FILE: file} | {name: file.parent / name for name in plan.source.modules}
    paths = {name: _path_from(output or Path(), path) for name, path in originals.items()}
    text = to_yaml([compose_document(plan, paths)], header=_header("compose", file))
    _write(output, {_COMPOSE_FILE: text}, lambda: text)


@render.command()
@_FILE
@_OUTPUT
@_IMAGE
@_MODEL_IMAGE
@click.option("--namespace", default="", help="Put all objects into it, and enforce the restricted pod standard there.")
def kubernetes(*, file: Path, output: Path | None, image: str, model_image: str, namespace: str) -> None:
    """Write manifests: with -o a kustomize base, a file for each workload; else one stream of documents."""
    from aixgo_services.render.documents import to_yaml
    from aixgo_services.render.kubernetes import kubernetes_files, kubernetes_objects

    config, plan = _planned(file, image, model_image)
    files = kubernetes_files(config, plan, namespace=namespace)
    header = _header("kubernetes", file)
    texts = {name: to_yaml(documents, header=header) for name, documents in files.items()}
    _write(output, texts, lambda: to_yaml(kubernetes_objects(files), header=header))


def _planned(file: Path, image: str, model_image: str) -> tuple[Config, FleetPlan]:
    from aixgo.config.load import load

    from aixgo_services.render.fleet import Source, named_modules, plan_containers

    config = load(file)
    beside = {f"{module}.py": file.parent / f"{module}.py" for module in named_modules(config)}
    modules = {name: path.read_text(encoding="utf-8") for name, path in beside.items() if path.is_file()}
    source = Source(file.stem, file.read_text(encoding="utf-8"), modules)
    return config, plan_containers(config, source, image=image, model_image=model_image)


def _header(what: str, file: Path) -> str:
    return f"Rendered from {file.name}; change that and run: aixgo render {what} {file.name}"


def _path_from(folder: Path, path: Path) -> str:
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return relative if relative.startswith("../") else f"./{relative}"


def _write(output: Path | None, texts: dict[str, str], stream: Callable[[], str]) -> None:
    if output is None:
        click.echo(stream(), nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
        click.echo(output / name)
