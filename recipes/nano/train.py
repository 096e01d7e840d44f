"""Trains the built-in GenPRM: `python recipes/nano/train.py --data gsm8k/train.jsonl --out runs/nano`.

A Qwen2-shaped model of about 6 M parameters and a byte-level BPE with single digits, trained from scratch with the
Trainer of transformers on what `data.py` makes of the GSM8K train file. Runs on two CPU cores or on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import re
from pathlib import Path

import torch
from data import (
    ASSISTANT,
    BOS,
    CHAT_TEMPLATE,
    EOS,
    IGNORE,
    PAD,
    PHRASES,
    USER,
    Rows,
    assistant_turn,
    encode,
    read_gsm8k,
    solutions,
    split_rows,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from genprm import prompts

MAX_LENGTH = 640
CONTEXT = 8192


def phrases() -> list[str]:
    """Fixed phrases of all rationales, longest first."""
    head, tail = prompts.render("genprm/analyze", paragraph="@").split("@")
    code_head, code_tail = prompts.render("genprm/code_output", output="@").split("@")
    fixed = [prompts.render("genprm/system"), head, tail, prompts.render("genprm/verify"), code_head, code_tail]
    fixed += [prompts.render("genprm/output"), "}$\n</output>\n", "\n</verify>\n", "\n</analyze>\n", *PHRASES]
    return sorted(set(fixed), key=len, reverse=True)


def train_tokenizer(rows: Rows, seed: int) -> Tokenizer:
    """A byte-level BPE of 2048 tokens in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [prompts.render("genprm/system")] * 200
    for problem, steps, with_code in solutions(rows, 1, seed):
        corpus.append(problem)
        for index, step in enumerate(steps):
            corpus.append(step.text)
            corpus += [segment.text for segment in assistant_turn(index + 1, step, with_code)]
    # The phrases of the protocol, and those the model always says, are one token each: turns get three times shorter.
    corpus = [
        piece
        for text in corpus
        for piece in re.split("|".join(re.escape(phrase) for phrase in phrases()), text)
        if piece
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=2048 - len(phrases()),
        special_tokens=[PAD, BOS, EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases()])
    return tokenizer


class Sequences(torch.utils.data.Dataset[dict[str, object]]):
    """All sequences of a run, made and tokenised up front; those over `MAX_LENGTH` tokens are left out."""

    def __init__(self, tokenizer: Tokenizer, rows: Rows, epochs: int, seed: int) -> None:
        self.rows: list[tuple[list[int], list[int]]] = []
        self.left_out = 0
        for problem, steps, with_code in solutions(rows, epochs, seed):
            ids, labels = encode(tokenizer, problem, steps, with_code)
            if len(ids) <= MAX_LENGTH:
                self.rows.append((ids, labels))
            else:
                self.left_out += 1

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        ids, labels = self.rows[index]
        return {"input_ids": ids, "labels": labels}

    @property
    def tokens(self) -> int:
        """Tokens of all sequences together."""
        return sum(len(ids) for ids, _ in self.rows)


class Batches(torch.utils.data.Sampler[list[int]]):
    """Batches of about equally long sequences, at most `tokens` tokens each with padding, in random order."""

    def __init__(self, data: Sequences, tokens: int, seed: int) -> None:
        lengths = [len(ids) for ids, _ in data.rows]
        rng = random.Random(seed)
        self.batches: list[list[int]] = []
        order = list(range(len(lengths)))
        for start in range(0, len(order), 4096):
            window = sorted(order[start : start + 4096], key=lambda index: lengths[index])
            batch: list[int] = []
            made: list[list[int]] = []
            for index in window:
                if batch and lengths[index] * (len(batch) + 1) > tokens:
                    made.append(batch)
                    batch = []
                batch.append(index)
            made.append(batch)
            rng.shuffle(made)
            self.batches += made

    def __iter__(self):
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Right padding; shapes (sequences, tokens)."""
    length = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[key] + [fill] * (length - len(row[key])) for row in rows])

    ids = padded("input_ids", 0)
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": padded("labels", IGNORE)}


class BatchTrainer(Trainer):
    """The Trainer over ready-made batches."""

    def __init__(self, batches: Batches, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.batches = batches

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Feeds the batches as they were made."""
        return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=collate)


class Snapshot(TrainerCallback):
    """Saves the weights now and then, so that a run can be looked at while it trains."""

    def __init__(self, out: Path, every: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.out, self.every, self.tokenizer = out, every, tokenizer

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Called by the Trainer after every step."""
        if state.global_step % self.every == 0:
            save_weights(model, self.tokenizer, self.out / "snapshot")


def save_weights(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes bf16 weights, configuration and tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    copied = copy.deepcopy(model).to(torch.bfloat16)
    copied.config.use_cache = True  # the Trainer turned it off
    copied.save_pretrained(out)
    tokenizer.save_pretrained(out)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes bf16 weights, configuration, tokenizer and the profile that the model was trained with."""
    save_weights(model, tokenizer, out)
    profile = {"family": "genprm", "profile": {"question": "bare", "assistant_marker": True, "bos": 1, "seam": "split"}}
    profile["sampling"] = {"temperature": 0.0}
    (out / "genprm.json").write_text(json.dumps(profile, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="GSM8K train file (JSON lines, marked answers)")
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="where the model goes")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the rows, each with fresh variants")
    parser.add_argument("--max-steps", type=int, default=-1, help="stop early (for a trial)")
    parser.add_argument("--tokens-per-batch", type=int, default=3072)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="autocast to bf16; only worth it where the device computes in bf16 natively",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    rows, _ = split_rows(read_gsm8k(options.data))
    raw = train_tokenizer(rows, options.seed)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    data = Sequences(raw, rows, options.epochs, options.seed + 1)
    batches = Batches(data, options.tokens_per_batch, options.seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=raw.get_vocab_size(),
            hidden_size=options.hidden,
            intermediate_size=2 * options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.hidden // 64,
            num_key_value_heads=options.hidden // 64,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=raw.token_to_id(BOS),
            eos_token_id=raw.token_to_id(EOS),
            pad_token_id=raw.token_to_id(PAD),
        )
    )
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.1f} M parameters, {len(data)} sequences ({data.left_out} too long), "
        f"{data.tokens / 1e6:.1f} M tokens, {len(batches)} batches",
        flush=True,
    )
    arguments = TrainingArguments(
        output_dir=str(options.out),
        num_train_epochs=1,
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=150,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        seed=options.seed,
        remove_unused_columns=False,
        disable_tqdm=not os.isatty(2),
    )
    trainer = BatchTrainer(
        batches, model=model, args=arguments, train_dataset=data, callbacks=[Snapshot(options.out, 300, tokenizer)]
    )
    trainer.train()
    save(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
