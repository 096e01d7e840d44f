"""Trains implicit PRMs on outcomes: cross-entropy on the log-ratio, or DPO by TRL.

The reference scores everything once, before training, and uses the same cache as scoring: nothing is computed twice,
and the two models are never in memory together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from genprm.benchmarks.processbench import f1_score
from genprm.concurrency import gather
from genprm.engines.errors import ContextOverflowError
from genprm.prms.implicit.load import Source, load_implicit
from genprm.prms.implicit.logratio import ChatSpans, ImplicitProfile, rewards
from genprm.prms.load import model_path
from genprm.train.config import ImplicitConfig
from genprm.train.response_rows import Response, pairs_of, response_rows
from genprm.train.rows import Collected, TrainError, read_source
from genprm.train.running import (
    Note,
    Running,
    Say,
    autocast_of,
    check_devices,
    check_installed,
    load_network,
    load_tokenizers,
    longest_of,
    lora_config,
    need_template,
    training_arguments,
)

if TYPE_CHECKING:
    from torch import Tensor

    from genprm.train.finished import Trained


@dataclass(frozen=True, slots=True)
class Scored:
    """A response and the reference's log-probabilities."""

    response: Response
    reference: list[float]
    """Log-probabilities of the tokens from `response.spans.start` on."""


def train_implicit(config: ImplicitConfig, out: Path, *, say: Say | None = None, note: Note | None = None) -> Trained:
    """Trains, evaluates and writes the model's folder. Resumes from the newest checkpoint in `out`, if any.

    Args:
        config: of the run.
        out: the folder, which gets weights, tokenizer, chat template, `genprm.json` and the model card.
        say: prints progress lines.
        note: gets the numbers of every line of the log, such as an experiment tracker.

    Raises:
        TrainError: the data, the model or a checkpoint cannot be used.
        EngineError: there is no tokenizer, or the reference does not load.
        PRMError: the reference has another vocabulary.
        Stopped: a signal ended the run; it can be resumed.
    """
    check_installed()
    check_devices()
    import transformers

    from genprm.train.finished import Product, finish

    hf_tokenizer, tokenizer = load_tokenizers(config)
    need_template(hf_tokenizer, config.model)
    settings = transformers.AutoConfig.from_pretrained(
        model_path(config.model), **({"revision": config.revision} if config.revision else {})
    )
    # The reference's engine keeps one token free.
    longest = longest_of(config, settings) - (config.max_length is None)
    data, held_out = prepare(config, ChatSpans(tokenizer), longest)
    responses = [one for row in data.made for one in row]
    pairs = pairs_of(responses, config.pairs, config.seed) if config.objective == "dpo" else []
    tokens = sum(len(one.spans.ids) for one in responses)
    right = sum(one.correct for one in responses)
    if say is not None:
        paired = f", {len(pairs):,} pairs" if pairs else ""
        say(f"{len(responses):,} responses, {right:,} of them right, {tokens:,} tokens{paired}{data.also}")
    scored, measured = asyncio.run(ask_reference(config, responses, [one for row in held_out for one in row]))
    model = load_network(config, transformers.AutoModelForCausalLM)
    running = Running(config, out, say, note)
    if measured:
        running.every(config.eval_steps, lambda _: measure(trainer, measured, config), begin=True)
    make = _dpo_trainer if config.objective == "dpo" else _ce_trainer
    trainer = make(config, model, hf_tokenizer, scored, pairs, out, running.callbacks)
    running.train(trainer)
    counts = {"responses": len(responses), "right": right, "tokens": tokens, "left_out": len(data.left_out)}
    product = Product(
        command="train implicit",
        layout=f"{config.objective.upper()} on the log-ratio to {config.reference or config.model}",
        profile={"family": "implicit", "profile": asdict(profile_of(config))},
        data=counts | ({"pairs": len(pairs)} if pairs else {}),
        measured="`eval_...` is measured on held-out responses: cross-entropy and accuracy of their outcomes, how "
        "often a right response to a problem gets more than a wrong one (`eval_ordered`), and, where rows say which "
        "step is wrong, the official F1 of ProcessBench at the threshold 0.5.",
        remark=running.remark,
    )
    return finish(trainer, tokenizer, config, out, product)


def profile_of(config: ImplicitConfig) -> ImplicitProfile:
    """The profile of the trained model."""
    reference = config.reference or config.model
    here = Path(reference)
    where = str(here.resolve()) if here.is_dir() else reference
    return ImplicitProfile(where, config.beta, reference_revision=_reference_revision(config))


def _reference_revision(config: ImplicitConfig) -> str | None:
    return config.reference_revision if config.reference else config.revision


def prepare(
    config: ImplicitConfig, write: ChatSpans, longest: int
) -> tuple[Collected[list[Response]], list[list[Response]]]:
    """Prepares the data, and the held-out rows if any.

    Args:
        config: of the run.
        write: the judge's formatter.
        longest: most tokens of a sequence.

    Raises:
        TrainError: a row cannot be trained on.
    """

    async def both() -> tuple[Collected[list[Response]], list[list[Response]]]:
        how: Any = {"max_length": longest, "bad_rows": config.bad_rows}
        data = await response_rows(read_source(config.data), write, **how)
        if config.eval_data is None:
            return data, []
        rows = read_source(config.eval_data)
        return data, (await response_rows(rows, write, limit=config.eval_limit, **how)).made

    return asyncio.run(both())


async def ask_reference(config: ImplicitConfig, *groups: Sequence[Response]) -> list[list[Scored]]:
    """The reference's log-probabilities of all responses, from the cache or computed and cached.

    Raises:
        EngineError: the reference does not load, or cannot answer.
        PRMError: it has another vocabulary.
        TrainError: a response does not fit its context.
    """
    place = model_path(config.reference or config.model)
    cache: Path | Literal["auto"] | None = Path(config.reference_cache)
    if config.reference_cache in ("auto", "none"):
        cache = "auto" if config.reference_cache == "auto" else None
    judge = await load_implicit(
        Source(model_path(config.model), revision=config.revision),
        Source(place, revision=_reference_revision(config), dtype=config.reference_dtype),
        engine=config.engine,
        cache=cache,
        seed=config.seed,
        lazy=True,
    )
    reference = judge.reference
    assert reference is not None
    wanted = {tuple(one.spans.ids): one.spans for group in groups for one in group}
    # Neighbours in the queue have similar lengths.
    waiting = iter(sorted(wanted.values(), key=lambda spans: len(spans.ids), reverse=True))
    answers: dict[tuple[int, ...], list[float]] = {}

    async def work() -> None:
        for spans in waiting:
            answers[tuple(spans.ids)] = await reference.logprobs(spans.ids, spans.start)

    try:
        await gather(work() for _ in range(min(len(wanted), 4 * judge.capacity)))
    except ContextOverflowError as error:
        raise TrainError(f"{error}: leave such rows out with --max-length and --bad-rows skip") from None
    finally:
        await judge.close()
    return [[Scored(one, answers[tuple(one.spans.ids)]) for one in group] for group in groups]


def collate(rows: Sequence[Scored]) -> dict[str, Tensor]:
    """Responses as a batch: ids, the reference's log-probabilities, and the outcomes as `labels`."""
    import torch

    from genprm.train.own_loss import padded

    ids = [row.response.spans.ids for row in rows]
    starts = [row.response.spans.start for row in rows]
    known = [[0.0] * start + row.reference for start, row in zip(starts, rows, strict=True)]
    scored = [[0] * start + [1] * len(row.reference) for start, row in zip(starts, rows, strict=True)]
    outcomes = torch.tensor([float(row.response.correct) for row in rows])
    return {
        "input_ids": padded(ids, 0, torch.long),
        "attention_mask": padded([[1] * len(one) for one in ids], 0, torch.long),
        "reference": padded(known, 0.0, torch.float32),
        "response_mask": padded(scored, 0, torch.bool),
        "labels": outcomes,
        "shift_labels": outcomes,
    }


def outcome_loss(model: Any, inputs: Mapping[str, Tensor], *, beta: float) -> Tensor:
    """Cross-entropy of the outcomes, summed over a batch: `genprm.train.implicit.cross_entropy` times its size."""
    from genprm.train.implicit import cross_entropy, response_rewards, token_logprobs

    logprobs = token_logprobs(model, inputs["input_ids"], inputs["attention_mask"])
    found = response_rewards(logprobs, inputs["reference"].to(logprobs.dtype), inputs["response_mask"], beta)
    return cross_entropy(found, inputs["labels"]) * len(inputs["labels"])


def _ce_trainer(
    config: ImplicitConfig, model: Any, tokenizer: Any, data: Sequence[Scored], _: object, out: Path, callbacks: Any
) -> Any:
    from transformers import TrainingArguments

    from genprm.train.callbacks import CHECKPOINTS
    from genprm.train.own_loss import LossTrainer

    if config.lora:
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(config, task_type="CAUSAL_LM"))
    return LossTrainer(
        loss=partial(outcome_loss, beta=config.beta),
        model=model,
        args=TrainingArguments(
            output_dir=str(out / CHECKPOINTS), remove_unused_columns=False, **training_arguments(config)
        ),
        train_dataset=cast(Any, data),
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def _dpo_trainer(
    config: ImplicitConfig,
    model: Any,
    tokenizer: Any,
    data: Sequence[Scored],
    pairs: Sequence[tuple[int, int]],
    out: Path,
    callbacks: Any,
) -> Any:
    import datasets
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from genprm.train.cached_dpo import CachedDPOTrainer
    from genprm.train.callbacks import CHECKPOINTS

    rows: list[dict[str, Any]] = []
    for right, wrong in pairs:
        one, other = data[right], data[wrong]
        start = one.response.spans.start
        prompt = one.response.spans.ids[:start]
        if other.response.spans.ids[:start] != prompt or other.response.spans.start != start:
            raise TrainError(
                f"two responses to {one.response.problem[:60]!r} do not begin at the same token: the tokenizer merges "
                "their beginnings with the prompt. Use --objective ce."
            )
        rows.append(
            {
                "prompt_ids": prompt,
                "chosen_ids": one.response.spans.ids[start:],
                "rejected_ids": other.response.spans.ids[start:],
                "ref_chosen_logps": sum(one.reference),
                "ref_rejected_logps": sum(other.reference),
            }
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return CachedDPOTrainer(
        model=model,
        args=DPOConfig(
            output_dir=str(out / CHECKPOINTS),
            beta=config.beta,
            max_length=None,
            precompute_ref_log_probs=True,
            **training_arguments(config),
        ),
        data_collator=DataCollatorForPreference(pad_token_id=pad or 0, max_length=None),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(config, task_type="CAUSAL_LM") if config.lora else None,
        callbacks=callbacks,
    )


def measure(trainer: Any, rows: Sequence[Scored], config: ImplicitConfig) -> dict[str, float]:
    """Evaluates the model in a trainer on held-out responses."""
    return evaluate(trainer.model, rows, config.beta, config.device_batch_size, autocast_of(trainer.args))


def evaluate(
    model: Any, rows: Sequence[Scored], beta: float, size: int, autocast: Callable[[], Any] | None = None
) -> dict[str, float]:
    """Loss, accuracy and order of the outcomes, and the official F1.

    Args:
        model: a causal language model of transformers, on its device.
        rows: held-out responses.
        beta: the scale of the rewards.
        size: responses per batch.
        autocast: sets the compute type; None computes in the weights' type.
    """
    import contextlib

    import torch

    from genprm.train.implicit import token_logprobs
    from genprm.train.own_loss import by_length, cross_entropy_of, mean

    training = model.training
    model.eval()
    found: list[tuple[Response, list[float]]] = []
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            for batch in by_length(rows, lambda row: len(row.response.spans.ids), size):
                inputs = {name: value.to(device) for name, value in collate(batch).items()}
                with autocast() if autocast is not None else contextlib.nullcontext():
                    logprobs = token_logprobs(model, inputs["input_ids"], inputs["attention_mask"])
                ratios = (logprobs.float() - inputs["reference"]).cpu().tolist()
                for row, values in zip(batch, ratios, strict=True):
                    spans = row.response.spans
                    sums = rewards(spans, values[spans.start : len(spans.ids)], beta).cumulative
                    found.append((row.response, list(sums)))
    finally:
        model.train(training)
    by_problem: dict[str, list[tuple[bool, float]]] = {}
    for response, sums in found:
        by_problem.setdefault(response.problem, []).append((response.correct, sums[-1]))
    ordered = (
        float(one > other)
        for group in by_problem.values()
        for correct, one in group
        for false, other in group
        if correct and not false
    )
    known = [(response, sums) for response, sums in found if response.first_error is not None]
    guesses = [next((step for step, q in enumerate(sums) if q < 0), -1) for _, sums in known]
    score = f1_score(guesses, [one.first_error for one, _ in known if one.first_error is not None])
    named = {
        "eval_loss": mean(cross_entropy_of(sums[-1], float(one.correct)) for one, sums in found),
        "eval_accuracy": mean(float((sums[-1] > 0) == one.correct) for one, sums in found),
        "eval_ordered": mean(ordered),
        "eval_f1": score.f1,
        "eval_error_accuracy": score.error_accuracy,
        "eval_correct_accuracy": score.correct_accuracy,
    }
    return {name: value for name, value in named.items() if value is not None}
