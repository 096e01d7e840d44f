"""What a run is configured with: one frozen model for each concern, and everything else is made from their fields.

A field's description, range and default are given here and nowhere else. The options of the commands with their help
and their environment variables, the keys of recipes, `run.json`, what a worker of a cluster is opened with, and the
arguments of `genprm.load_prm` all come from these fields.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, JsonValue, field_validator, model_validator

from genprm.fields import Config, ConfigError, Option, content_digest, option_of, read_yaml
from genprm.sandbox import Limits, Sandbox, open_sandbox
from genprm.sandbox.opening import BackendName
from genprm.types import DEFAULT_THRESHOLD

EngineKind = Literal["auto", "transformers", "vllm", "openai"]
BUILT_IN, BUILT_IN_POLICY = "nano", "nano-policy"
"""The names of the models that come with the package."""
ADAPTIVE = "adaptive"
ADAPTIVE_VOTES = 8
"""Most votes where `adaptive` names no number: what the published results use."""
CERTAINTY = 0.9
"""The certainty of the verdict after the analysis from which a step that computes nothing goes without code."""
PATIENCE_S = 300.0
"""For how long a request to servers that fail is sent again: a large model needs minutes to load."""
_LIMITS = Limits()


class Mode(StrEnum):
    """How much of GenPRM's protocol a judge goes through."""

    DIRECT = "direct"
    """Only the judgement."""
    ANALYZE = "analyze"
    """An analysis, then the judgement."""
    CODE = "code"
    """Code is written but never run; the model imagines its output."""
    EXECUTE = "execute"
    """Code is written and run, and its real output goes into the judgement."""
    AUTO = "auto"
    """Code is written and run for the steps where it pays: see `genprm.prms.genprm.adaptive.needs_code`."""

    @property
    def executes(self) -> bool:
        """Whether code may run, so that a sandbox is needed."""
        return self in (Mode.EXECUTE, Mode.AUTO)


class Until(StrEnum):
    """How far a solution is judged."""

    END = "end"
    """Every step."""
    FIRST_ERROR = "first-error"
    """Up to the first wrong step, as decided by the mean of the votes."""


class Keep(StrEnum):
    """How much of a judgement a row keeps."""

    FULL = "full"
    """Everything: problem, steps, every chain's text, code and output. About 16 kB a chain of 4,000 tokens."""
    SCORES = "scores"
    """Scores, verdicts and token counts: about 100 bytes a step."""


class EngineConfig(Config):
    """A model, and the engine it runs on."""

    model: Annotated[str, Field(min_length=1)] = Field(
        default=BUILT_IN,
        description="`nano` (the built-in model), a Hugging Face name such as GenPRM/GenPRM-7B, or a folder.",
    )
    engine: EngineKind = Field(
        default="auto",
        description="`auto`: openai with a base URL, else vllm where it is installed on a GPU, else transformers.",
    )
    base_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(),
        description="A server with the OpenAI completions API, like http://127.0.0.1:8000/v1. Repeat it for several "
        "servers.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a model from Hugging Face.")
    tokenizer: Annotated[str | None, Option(shown="the model's")] = Field(
        default=None, description="Folder or Hugging Face name of the tokenizer."
    )
    dtype: str = Field(default="auto", description="Weights: auto, bfloat16, float16, float32, or int8 on a CPU.")
    max_model_len: Annotated[int | None, Option(shown="the model's")] = Field(
        default=None, ge=16, description="Longest context, in tokens."
    )
    max_num_seqs: Annotated[int | None, Option(shown="the engine's", free=True)] = Field(
        default=None, ge=1, description="Sequences decoded at once at most."
    )
    tensor_parallel_size: Annotated[int | None, Option(shown="1", free=True, engine="vllm")] = Field(
        default=None, ge=1, description="GPUs that share the model (vllm)."
    )
    gpu_memory_utilization: Annotated[float | None, Option(shown="0.9", free=True, engine="vllm")] = Field(
        default=None, gt=0, le=1, description="Share of the GPU's memory for weights and cache (vllm)."
    )
    device: Annotated[str | None, Option(shown="an accelerator if there is one", engine="transformers")] = Field(
        default=None, description="Where the model lies, cuda:1 for example (transformers)."
    )
    threads: Annotated[int | None, Option(shown="all cores but one", free=True, engine="transformers")] = Field(
        default=None, ge=1, description="Cores that a model on the CPU computes with (transformers)."
    )
    api_key_env: Annotated[str | None, Option(shown="OPENAI_API_KEY", free=True, engine="openai")] = Field(
        default=None, description="The environment variable that holds the servers' key."
    )
    timeout_s: Annotated[float | None, Option(shown="600", free=True, engine="openai")] = Field(
        default=None, gt=0, description="Longest wait for one answer of a server, in seconds."
    )
    patience_s: Annotated[float | None, Option(shown=f"{PATIENCE_S:g}", free=True, engine="openai")] = Field(
        default=None, ge=0, description="For how long a request to a server that fails is sent again, in seconds."
    )

    def options_for(self, kind: EngineKind | None) -> dict[str, Any]:
        """The arguments that an engine of this kind takes beside model, tokenizer, revision, dtype and seed.

        Args:
            kind: the engine; None gives all that are set.

        Raises:
            ConfigError: one is set that is for another engine.
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
    """Where the code that a model wrote runs, and what a snippet may use."""

    sandbox: Annotated[BackendName, Option(free=True)] = Field(
        default="auto", description="What runs the code. `auto`: Docker where an engine answers, else bubblewrap."
    )
    sandbox_wall_s: float = Field(default=_LIMITS.wall_s, gt=0, le=3600, description="Seconds that a snippet may take.")
    sandbox_cpu_s: float = Field(default=_LIMITS.cpu_s, gt=0, le=3600, description="Seconds of CPU time of a snippet.")
    sandbox_memory_mb: int = Field(
        default=_LIMITS.memory_mb, ge=64, le=1 << 20, description="MiB of memory of a session, libraries aside."
    )
    sandbox_output_kb: int = Field(
        default=_LIMITS.output_kb, ge=1, le=1 << 14, description="KiB kept of a snippet's output."
    )
    sandbox_lanes: Annotated[int | None, Option(shown="the number of cores", free=True)] = Field(
        default=None, ge=1, le=1024, description="Snippets that run at the same time at most."
    )
    sandbox_runtime: Annotated[str | None, Option(shown="the engine's own", free=True)] = Field(
        default=None, description="A container runtime that Docker knows, `runsc` for gVisor."
    )

    @property
    def limits(self) -> Limits:
        """What a snippet may use."""
        return Limits(self.sandbox_wall_s, self.sandbox_cpu_s, self.sandbox_memory_mb, self.sandbox_output_kb)

    def open_sandbox(self) -> Sandbox:
        """The sandbox, to be used with `async with`; see `genprm.sandbox.open_sandbox`."""
        lanes, runtime = self.sandbox_lanes, self.sandbox_runtime
        return open_sandbox(self.sandbox, limits=self.limits, lanes=lanes, runtime=runtime)


class ClusterConfig(Config):
    """Workers on a Ray cluster."""

    cluster: Annotated[str | None, Option(metavar="ray|ADDRESS", shown="none", free=True)] = Field(
        default=None,
        description="Open the model on the workers of a Ray cluster: `ray` for the one this machine belongs to (or one "
        "of its own), or an address like ray://head:10001.",
    )
    workers: Annotated[int | None, Option(shown="one a GPU, or one a node without GPUs", free=True)] = Field(
        default=None, ge=1, description="Workers of each model on the cluster."
    )

    @model_validator(mode="after")
    def _workers_have_a_cluster(self) -> Self:
        if self.workers is not None and self.cluster is None:
            raise ValueError(f"workers {self.workers} need a cluster: set --cluster ray")
        return self


class JudgeConfig(ClusterConfig, SandboxConfig, EngineConfig):
    """A process reward model, and how it judges."""

    family: Annotated[
        str | None,
        Option(flags=("--prm", "--family"), shown="what its genprm.json, its name or its architecture says"),
    ] = Field(
        default=None,
        description="The kind of PRM that the model is taken as: `genprm`, `thinkprm`, `critic` (any chat model), "
        "`implicit` (any causal language model with a reference), or a discriminative one such as `qwen-prm`.",
    )
    with_code: Annotated[bool, Option(flags=("--with-code/--no-code",), stored=False)] = Field(
        default=True,
        description="Let the model write Python that checks a step, and run it. With `auto`, where it pays.",
    )
    mode: Annotated[Mode, Option(shown="execute with code, analyze without")] = Field(
        default=Mode.EXECUTE,
        description="In detail: `execute` runs code, `code` lets it be written but not run, `analyze` goes without, "
        "`direct` asks for the verdict alone, `auto` runs code for the steps where it pays.",
    )
    votes: Annotated[int | str, Option(metavar="N|adaptive[:N]", text=True)] = Field(
        default=1,
        description="Independent chains a solution; their scores are averaged. `adaptive` stops voting on a step when "
        f"the missing votes cannot flip its verdict; it asks for {ADAPTIVE_VOTES} at most, or N.",
    )
    confidence: Annotated[float | None, Option(shown="1")] = Field(
        default=None,
        ge=0.5,
        le=1,
        description="With adaptive votes: how sure a verdict must be to stop; below 1, voting also stops when the "
        "missing votes will probably not flip it.",
    )
    certainty: float = Field(
        default=CERTAINTY,
        ge=0.5,
        le=1,
        description="In mode `auto`: how sure the verdict after the analysis must be for a step to go without code.",
    )
    until: Until = Field(
        default=Until.END, description="How far: `first-error` leaves out the steps after the first wrong one."
    )
    temperature: Annotated[float | None, Option(shown="the model's own")] = Field(
        default=None, ge=0, le=2, description="Of the judge's chains; 0 is greedy."
    )
    top_p: Annotated[float | None, Option(shown="the model's own")] = Field(
        default=None, gt=0, le=1, description="Nucleus of the judge's sampling."
    )
    top_k: Annotated[int | None, Option(shown="the model's own")] = Field(
        default=None, ge=0, description="Candidates of the judge's sampling; 0 for all."
    )
    threshold: float = Field(
        default=DEFAULT_THRESHOLD, ge=0, le=1, description="A step that scores below this is judged wrong."
    )
    calibration: Annotated[str | None, Option(shown="none")] = Field(
        default=None, description="A file of `genprm calibrate`, applied to all scores."
    )
    profile: Annotated[dict[str, JsonValue] | None, Option(metavar="FILE", text=True, shown="the model's own")] = Field(
        default=None,
        description="A YAML or JSON file with fields of the family's protocol, such as `rounds: 4` or `per_step: true` "
        "of ThinkPRM, or a `template` for another domain.",
    )
    reference: Annotated[str | None, Option(shown="what is known of a released one")] = Field(
        default=None,
        description="The model that an implicit PRM was trained against: a Hugging Face name or a folder; `none` "
        "scores without one.",
    )
    reference_url: Annotated[tuple[str, ...], Option(shown="none", free=True)] = Field(
        default=(), description="A server that serves the reference. Repeat it for several servers."
    )
    reference_revision: str | None = Field(default=None, description="Branch, tag or commit of the reference.")
    reference_dtype: str | None = Field(default=None, description="Weights of the reference; by default as `dtype`.")
    reference_cache: Annotated[str, Option(metavar="auto|none|FOLDER", free=True)] = Field(
        default="auto",
        description="Where the reference's log-probabilities are kept; `auto` is the user's cache folder.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_mode(cls, values: Any) -> Any:
        """`mode` and `with_code` say the same in two ways."""
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
            raise ValueError(f"votes are a number from 1, `adaptive` or `adaptive:N`, not {votes!r}")
        return f"{ADAPTIVE}:{text}" if word == ADAPTIVE else int(text)

    @field_validator("profile", mode="before")
    @classmethod
    def _read_profile(cls, profile: object) -> object:
        if not isinstance(profile, (str, Path)):
            return profile
        found = read_yaml(Path(profile), "the profile")
        if not isinstance(found, dict):
            raise ValueError(f"{str(profile)!r} must hold fields of a profile and their values, not {found!r:.80}")
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
        """Votes a solution, at most."""
        return int(str(self.votes).removeprefix(f"{ADAPTIVE}:"))

    @property
    def settled_at(self) -> float | None:
        """The confidence at which voting stops; None takes all votes."""
        return (self.confidence or 1.0) if self.adaptive else None

    def stored(self) -> dict[str, JsonValue]:
        """What `run.json` keeps of it: a calibration by its content, as a file may be moved."""
        kept = super().stored()
        if self.calibration is not None:
            kept["calibration"] = content_digest(Path(self.calibration), "the calibration")
        return kept


class PolicyConfig(EngineConfig):
    r"""A policy, the model whose solutions are judged, and how it is asked and sampled."""

    model: Annotated[str, Field(min_length=1)] = Field(
        default=BUILT_IN_POLICY,
        description="The model that writes solutions: `nano-policy`, a Hugging Face name or a folder.",
    )
    prompt: str = Field(
        default="{{ problem }}\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        description="Jinja template of the user's turn. The default is GenPRM's (arXiv 2504.00891, app. A).",
    )
    system: Annotated[str | None, Option(shown="none")] = Field(
        default=None, description="System prompt of the policy."
    )
    chat: bool = Field(
        default=True, description="Use the model's chat template; without it the prompt is continued as plain text."
    )
    temperature: float = Field(default=0.8, ge=0, le=2, description="Of the policy; 0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus of the policy's sampling.")
    top_k: int = Field(default=0, ge=0, description="Candidates of the policy's sampling; 0 for all.")
    max_tokens: int = Field(default=2048, ge=1, description="Longest solution, in tokens.")
    stop: Annotated[tuple[str, ...], Option(shown="a blank line")] = Field(
        default=("\n\n",), description="What ends a step."
    )
    opening: str = Field(
        default="", description="Written for the model at the beginning of every step, `Step {number}: ` for example."
    )
    ends_with: Annotated[str | None, Option(shown="the end of the turn")] = Field(
        default=None, description=r"A step that holds this text ends the solution, `\boxed{` for example."
    )
    max_steps: int = Field(default=64, ge=1, description="Most steps of a solution that is sampled step by step.")


class WorkConfig(Config):
    """How the rows of a run are worked on."""

    seed: int = Field(default=0, ge=0, description="Makes sampling repeatable.")
    concurrency: Annotated[int | None, Option(shown="what keeps the engine full", free=True)] = Field(
        default=None, ge=1, description="Rows in flight at once."
    )
    keep: Keep = Field(
        default=Keep.FULL,
        description="What rows keep: `full` (texts, code, output) or `scores` (about 100 bytes a step).",
    )


class RunConfig(WorkConfig):
    """A run of a command: how much of the input, and the folder it goes to."""

    limit: Annotated[int | None, Option(shown="all", free=True)] = Field(
        default=None, ge=1, description="Read at most so many rows."
    )
    sample: Annotated[int | None, Option(shown="all", free=True)] = Field(
        default=None, ge=1, description="Choose so many rows at random, by the seed, before --limit counts."
    )
    out: Annotated[Path | None, Option(flags=("--out", "-o"), shown="runs/NAME-DIGEST", stored=False)] = Field(
        default=None, description="Folder of the run. The same command goes on where it stopped."
    )
    clean: Annotated[bool, Option(flags=("--clean",), stored=False)] = Field(
        default=False, description="Delete the run that is in the folder, and start over."
    )
    dry_run: Annotated[bool, Option(flags=("--dry-run",), stored=False)] = Field(
        default=False, description="Print the resolved configuration and what would be loaded, and stop."
    )
