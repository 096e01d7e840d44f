"""`--dry-run`: the resolved configuration, and what a command would load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from genprm.cli.boundary import stdout
from genprm.config import EngineConfig, JudgeConfig, SandboxConfig
from genprm.fields import Config
from genprm.rpe.config import LabelConfig
from genprm.train.config import TrainConfig


def print_plan(parts: Mapping[str, object]) -> None:
    """Prints the resolved configurations as YAML, and what each would load.

    Raises:
        PRMError: the family of a judge cannot be determined.
    """
    import yaml

    shown = {name: _plain(one) for name, one in parts.items()}
    stdout().print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip(), markup=False, soft_wrap=True)
    labelling = next((one for one in parts.values() if isinstance(one, LabelConfig)), None)
    for name, one in parts.items():
        lines = _loads(one) if labelling is None or not isinstance(one, EngineConfig) else _of_labels(labelling, one)
        for line in lines:
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
    from genprm.prms.profiles import GenPRMModel, read_profile

    lines: list[str] = []
    if isinstance(part, EngineConfig):
        kind = choose_engine(part.engine, part.base_url)
        lines.append(_load(part.model, kind, part.base_url))
        part.options_for(kind)
    if isinstance(part, TrainConfig):
        lines.append(f"would train {part.model}")
    code = isinstance(part, SandboxConfig)
    if isinstance(part, JudgeConfig):
        known = read_profile(model_path(part.model), part.revision, part.family)
        lines.append(f"would judge with the PRM family {known.family}")
        if part.reference is not None:
            lines.append(_load(part.reference, choose_engine(part.engine, part.reference_url), part.reference_url))
        code = isinstance(known, GenPRMModel) and part.mode.executes
    if isinstance(part, SandboxConfig):
        lines.append(f"would run code in the sandbox {part.sandbox}" if code else "would run no code")
    return lines


def _of_labels(labelling: LabelConfig, engine: EngineConfig) -> list[str]:
    """What labelling would load: the engine's settings are those of its policy and completer."""
    from genprm.engines import choose_engine

    models = [(labelling.policy, labelling.policy_url)]
    if labelling.completer is not None:
        models.append((labelling.completer, labelling.completer_url))
    return [_load(model, choose_engine(engine.engine, urls), urls) for model, urls in models]


def _load(model: str, kind: str, urls: Sequence[str]) -> str:
    return f"would load {model} on the {kind} engine" + (f" at {', '.join(urls)}" if urls else "")
