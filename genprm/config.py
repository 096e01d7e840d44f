"""The configuration of a run: one frozen model for each concern.

A field's description, range and default are only here. Command options with help and environment variables, recipe
keys, `run.json`, the settings of a cluster's workers, and the arguments of `genprm.load_prm` come from these fields.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, JsonValue, field_validator, model_validator

from genprm.fields import Config, ConfigError, Option, content_digest, option_of, read_yaml
from genprm.sandbox import Limits, Sandbox, open_sandbox
from genprm.sandbox.opening import check_backend
from genprm.types import DEFAULT_THRESHOLD

TrackerName = Literal["none", "trackio", "wandb"]
EngineKind = Literal["auto", "transformers", "vllm", "openai"]
BUILT_IN, BUILT_IN_POLICY = "nano", "nano-policy"
"""Names of the models included in the package."""
ADAPTIVE = "adaptive"
ADAPTIVE_VOTES = 8
"""Maximum of `adaptive` votes without a number, as in the published results."""
CERTAINTY = 0.9
"""In mode `auto`, a step that computes nothing skips code if the verdict after its analysis is this certain."""
PATIENCE_S = 300.0
"""How long a request to failing servers is retried: a large model takes minutes to load."""
_LIMITS = Limits()


class Mode(StrEnum):
    """How much of GenPRM's protocol a judge uses."""

    DIRECT = "direct"
    ANALYZE = "analyze"
    CODE = "code"
    """Code is written but never run; the model imagines its output."""
    EXECUTE = "execute"
    """Code is written and run, and the verdict sees its real output."""
    AUTO = "auto"
    """Code is written and run only for the steps that need it: see `genprm.prms.genprm.adaptive.needs_code`."""

    @property
    def executes(self) -> bool:
        """Whether code may run, so that a sandbox is needed."""
        return self in (Mode.EXECUTE, Mode.AUTO)


class Until(StrEnum):
    """How far a solution is judged."""

    END = "end"
    FIRST_ERROR = "first-error"
    """Up to the first wrong step, as decided by the mean of the votes."""


class Keep(StrEnum):
    """How much of a judgement a row keeps."""

    FULL = "full"
    """Everything: problem, steps, every chain's text, code and output. About 16 kB for a chain of 4,000 tokens."""
    SCORES = "scores"


class EngineConfig(Config):
    """A model, and the engine it runs on."""

    model: Annotated[str, Field(min_length=1)] = Field(
        default=BUILT_IN,
        description="`nano` (the built-in model), a Hugging Face name such as GenPRM/GenPRM-7B, or a folder.",
    )
    engine: EngineKind = Field(
        default="auto",
        description="`auto`: openai with a base URL, else vllm if installed and there is a GPU, else transformers.",
    )
    base_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(),
        description="A server with the OpenAI completions API, like http://127.0.0.1:8000/v1. Repeat for several "
        "servers.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the Hub.")
    tokenizer: Annotated[str | None, Option(shown="the model's")] = Field(
        default=None, description="Folder or Hugging Face name of the tokenizer."
    )
    dtype: str = Field(default="auto", description="Weights: auto, bfloat16, float16, float32, or int8 on a CPU.")
    max_model_len: Annotated[int | None, Option(shown="the model's")] = Field(
        default=None, ge=16, description="Longest context, in tokens."
    )
    max_num_seqs: Annotated[int | None, Option(shown="the engine's", free=True)] = Field(
        default=None, ge=1, description="Most sequences decoded at once."
    )
    tensor_parallel_size: Annotated[int | None, Option(shown="1", free=True, engine="vllm")] = Field(
        default=None, ge=1, description="GPUs that share the model (vllm)."
    )
    gpu_memory_utilization: Annotated[float | None, Option(shown="0.9", free=True, engine="vllm")] = Field(
        default=None, gt=0, le=1, description="Share of the GPU's memory for weights and cache (vllm)."
    )
    device: Annotated[str | None, Option(shown="an accelerator if there is one", engine="transformers")] = Field(
        default=None, description="Device of the model, such as cuda:1 (transformers)."
    )
    threads: Annotated[int | None, Option(shown="all cores but one", free=True, engine="transformers")] = Field(
        default=None, ge=1, description="CPU threads for a model on the CPU (transformers)."
    )
    api_key_env: Annotated[str | None, Option(shown="OPENAI_API_KEY", free=True, engine="openai")] = Field(
        default=None, description="Environment variable with the servers' API key."
    )
    timeout_s: Annotated[float | None, Option(shown="600", free=True, engine="openai")] = Field(
        default=None, gt=0, description="Longest wait for one response of a server, in seconds."
    )
    patience_s: Annotated[float | None, Option(shown=f"{PATIENCE_S:g}", free=True, engine="openai")] = Field(
        default=None, ge=0, description="How long a request to a failing server is retried, in seconds."
    )

    def options_for(self, kind: EngineKind | None) -> dict[str, Any]:
        """The arguments of an engine of this kind, other than model, tokenizer, revision, dtype and seed.

        Args:
            kind: the engine; None returns all that are set.

        Raises:
            ConfigError: an argument of another engine is set.
        """
        found: dict[str, Any] = {}
        for name, field in EngineConfig.model_fields.items():
            value: object = getattr(self, name)
            own = option_of(field).engine
            if value is None or not (own or name in ("max_model_len", "max_num_seqs")):
                continue
            if kind is not None and own not in (None, kind):
                raise ConfigError(f"{name} {value!r} is for the {own} engine, and the model runs on {kind}")
            found[name] = value
        return found


class SandboxConfig(Config):
    """Where model-written code runs, and its limits."""

    sandbox: Annotated[str, Option(metavar="BACKEND", free=True)] = Field(
        default="auto",
        description="What runs the code: docker, podman, bubblewrap, or auto (Docker, else bubblewrap, else Podman). "
        "Or where `genprm sandbox serve` answers: https://HOST:PORT or unix:/PATH, several with commas between them.",
    )
    sandbox_wall_s: float = Field(default=_LIMITS.wall_s, gt=0, le=3600, description="Wall time of a snippet, seconds.")
    sandbox_cpu_s: float = Field(default=_LIMITS.cpu_s, gt=0, le=3600, description="CPU time of a snippet, seconds.")
    sandbox_memory_mb: int = Field(
        default=_LIMITS.memory_mb, ge=64, le=1 << 20, description="MiB of a session, without libraries."
    )
    sandbox_output_kb: int = Field(
        default=_LIMITS.output_kb, ge=1, le=1 << 14, description="KiB of a snippet's output to keep."
    )
    sandbox_lanes: Annotated[int | None, Option(shown="the number of cores, or what the services offer", free=True)] = (
        Field(default=None, ge=1, le=1024, description="Most snippets that run at once.")
    )
    sandbox_runtime: Annotated[str | None, Option(shown="the engine's own", free=True)] = Field(
        default=None, description="A container runtime known to Docker or Podman, such as `kata-runtime`."
    )

    @field_validator("sandbox", mode="after")
    @classmethod
    def _known_sandbox(cls, value: str) -> str:
        return check_backend(value)

    @property
    def limits(self) -> Limits:
        """The limits of a snippet."""
        return Limits(self.sandbox_wall_s, self.sandbox_cpu_s, self.sandbox_memory_mb, self.sandbox_output_kb)

    def open_sandbox(self) -> Sandbox:
        """The sandbox, to be used with `async with`; see `genprm.sandbox.open_sandbox`."""
        lanes, runtime = self.sandbox_lanes, self.sandbox_runtime
        return open_sandbox(self.sandbox, limits=self.limits, lanes=lanes, runtime=runtime)


class ClusterConfig(Config):
    """Workers on a Ray cluster."""

    cluster: Annotated[str | None, Option(metavar="ray|ADDRESS", shown="none", free=True)] = Field(
        default=None,
        description="Run the model on a Ray cluster: `ray` (this machine's, or a local one), or ray://HOST:10001.",
    )
    workers: Annotated[int | None, Option(shown="one per GPU, or one per node without GPUs", free=True)] = Field(
        default=None, ge=1, description="Number of workers for each model on the cluster."
    )

    @model_validator(mode="after")
    def _workers_have_a_cluster(self) -> Self:
        if self.workers is not None and self.cluster is None:
            raise ValueError(f"workers {self.workers} need a cluster: set --cluster ray")
        return self


class JudgeConfig(ClusterConfig, SandboxConfig, EngineConfig):
    """A process reward model, and how it judges."""

    family: Annotated[str | None, Option(flags=("--prm", "--family"), shown="from genprm.json, name or class")] = Field(
        default=None,
        description="Family of the PRM: `genprm`, `thinkprm`, `critic` (any chat model), "
        "`implicit` (any causal language model with a reference), or a discriminative one such as `qwen-prm`.",
    )
    with_code: Annotated[bool, Option(flags=("--with-code/--no-code",), stored=False)] = Field(
        default=True,
        description="Let the model write Python that checks a step, and run it; `auto`: only for steps that need it.",
    )
    mode: Annotated[Mode, Option(shown="execute with code, analyze without")] = Field(
        default=Mode.EXECUTE,
        description="In detail: `execute` writes and runs code, `code` writes it without running it, `analyze` writes "
        "none, `direct` asks only for the verdict, `auto` runs code only for steps that need it.",
    )
    votes: Annotated[int | str, Option(metavar="N|adaptive[:N]", text=True)] = Field(
        default=1,
        description="Independent chains per solution; their scores are averaged. `adaptive` stops voting on a step "
        f"when the remaining votes cannot flip its verdict, and takes at most {ADAPTIVE_VOTES} votes, or N.",
    )
    confidence: Annotated[float | None, Option(shown="1")] = Field(
        default=None,
        ge=0.5,
        le=1,
        description="With adaptive votes: voting stops when the remaining votes keep the verdict with this "
        "probability; 1 means that they cannot flip it.",
    )
    certainty: float = Field(
        default=CERTAINTY,
        ge=0.5,
        le=1,
        description="In mode `auto`: how certain the verdict after the analysis must be for a step to skip code.",
    )
    until: Until = Field(
        default=Until.END, description="`end` judges every step; `first-error` stops after the first wrong one."
    )
    temperature: Annotated[float | None, Option(shown="the model's own")] = Field(
        default=None, ge=0, le=2, description="Sampling temperature of the judge; 0 is greedy."
    )
    top_p: Annotated[float | None, Option(shown="the model's own")] = Field(
        default=None, gt=0, le=1, description="Nucleus sampling (top-p) of the judge."
    )
    top_k: Annotated[int | None, Option(shown="the model's own")] = Field(
        default=None, ge=0, description="Top-k sampling of the judge; 0 for no limit."
    )
    threshold: float = Field(
        default=DEFAULT_THRESHOLD, ge=0, le=1, description="A step that scores below this is judged wrong."
    )
    calibration: Annotated[str | None, Option(shown="none")] = Field(
        default=None, description="A file of `genprm calibrate`, applied to all scores."
    )
    profile: Annotated[dict[str, JsonValue] | None, Option(metavar="FILE", text=True, shown="the model's own")] = Field(
        default=None,
        description="A YAML or JSON file with fields of the family's profile, such as ThinkPRM's `rounds: 4` or "
        "`per_step: true`, or a `template` for another domain.",
    )
    reference: Annotated[str | None, Option(shown="that of a released model")] = Field(
        default=None,
        description="Reference model of an implicit PRM: a Hugging Face name or a folder; `none` means no reference "
        "model.",
    )
    reference_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(), description="A server with the reference. Repeat for several servers."
    )
    reference_revision: str | None = Field(default=None, description="Branch, tag or commit of the reference.")
    reference_dtype: str | None = Field(default=None, description="Weights of the reference; by default `dtype`.")
    reference_cache: Annotated[str, Option(metavar="auto|none|FOLDER", free=True)] = Field(
        default="auto",
        description="Folder for the reference's log-probabilities; `auto` is the user's cache folder.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_mode(cls, values: Any) -> Any:
        """Makes `mode` and `with_code` consistent: each implies the other."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, object]", values)
        mode, with_code = given.get("mode"), given.get("with_code")
        if with_code == "auto":
            with_code, mode = True, mode or "auto"
        if mode is None and with_code is not None:
            mode = Mode.EXECUTE if with_code else Mode.ANALYZE
        if mode is None or mode not in list(Mode):
            return given
        executes = Mode(str(mode)).executes
        if isinstance(with_code, bool) and with_code != executes:
            raise ValueError(f"mode {str(mode)!r} contradicts {'--with-code' if with_code else '--no-code'}")
        return {**given, "mode": mode, "with_code": executes}

    @field_validator("votes", mode="after")
    @classmethod
    def _known_votes(cls, votes: int | str) -> int | str:
        word, _, number = str(votes).partition(":")
        text = (number or str(ADAPTIVE_VOTES)) if word == ADAPTIVE else str(votes)
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"votes must be a number from 1, `adaptive` or `adaptive:N`, not {votes!r}")
        return f"{ADAPTIVE}:{text}" if word == ADAPTIVE else int(text)

    @field_validator("profile", mode="before")
    @classmethod
    def _read_profile(cls, profile: object) -> object:
        if not isinstance(profile, (str, Path)):
            return profile
        found = read_yaml(Path(profile), "the profile")
        if not isinstance(found, dict):
            raise ValueError(f"{str(profile)!r} must be a mapping of profile fields to values, not {found!r:.80}")
        return cast("dict[str, object]", found)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.confidence is not None and not self.adaptive:
            raise ValueError(f"confidence {self.confidence:g} is for adaptive votes: votes adaptive:{self.votes}")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether voting on a step stops once its verdict is settled."""
        return isinstance(self.votes, str)

    @property
    def most_votes(self) -> int:
        """Most votes per solution."""
        return int(str(self.votes).removeprefix(f"{ADAPTIVE}:"))

    @property
    def settled_at(self) -> float | None:
        """The confidence at which voting stops; None means that all votes are taken."""
        return (self.confidence or 1.0) if self.adaptive else None

    def stored(self) -> dict[str, JsonValue]:
        """The fields for `run.json`, with a digest in place of the calibration's path: a file may be moved."""
        kept = super().stored()
        if self.calibration is not None:
            kept["calibration"] = content_digest(Path(self.calibration), "the calibration")
        return kept


class PolicyConfig(EngineConfig):
    r"""A policy (the model whose solutions are judged), its prompt and its sampling."""

    model: Annotated[str, Field(min_length=1)] = Field(
        default=BUILT_IN_POLICY,
        description="The model that writes solutions: `nano-policy`, a Hugging Face name or a folder.",
    )
    prompt: str = Field(
        default="{{ problem }}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        description="Jinja template of the user turn. The default is GenPRM's (arXiv 2504.00891, app. A).",
    )
    system: Annotated[str | None, Option(shown="none")] = Field(default=None, description="System prompt.")
    chat: bool = Field(
        default=True, description="Use the model's chat template; otherwise the prompt is continued as plain text."
    )
    temperature: float = Field(default=0.8, ge=0, le=2, description="Sampling temperature of the policy; 0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus sampling (top-p) of the policy.")
    top_k: int = Field(default=0, ge=0, description="Top-k sampling of the policy; 0 for no limit.")
    max_tokens: int = Field(default=2048, ge=1, description="Longest solution, in tokens.")
    stop: Annotated[tuple[str, ...], Option(shown="a blank line")] = Field(
        default=("\n\n",), description="What ends a step."
    )
    opening: str = Field(default="", description="Text before every step, as `Step {number}: `.")
    ends_with: Annotated[str | None, Option(shown="the end of the turn")] = Field(
        default=None, description=r"A step with this text ends the solution, such as `\boxed{`."
    )
    max_steps: int = Field(default=64, ge=1, description="Most steps sampled one by one.")


class WorkConfig(Config):
    """How the rows of a run are processed."""

    seed: int = Field(default=0, ge=0, description="Random seed; makes sampling repeatable.")
    concurrency: Annotated[int | None, Option(shown="enough to keep the engine busy", free=True)] = Field(
        default=None, ge=1, description="Rows in flight at once."
    )
    keep: Keep = Field(
        default=Keep.FULL,
        description="What rows keep: `full` (texts, code, output) or `scores` (about 100 bytes per step).",
    )


class RunConfig(WorkConfig):
    """A run of a command: how much input it reads, and its output folder."""

    limit: Annotated[int | None, Option(shown="all", free=True)] = Field(
        default=None, ge=1, description="Read at most this many rows."
    )
    sample: Annotated[int | None, Option(shown="all", free=True)] = Field(
        default=None, ge=1, description="Choose this many rows at random (by the seed), before --limit."
    )
    out: Annotated[Path | None, Option(flags=("--out", "-o"), shown="runs/NAME-DIGEST", stored=False)] = Field(
        default=None, description="Folder of the run. The same command resumes it."
    )
    clean: Annotated[bool, Option(flags=("--clean",), stored=False)] = Field(
        default=False, description="Delete the run in the folder and start over."
    )
    track: Annotated[TrackerName, Option(stored=False)] = Field(
        default="none", description="Also log counts and metrics to this experiment tracker."
    )
    as_json: Annotated[bool, Option(flags=("--json",), stored=False)] = Field(
        default=False, description="Print the result as one JSON object in place of tables."
    )
    dry_run: Annotated[bool, Option(flags=("--dry-run",), stored=False)] = Field(
        default=False, description="Print the resolved configuration and what would be loaded, then exit."
    )
