"""Whether a YAML file can be used, and whether this machine has the models and keys that it asks for.

Nothing is started, loaded or called, and no key is ever shown. Above: `examination.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aixgo.errors import AixgoError, ConfigError
from aixgo.llm.models import ModelSettings
from aixgo.llm.vendors import key_variables
from aixgo.llm.weights import find_weights, models_dir
from aixgo.telemetry.secrets import scrub

from aixgo_services.doctor.findings import Finding, ok, problem, warning
from aixgo_services.needs.secrets import LANGFUSE_KEYS

if TYPE_CHECKING:
    from aixgo.config.schema import Config

_COMPATIBLE = "openai"
"""With an address of one's own this vendor is any server of the OpenAI format, and many of those want no key."""

Check = Callable[[Path, Mapping[str, str]], "Config"]
"""Reads a file and makes its agents, as `aixgo config check` does; raises AixgoError."""


def check_file(file: Path, variables: Mapping[str, str], check: Check) -> tuple[Config | None, list[Finding]]:
    """The configuration of a file, if it can be used; a line for each thing that is wrong with it."""
    try:
        config = check(file, variables)
    except AixgoError as error:
        return None, _faults(file, error)
    return config, [ok("file", f"{file}: {', '.join(config.names)}")]


def check_keys(vendors: Iterable[str], variables: Mapping[str, str]) -> list[Finding]:
    """Whether each vendor's key is set. Its value is not looked at."""
    settings = ModelSettings.from_environment(variables)
    return [_key(vendor, settings, variables) for vendor in vendors if key_variables(vendor)]


def check_model(model: str | None, variables: Mapping[str, str]) -> Finding:
    """Whether the weights of the embedded model are there; `model` is the name by which a file uses it."""
    settings = ModelSettings.from_environment(variables)
    if settings.local_url:
        return ok(
            "embedded model", f"served by another process, at {scrub(settings.local_url)} (AIXGO_LOCAL_MODEL_URL)"
        )
    weights = find_weights(settings.model_dir)
    if weights is not None:
        return ok("embedded model", str(weights))
    told = f"its weights are not in {models_dir(settings.model_dir)}"
    if model is None:
        return ok("embedded model", f"{told}; for local/... models: aixgo model pull")
    return problem("embedded model", f"{told}, and the file uses {model}", "aixgo model pull")


def check_langfuse(config: Config, variables: Mapping[str, str]) -> list[Finding]:
    """Whether Langfuse's keys are set, where a file sends its traces there."""
    if not config.observability.langfuse:
        return []
    missing = [name for name in LANGFUSE_KEYS if not variables.get(name, "").strip()]
    if not missing:
        return [ok("keys of langfuse", f"{' and '.join(LANGFUSE_KEYS)} are set")]
    told = f"observability.langfuse is on without {' and '.join(missing)}, so nothing is sent there"
    return [warning("keys of langfuse", told, f"set {' and '.join(missing)}, or add them to .env")]


def _key(vendor: str, settings: ModelSettings, variables: Mapping[str, str]) -> Finding:
    check, names = f"key of {vendor}", key_variables(vendor)
    if vendor in settings.keys:
        return ok(check, f"{next(name for name in names if variables.get(name))} is set")
    if vendor == _COMPATIBLE and vendor in settings.urls:
        return ok(check, f"{names[0]} is not set; the server at {scrub(settings.urls[vendor])} may want none")
    fix = f"set {names[0]}, or add it to .env; or set {names[1]} to the path of a file that has it"
    return problem(check, f"{names[0]} is not set, and the file uses {vendor}/...", fix)


def _faults(file: Path, error: AixgoError) -> list[Finding]:
    fix = f"correct it; aixgo config check {file} tells when it is right"
    lines: list[str] = []
    if isinstance(error, ConfigError):
        told = cast("list[dict[str, Any]]", error.fields.get("problems", []))
        lines = [f"{file}:{each['line']}: {each['problem']}" for each in told]
    return [problem("file", line, fix) for line in lines or [error.message]]
