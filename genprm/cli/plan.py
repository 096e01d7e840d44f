"""`--dry-run`: the resolved configuration, and what a command would load."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from genprm.cli.boundary import stdout
from genprm.config import EngineConfig, JudgeConfig, SandboxConfig
from genprm.fields import Config


def print_plan(parts: Mapping[str, object]) -> None:
    """Prints the resolved configurations as YAML, and what each would load.

    Raises:
        PRMError: the family of a judge cannot be determined.
    """
    import yaml

    shown = {name: _plain(one) for name, one in parts.items()}
    stdout().print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip(), markup=False, soft_wrap=True)
    for name, one in parts.items():
        for line in _loads(one):
            stdout().print(f"# {name}: {line}", markup=False, soft_wrap=True)


def _plain(value: object) -> object:
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, (str, int, float, list, dict, type(None))) else str(value)


def _loads(part: object) -> list[str]:
    """What a configuration would load, one line each."""
    from genprm.engines import choose_engine
    from genprm.prms.load import model_path
    from genprm.prms.profiles import read_profile

    lines: list[str] = []
    if isinstance(part, EngineConfig):
        kind = choose_engine(part.engine, part.base_url)
        where = f" at {', '.join(part.base_url)}" if part.base_url else ""
        lines.append(f"would load {part.model} on the {kind} engine{where}")
        part.options_for(kind)
    if isinstance(part, JudgeConfig):
        known = read_profile(model_path(part.model), part.revision, part.family)
        lines.append(f"would judge with the PRM family {known.family}")
    if isinstance(part, SandboxConfig):
        code = not isinstance(part, JudgeConfig) or part.mode.executes
        lines.append(f"would run code in the sandbox {part.sandbox}" if code else "would run no code")
    return lines
