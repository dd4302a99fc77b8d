"""What an agent is called where names are DNS labels: Kubernetes objects, Compose services, host names.

The rule, which the Helm chart repeats: a name that is a DNS-1035 label of at most 50 characters (lower-case letters,
digits and '-', beginning with a letter, not ending with '-') stays as it is. Any other is made one (lower case, every
other character a '-', cut to 39) and gets '-' and 10 hexadecimal digits of the SHA-256 of the whole name. A name that
ends like that by itself, and one that a process of the fleet has, get them too: so a name that was changed is never
one that was not.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING

from aixgo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTROL_PLANE, GATEWAY, MODEL_SERVER = "control-plane", "gateway", "model-server"
RESERVED = frozenset({CONTROL_PLANE, GATEWAY, MODEL_SERVER})
"""What the processes of a fleet are called that are no agents."""
LONGEST = 50
"""Of 63 characters; the rest is left to what Kubernetes appends to the names of pods."""

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MARKED = re.compile(r".*-[0-9a-f]{10}")
_OTHER = re.compile(r"[^a-z0-9]+")
_DIGITS = 10
_KEY = re.compile(r"[-._A-Za-z0-9]+")
_LONGEST_KEY = 240
"""Of 253 characters; the rest is left to a number."""


def dns_name(name: str) -> str:
    """The DNS label for an agent's name, by the rule at the top of this file."""
    kept = _LABEL.fullmatch(name) and len(name) <= LONGEST and not _MARKED.fullmatch(name) and name not in RESERVED
    return name if kept else _marked(name)


def dns_names(names: Iterable[str]) -> dict[str, str]:
    """The DNS labels of several names. Raises ConfigError in the unheard-of case that two have the same digest."""
    labels: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name in names:
        label = labels[name] = dns_name(name)
        owner = owners.setdefault(label, name)
        if owner != name:
            raise ConfigError(f"agents {owner!r} and {name!r} would both be called {label!r}; rename one of them")
    return labels


def config_keys(paths: Iterable[str]) -> dict[str, str]:
    """The keys of a ConfigMap for file paths: the path itself where it is one, else with '.' and '_' for what it must
    not have, and a number where two would be the same.
    """
    keys: dict[str, str] = {}
    for path in paths:
        plain = path if _KEY.fullmatch(path) else re.sub(r"[^-._A-Za-z0-9]", "_", path.replace("/", "."))
        key, number = plain[:_LONGEST_KEY], 1
        while key in keys.values():
            number += 1
            key = f"{plain[:_LONGEST_KEY]}.{number}"
        keys[path] = key
    return keys


def _marked(name: str) -> str:
    plain = _OTHER.sub("-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"a-{plain}"
    return f"{plain[: LONGEST - _DIGITS - 1].rstrip('-')}-{sha256(name.encode()).hexdigest()[:_DIGITS]}"
