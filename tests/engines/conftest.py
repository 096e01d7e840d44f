"""A tiny model with a real tokenizer, and the three engines on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SENTENCES = [
    "Natalia sold 48 clips in April, and then she sold half as many clips in May.",
    "Let's use python code to find any potential error:\n```python\nprint(48 / 2)\n```\n",
    "[Code Output]\n\n```\n24.0\n```\n",
    "<analyze>\nLet's analyze the Paragraph 1 step by step: 48 + 24 = 72 is right.\n</analyze>\n",
    "<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n<output>\n**Judgement**: $\\boxed{No}$\n</output>\n",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
]
BOS, USER, ASSISTANT, EOS = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_tiny_tokenizer(folder: Path) -> int:
    """A byte-level BPE with DeepSeek's control tokens, some not flagged as special, as there; returns its size."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=440, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([BOS, EOS])
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in (USER, ASSISTANT, "</think>")])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return backend.get_vocab_size(with_added_tokens=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised Qwen2 whose greedy text is not one token over and over."""
    folder = tmp_path_factory.mktemp("tiny-model")
    vocab_size = save_tiny_tokenizer(folder)
    torch.manual_seed(7)
    config = transformers.Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Weights this large make the next token depend on the whole context.
        initializer_range=0.3,
        tie_word_embeddings=False,
        dtype="float32",
    )
    model = transformers.Qwen2ForCausalLM(config)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    model.save_pretrained(folder)
    return folder
