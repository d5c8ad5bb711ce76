"""What deployments serve, so that their runs can refuse parameters that lead elsewhere.

Whoever reaches the API may start a run with parameters of their own. A run therefore compares them with what
`cuepack serve` or `cuepack deploy` was started with, in the process that would carry it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from extractors.errors import ConfigError
from flows.config import NAMES_PLACES, Config, load_config
from flows.remote.files import is_uri
from flows.remote.places import is_inside

SERVED = "CUEPACK_SERVED"
"""The environment variable that says it, JSON: for processes of flow runs, which know nothing but their environment."""


@dataclass(frozen=True, slots=True)
class Served:
    """The source, output and settings that deployments were registered with.

    Attributes:
        source, out: paths or URIs as the workers see them.
        settings: section.key=value each.
    """

    source: str
    out: str
    settings: tuple[str, ...] = ()

    def as_environment(self) -> dict[str, str]:
        """The variable for the processes of its runs."""
        return {SERVED: json.dumps(asdict(self))}

    def check(
        self,
        out: str,
        source: str | None = None,
        settings: Sequence[str] = (),
        config_file: str | None = None,
        selection: str | None = None,
    ) -> None:
        """Refuses parameters of a run that name another source or output, or files and hosts of the caller's choice.

        Raises:
            ConfigError: says which.
        """
        self._same("out", out, self.out)
        if source is not None:
            self._same("source", source, self.source)
        if config_file is not None:
            raise ConfigError(
                f"config_file={config_file}: a served run reads no file of settings; give them as `settings`"
            )
        if selection is not None and not (is_uri(selection) == is_uri(self.out) and is_inside(selection, self.out)):
            raise ConfigError(
                f"selection={selection} is outside the served output {self.out}; `cuepack select` writes it there"
            )
        self._no_other_places(settings)

    def _same(self, name: str, asked: str, served: str) -> None:
        if asked.rstrip("/") != served.rstrip("/"):
            raise ConfigError(
                f"{name}={asked} is not what is served, {served}; serve it too: `cuepack serve SOURCE --out DIR`"
            )

    def _no_other_places(self, settings: Sequence[str]) -> None:
        asked, served, default = load_config(assignments=settings), load_config(assignments=self.settings), Config()
        for section, key in sorted(NAMES_PLACES):
            value = getattr(getattr(asked, section), key)
            if value not in (getattr(getattr(each, section), key) for each in (served, default)):
                raise ConfigError(
                    f"{section}.{key}={value} names files or machines, which a served run takes from its server alone; "
                    f"start `cuepack serve` with --set {section}.{key}=..."
                )


def served_here() -> Served | None:
    """What this process's runs may work on; None where nobody has limited it.

    Raises:
        ConfigError: the variable is set to something else.
    """
    text = os.environ.get(SERVED)
    if text is None:
        return None
    try:
        found = json.loads(text)
        source, out, settings = found["source"], found["out"], found.get("settings", [])
        if not all(isinstance(value, str) for value in (source, out, *settings)):
            raise TypeError("wanted texts")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f'{SERVED} wants {{"source": ..., "out": ..., "settings": [...]}}, got {text!r} ({error})'
        ) from error
    return Served(source, out, tuple(settings))
