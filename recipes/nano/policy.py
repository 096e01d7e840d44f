r"""Trains the built-in policy: `python recipes/nano/policy.py --out runs/nano-policy`.

A Qwen2-shaped model of about 2 M parameters, trained from scratch on the word problems of `genprm.data.word_problems`
with the trainer of `train.py`. A sequence is one of three kinds:

* a problem and its solution, loss on the solution. Continuing from the first steps of one is the same thing.
* a refinement: problem, a solution with a wrong value in it, the words of a critic about that step, the right solution.
* a drill: equations one under the other, loss on their values.

It is trained briefly on purpose: rollouts, labels and search need a policy that makes errors.
"""

from __future__ import annotations

import argparse
import os
import random
import re
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import torch
from data import ASSISTANT, BOS, CHAT_TEMPLATE, EOS, IGNORE, PAD, USER, Segment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from train import CONTEXT, Batches, BatchTrainer, Snapshot, save_weights
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainingArguments

from genprm import prompts
from genprm.data.steps import join_steps
from genprm.data.word_problems import WordProblem, evaluate, make_problems, write_steps

TRAINING_SEED = 20_000
"""Problems of this seed and the next ones are trained on: tests, examples and figures use seeds below it."""
ASK = prompts.render("policy/system")
REFINE = "There might be some problem in this paragraph of your reasoning, please rethink and refine your answer:\n>"
PHRASES = (ASK, REFINE, " The answer is \\boxed{", "\n\nStep ", "The paragraph says ")
"""One token each."""
NUMBERS = 401
DRILLED = 12
"""Equations of a drill."""


def wrong_solution(problem: WordProblem, rng: random.Random) -> tuple[tuple[str, ...], int]:
    """A solution with one wrong value, and where it is.

    Half the time the steps that follow go on from the wrong value, as a policy's own do; else they are left right.
    """
    at = rng.randrange(len(problem.calculations))
    carried = rng.random() < 0.5
    wrong: dict[int, int] = {}
    """What values on the way have become."""
    sentences: list[str] = []
    value = 0
    for index, calculation in enumerate(problem.calculations):
        left = wrong.get(calculation.left, calculation.left)
        right = calculation.right
        if calculation.operator == "+":  # of two things counted before; else a number of the problem's
            right = wrong.get(right, right)
        value = evaluate(left, calculation.operator, right)
        if index == at:
            value = max(1, value + rng.choice([-10, -2, -1, 1, 2, 10]))
        if value != calculation.value and carried:
            wrong[calculation.value] = value
        sentences.append(calculation.sentence.replace("{e}", f"{left}{calculation.operator}{right} = {value}"))
    return write_steps(sentences, str(value)), at


def opening(problem: WordProblem, rng: random.Random) -> str:
    """The conversation up to the solution, in one of the two usual layouts: what is asked for stands first or last."""
    if rng.random() < 0.5:
        return f"{ASK}{USER}{problem.text}{ASSISTANT}"
    return f"{USER}{problem.text}\n\n{ASK}{ASSISTANT}"


def learned(steps: Sequence[str], values: Container[int]) -> Iterator[Segment]:
    """A solution to learn, with loss on the results of equations only in these steps."""
    for index, step in enumerate(steps):
        before, equals, after = step.partition(" = ")
        value = re.match(r"\d+", after)
        assert value is not None
        yield Segment(("\n\n" if index else "") + before + equals, True)
        yield Segment(value[0], index in values)
        yield Segment(after[value.end() :], True)


def sequences(
    count: int, seed: int, *, refinements: float, drills: float, reading: bool = False
) -> Iterator[list[Segment]]:
    """Training sequences with control tokens as text. Shares of the kinds are 0 to 1; the rest are solutions."""
    rng = random.Random(seed)
    # Where numbers are copied from is learned sooner from short problems; what is still misread then are long ones.
    some = make_problems(count // 3, TRAINING_SEED + 2 * seed, steps=(5, 6) if reading else (2, 3))
    for problem in some + make_problems(count - len(some), TRAINING_SEED + 2 * seed + 1):
        kind = rng.random()
        every = range(len(problem.calculations))
        if kind >= refinements + drills:
            yield [Segment(opening(problem, rng), False), *learned(problem.solution, () if reading else every)]
        elif kind < refinements:
            steps, at = wrong_solution(problem, rng)
            left, right = steps[at].split(" = ")
            said = f"The paragraph says {left.split()[-1]} = {right.split()[0].rstrip('.')}."
            asked = f"{EOS}{USER}{REFINE}{steps[at]}\n\n{said}{ASSISTANT}"
            told = Segment(opening(problem, rng) + join_steps(steps) + asked, False)
            yield [told, *learned(problem.solution, (at,) if reading else every)]
        else:
            segments: list[Segment] = []
            for other in make_problems(4, 1_000_000 + rng.randrange(1 << 40), steps=(4, 5, 6)):
                for calculation in other.calculations:
                    left, value = calculation.equation.split(" = ")
                    segments += [Segment(f"{left} = ", False), Segment(f"{value}\n", True)]
            yield segments[: 2 * DRILLED]


def train_tokenizer(count: int, seed: int) -> Tokenizer:
    """A byte-level BPE of 768 tokens, and one for every number that can occur.

    With a token a number, what is to be learned is where numbers are copied from and tables of sums and products, which
    so small a model can learn in minutes; what it gets wrong is near the truth, as with people.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768 - len(PHRASES),
        special_tokens=[PAD, BOS, EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for problem in make_problems(count, seed) for text in (problem.text, *problem.solution))
    tokenizer.train_from_iterator(texts, trainer)
    numbers = [str(number) for number in range(10, NUMBERS)]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*PHRASES, *numbers)])
    return tokenizer


class Solutions(torch.utils.data.Dataset[dict[str, object]]):
    """All sequences of a run, tokenised up front."""

    def __init__(self, tokenizer: Tokenizer, chosen: Iterator[list[Segment]]) -> None:
        self.rows: list[tuple[list[int], list[int]]] = []
        bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
        for segments in chosen:
            ids, labels = [bos], [IGNORE]
            for segment in segments:
                piece = tokenizer.encode(segment.text, add_special_tokens=False).ids
                ids += piece
                labels += piece if segment.learned else [IGNORE] * len(piece)
            self.rows.append(([*ids, eos], [*labels, eos]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        ids, labels = self.rows[index]
        return {"input_ids": ids, "labels": labels}


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nano-policy"), help="where the model goes")
    parser.add_argument("--init", type=Path, help="continue from this model, with its tokenizer")
    parser.add_argument("--sequences", type=int, default=36_000)
    parser.add_argument("--refinements", type=float, default=0.08, help="share of them")
    parser.add_argument("--drills", type=float, default=0.30, help="share of them")
    parser.add_argument(
        "--reading",
        action="store_true",
        help="learn where numbers are copied from, not the results of equations (except one that a critic doubts)",
    )
    parser.add_argument("--max-steps", type=int, default=-1, help="stop early (for a trial)")
    parser.add_argument("--tokens-per-batch", type=int, default=1536)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    if options.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.init)
        raw = tokenizer.backend_tokenizer
    else:
        raw = train_tokenizer(4000, TRAINING_SEED)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
        )
        tokenizer.chat_template = CHAT_TEMPLATE
    chosen = sequences(
        options.sequences,
        options.seed,
        refinements=options.refinements,
        drills=options.drills,
        reading=options.reading,
    )
    data = Solutions(raw, chosen)
    batches = Batches(data, options.tokens_per_batch, options.seed)
    config = Qwen2Config(
        vocab_size=raw.get_vocab_size(),
        hidden_size=options.hidden,
        intermediate_size=2 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 32,
        num_key_value_heads=options.hidden // 32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=raw.token_to_id(BOS),
        eos_token_id=raw.token_to_id(EOS),
        pad_token_id=raw.token_to_id(PAD),
    )
    if options.init:
        model = Qwen2ForCausalLM.from_pretrained(options.init, dtype=torch.float32)
    else:
        model = Qwen2ForCausalLM(config)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = sum(len(ids) for ids, _ in data.rows)
    print(
        f"{parameters / 1e6:.1f} M parameters, {len(data)} sequences, {tokens / 1e6:.1f} M tokens, "
        f"{len(batches)} batches",
        flush=True,
    )
    arguments = TrainingArguments(
        output_dir=str(options.out),
        num_train_epochs=1,
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        seed=options.seed,
        remove_unused_columns=False,
        disable_tqdm=not os.isatty(2),
    )
    trainer = BatchTrainer(
        batches, model=model, args=arguments, train_dataset=data, callbacks=[Snapshot(options.out, 200, tokenizer)]
    )
    trainer.train()
    save_weights(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
