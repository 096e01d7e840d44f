"""TRL: GRPO whose advantages differ from step to step. Read in trl 1.16.

trainer = StepGRPOTrainer(model="Qwen/Qwen2.5-1.5B-Instruct", train_dataset=data, args=GRPOConfig(...))

The data have the columns `prompt` and `answer`, and `genprm serve` judges. Everything else is GRPOTrainer's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from trl.trainer.grpo_trainer import GRPOTrainer

from genprm.chat_text import solution_of
from genprm.client import Score
from genprm.integrations.trl import process_scores
from genprm.rewards import WEIGHT, Norm, step_credit
from genprm.step_tokens import Span, spread, token_ends, token_steps

Judge = Callable[..., Awaitable[list[Score | None]]]
Ids = Sequence[int]


class StepGRPOTrainer(GRPOTrainer):
    """GRPO on the answers, with the credit of `genprm.rewards.step_credit` on the tokens of each step.

    A completion's own advantage is GRPO's, from a reward of 1 for a right answer and 0 for any other. To it comes, on
    each token, the credit of the step in which the token ends. The advantages have the shape (B, T). Where all steps of
    a group's right answers score alike the credit is 0, and what remains is GRPOTrainer with that reward.

    Args:
        model: as for GRPOTrainer.
        judge: called as TRL calls a reward function, with one `Score` a completion, or None where there is none. By
            default a running `genprm serve` judges (`process_scores`).
        reward_funcs: further rewards, added to that of the answer.
        weight: of the credit, in [0, 1).
        **options: GRPOTrainer's. With `scale_rewards="none"` the credit is not divided by its spread either.

    Raises:
        ValueError: while training, when no answer of the first batch could be compared: the column with the reference
            answers is missing.
    """

    def __init__(
        self,
        model: Any,
        judge: Judge | None = None,
        *,
        reward_funcs: Any = (),
        weight: float = WEIGHT,
        **options: Any,
    ) -> None:
        if not 0 <= weight < 1:
            raise ValueError(f"weight must be at least 0 and below 1, not {weight!r}")
        self._judge = judge or process_scores()
        self._weight = weight
        self._judged: list[tuple[Score | None, str, Ids]] = []
        self._compared = False
        further = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
        # TRL also takes coroutines, which its type does not say.
        rewards: Any = [self._outcome_reward(), *further]
        super().__init__(model=model, reward_funcs=rewards, **options)

    def _outcome_reward(self) -> Callable[..., Awaitable[list[float | None]]]:
        async def genprm_outcome(
            prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Ids], **columns: Any
        ) -> list[float | None]:
            found = await self._judge(
                prompts=prompts, completions=completions, completion_ids=completion_ids, **columns
            )
            texts = [solution_of(completion) for completion in completions]
            self._judged = list(zip(found, texts, completion_ids, strict=True))
            rewards = [_outcome(score) for score in found]
            self._compared = self._compared or any(reward is not None for reward in rewards)
            if not self._compared and any(score is not None for score in found):
                raise ValueError("no answer could be compared: has the data set a column with the reference answers?")
            return [None if reward is None else float(reward) for reward in rewards]

        return genprm_outcome

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        judged, self._judged = self._judged, []
        # The completions of one prompt may be spread over several processes.
        everyone: list[tuple[list[float | None], bool | None]] = gather_object(
            [([] if score is None else score.scores, _outcome(score)) for score, _, _ in judged]
        )
        trainer: Any = self
        size: int = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        norm = Norm.RLOO if self.scale_rewards == "none" else Norm.GRPO
        credit: list[list[float]] = []
        for start in range(0, len(everyone), size):
            group = everyone[start : start + size]
            credit += step_credit([g[0] for g in group], [g[1] for g in group], weight=self._weight, norm=norm)
        first = self.accelerator.process_index * len(judged)
        mine = credit[first : first + len(judged)]
        outcome: torch.Tensor = output["advantages"]
        ids: torch.Tensor = output["completion_ids"]
        extra = torch.zeros(ids.shape, dtype=outcome.dtype)
        for row, ((score, text, tokens), steps) in enumerate(zip(judged, mine, strict=True)):
            if score is not None and any(steps):
                placed = place(self._decode, score, steps, text, tokens)
                extra[row, : len(placed)] = torch.tensor(placed, dtype=outcome.dtype)
        output["advantages"] = outcome.unsqueeze(1) + extra.to(outcome.device)
        return output

    def _decode(self, ids: list[int]) -> str:
        tokenizer: Any = getattr(self.processing_class, "tokenizer", self.processing_class)
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def place(
    decode: Callable[[list[int]], str], score: Score, credit: Sequence[float], solution: str, ids: Ids
) -> list[float]:
    """The credit of each step on the step's tokens.

    Args:
        decode: from ids to text.
        score: with the places of the steps in the solution.
        credit: one a step.
        solution: the text that was judged.
        ids: the completion, which holds the solution: a reasoning model's thoughts may stand before it.

    Returns:
        One number a token; 0 where a token belongs to no step, everywhere when the solution does not stand in the
        completion.
    """
    ends = token_ends(decode, ids)
    begin = decode(list(ids)).rfind(solution)
    if score.spans is None or begin < 0:
        return [0.0] * len(ends)
    spans = [Span(begin + start, begin + end) for start, end in score.spans]
    owners = token_steps(spans, list(zip([0, *ends], ends, strict=False)))
    return spread(credit, owners)


def _outcome(score: Score | None) -> bool | None:
    """Whether the answer is right; one that a guard refuses counts as wrong."""
    if score is None:
        return None
    return False if score.violation is not None else score.correct
