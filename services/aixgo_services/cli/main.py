"""The entry of `aixgo`: the commands, and what a person sees when one fails.

Commands are loaded when they are used, so that `aixgo --help` answers at once. No command prints a traceback: an
AixgoError is one clear message, anything else one line and how to see more (`aixgo -v ...`).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

from aixgo_services.cli.failures import Exit, exit_code, failure_json

_COMMANDS = {
    "init": ("init:init", "Write a project to begin with."),
    "run": ("run:run", "Run a YAML file in this process."),
    "up": ("up:up", "Run a YAML file as a fleet of processes on this machine."),
    "serve": ("serve:serve", "Serve agents of a YAML file to others."),
    "controlplane": ("serve:controlplane", "Run a control plane."),
    "gateway": ("gateway:gateway", "Run a gateway: one port for callers outside the mesh."),
    "call": ("call:call", "Call an agent."),
    "chat": ("chat:chat", "Talk with an agent."),
    "agents": ("agents:agents", "List the agents that a control plane knows."),
    "health": ("health:health", "Ask a server for its health."),
    "doctor": ("doctor:doctor", "Tell what is wrong with this machine or a file, and the fix."),
    "index": ("index:index", "Index documents, so that a retriever finds them."),
    "mailbox": ("mailbox:mailbox", "Look after mailboxes that last: their dead letters."),
    "model": ("model:model", "Fetch and serve the embedded model."),
    "config": ("config:config", "Check and migrate YAML files, print their schema."),
    "certs": ("certs:certs", "Make certificates for development."),
    "render": ("render:render", "Write a YAML file as Compose or Kubernetes files."),
}


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(f"aixgo_services.cli.{module}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and one line each, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version  # 20 ms that no other command needs

        click.echo(f"aixgo {version('aixgo')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="More log lines, and tracebacks.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def aixgo(ctx: click.Context, verbose: bool) -> None:
    """LLM agents as a mesh of gRPC services, in one process or as a fleet.

    Exit codes: 0 done, 1 the call failed, 2 wrong usage or configuration, 3 nobody there to answer, 4 the deadline
    passed, 130 stopped by Ctrl-C.

    With --json results are JSON on stdout, and a failure is one JSON object on stderr.
    """
    ctx.obj = verbose


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # gRPC's C core writes lines of its own to stderr; what matters in them we raise or log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(execute(given))


def execute(arguments: list[str]) -> int:
    """Run one command line; the exit code."""
    as_json = "--json" in arguments
    verbose = not {"-v", "--verbose"}.isdisjoint(arguments)
    try:
        code: Any = aixgo.main(arguments, prog_name="aixgo", standalone_mode=False)
    except click.ClickException as error:
        return _say(error.format_message(), Exit.USAGE, "UsageError", as_json, usage=_usage(error))
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        sys.stderr.close()
        return Exit.FAILED
    except Exception as error:  # noqa: BLE001  # the last line of defence: one message instead of a traceback
        if verbose:
            traceback.print_exception(error)
        return _failed(error, as_json)
    return code if isinstance(code, int) else Exit.OK


def _failed(error: Exception, as_json: bool) -> int:
    from aixgo.errors import AixgoError  # loads the core, which --help does not need

    if isinstance(error, AixgoError):
        if as_json:
            click.echo(failure_json(error), err=True)
        else:
            from aixgo_services.cli.output import show_spent  # as above

            click.echo(f"aixgo: {error}", err=True)
            show_spent(error)
        return exit_code(error)
    text = f"{type(error).__name__}: {error}".strip()
    return _say(f"{text} (this should not happen; `aixgo -v ...` shows where)", Exit.FAILED, "InternalError", as_json)


def _say(message: str, code: Exit, kind: str, as_json: bool, usage: str = "") -> int:
    if as_json:
        import json  # only here

        click.echo(json.dumps({"error": kind, "message": message}), err=True)
    else:
        click.echo(f"{usage}aixgo: {message}", err=True)
    return code


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return "" if context is None else f"{context.get_usage()}\n"


if __name__ == "__main__":
    main()
