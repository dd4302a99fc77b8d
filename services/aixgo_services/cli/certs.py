"""`aixgo certs`: certificates for development."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path

import click

_SHELL = """AIXGO_TLS_CA_FILE={folder}/ca.pem
AIXGO_TLS_CERT_FILE={folder}/{name}/cert.pem
AIXGO_TLS_KEY_FILE={folder}/{name}/key.pem"""


@click.group()
def certs() -> None:
    """Make certificates for TLS between the processes of a fleet."""


@certs.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("certs"), show_default=True, help="Folder."
)
@click.option(
    "--ca", "ca_folder", type=click.Path(file_okay=False, path_type=Path), help="Folder of the CA's key [default: OUT]."
)
@click.option("--name", "names", multiple=True, help="An agent, or another part of a fleet. Repeatable. [default: dev]")
@click.option("--host", "hosts", multiple=True, help="A host name or address that all are good for. Repeatable.")
@click.option("--trust-domain", default="aixgo.dev", show_default=True, help="The first part of SPIFFE IDs.")
@click.option("--json", "as_json", is_flag=True, help="The files that were written, as JSON.")
def dev(
    *,
    out: Path,
    ca_folder: Path | None,
    names: tuple[str, ...],
    hosts: tuple[str, ...],
    trust_domain: str,
    as_json: bool,
) -> None:
    """Make a development CA, and a certificate for each NAME that is good for 30 days.

    Each is good for its name, localhost, and every HOST, and has the identity spiffe://TRUST_DOMAIN/agent/NAME. Again,
    it keeps what is good and makes the rest anew; running processes take up new files by themselves.

    For development only: nobody guards the CA's key.
    """
    from aixgo.security.development import Leaf, write_certificates

    leaves = [Leaf.of(name, hosts, trust_domain=trust_domain) for name in names or ("dev",)]
    written = write_certificates(out, leaves, ca_folder=ca_folder)
    if as_json:
        told = {"identities": {leaf.name: leaf.identity for leaf in leaves}, "written": [str(path) for path in written]}
        click.echo(json.dumps(told))
        return
    for leaf in leaves:
        click.echo(f"{leaf.identity}: {out / leaf.name}")
    click.echo("for development only; a process uses them by:")
    click.echo(_SHELL.format(folder=out.resolve(), name=leaves[0].name))
