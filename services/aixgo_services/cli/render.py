"""`aixgo render`: the YAML file as a Compose file or Kubernetes manifests."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from aixgo_services.needs.beside import Beside
    from aixgo_services.needs.keeping import MailboxKind, Sessions
    from aixgo_services.render.notes import Platform

_COMPOSE_FILE = "docker-compose.yml"
_USUAL_NAMES = ("config", "aixgo", "mesh", "fleet")
"""Files of these names say nothing: the fleet is called as their folder is."""
_OUTPUT = click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="A folder to write to [default: stdout]."
)
_IMAGE = click.option(
    "--image", help="For all that name none under deployment.agents [default: aixgo:latest, or aixgo:EXTRAS]."
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

    What lies beside FILE and is named in it is mounted with it: modules and packages, scripts of models, folders of
    documents. The first lines of what is written say which image it takes, and what else must be there.
    """


@render.command()
@_FILE
@_OUTPUT
@_IMAGE
@_MODEL_IMAGE
def compose(*, file: Path, output: Path | None, image: str | None, model_image: str) -> None:
    """Write a Compose file. Its paths lead from the folder it is written to, else from the working directory."""
    from aixgo_services.render.compose import compose_document
    from aixgo_services.render.documents import to_yaml
    from aixgo_services.render.fleet import FILE
    from aixgo_services.render.notes import Platform

    fleet = _Rendered(file, image, model_image, Platform.COMPOSE)
    source = fleet.plan.source
    originals = {FILE: file} | {name: file.parent / name for name in (*source.beside, *source.folders)}
    paths = {name: _path_from(output or Path(), path) for name, path in originals.items()}
    text = to_yaml([compose_document(fleet.plan, paths)], header=fleet.header)
    fleet.warn()
    _write(output, {_COMPOSE_FILE: text}, lambda: text)


@render.command()
@_FILE
@_OUTPUT
@_IMAGE
@_MODEL_IMAGE
@click.option("--namespace", default="", help="Put all objects into it, and enforce the restricted pod standard there.")
def kubernetes(*, file: Path, output: Path | None, image: str | None, model_image: str, namespace: str) -> None:
    """Write manifests: with -o a kustomize base, a file for each workload; else one stream of documents."""
    from aixgo_services.render.documents import to_yaml
    from aixgo_services.render.kubernetes import KUSTOMIZATION, kubernetes_files, kubernetes_objects
    from aixgo_services.render.notes import Platform

    fleet = _Rendered(file, image, model_image, Platform.KUBERNETES)
    files = kubernetes_files(fleet.config, fleet.plan, namespace=namespace)
    headers = {name: fleet.header if name == KUSTOMIZATION else fleet.origin for name in files}
    texts = {name: to_yaml(documents, header=headers[name]) for name, documents in files.items()}
    fleet.warn()
    _write(output, texts, lambda: to_yaml(kubernetes_objects(files), header=fleet.header))


class _Rendered:
    """What is rendered, for whom, and what is to be said about it. Reads FILE and what lies beside it."""

    def __init__(self, file: Path, image: str | None, model_image: str, platform: Platform) -> None:
        from aixgo.config.load import load
        from aixgo.config.settings import Settings, read_environment

        from aixgo_services.needs.beside import read_beside
        from aixgo_services.needs.keeping import MailboxKind, Sessions, mailbox_place, session_place
        from aixgo_services.render.fleet import Source, image_with, plan_containers
        from aixgo_services.render.notes import notes

        variables = read_environment(file.parent)
        self.config = load(file, variables)
        beside = read_beside(self.config, file.parent)
        settings = Settings.read(variables)
        sessions, mailboxes = session_place(self.config, settings), mailbox_place(self.config, settings)
        kept, mail = sessions.kind, mailboxes.kind
        if platform == "kubernetes":  # what a cluster needs in the place of files; see the notes
            kept = Sessions.POSTGRES if kept is Sessions.SQLITE else kept
            mail = MailboxKind.NATS if mail is MailboxKind.SQLITE else mail
        extras = self._extras(kept, mail, beside)
        source = Source(_name(file), file.read_text(encoding="utf-8"), beside.files, beside.folders)
        image = image or image_with(extras)
        self.plan = plan_containers(
            self.config, source, image=image, model_image=model_image, sessions=sessions, mailboxes=mailboxes
        )
        self.origin = f"Rendered from {file.name}; change that and run: aixgo render {platform} {file.name}"
        self._notes = list(notes(self.config, self.plan, beside, extras, platform))

    @property
    def header(self) -> str:
        """The comment at the top."""
        return "\n".join([self.origin, *(each.text for each in self._notes)])

    def warn(self) -> None:
        """Say on stderr what must be heeded."""
        for each in self._notes:
            if each.warns:
                click.echo(f"warning: {each.text}", err=True)

    def _extras(self, sessions: Sessions, mailboxes: MailboxKind, beside: Beside) -> dict[str, str]:
        """Those of the image for all: an agent that names an image of its own has there what it needs."""
        from aixgo_services.needs.extras import needed_extras

        placed = self.config.deployment.agents
        own = {name for name, placement in placed.items() if placement.image}
        agents = tuple(agent for agent in self.config.agents if agent.name not in own)
        common = self.config.model_copy(update={"agents": agents})
        return needed_extras(common, sessions, beside.imported, mailboxes=mailboxes, served=True)


def _name(file: Path) -> str:
    """What the fleet is called: as the file, or as its folder where files are usually called so."""
    folder = file.resolve().parent.name
    return folder if file.stem in _USUAL_NAMES and folder else file.stem


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
