"""Tiny models with random weights and real tokenizers: one for each architecture and format that the PRMs come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from genprm.prms.forward import Qwen2ForPrmModel, Qwen2ForProcessRewardModel

PROBLEM = "Natalia sold 48 clips in April, and then half as many in May. How many in total?"
SOLUTIONS = [
    ["She sold 48 / 2 = 24 clips in May.", "So 48 + 24 = 72 clips in total", "The answer is 72."],
    ["Half of 48 is 26."],
    [
        "In April she sold 48 clips, which is what the problem says.",
        "Half as many is 48 - 24 = 24.",
        "Add them: 48 + 24",
        "= 72. **Check**: 72 - 24 = 48, as it should be.",
        "The answer is \\boxed{72}.",
    ],
    ["May: 24.\nApril: 48.", "Total: 72."],
]

_TEXT = [
    PROBLEM,
    *(step for steps in SOLUTIONS for step in steps),
    "Step 1: a ки\nStep 2: b ки\nStep 3: + - + - + - + -",
    "one.\n\ntwo.\n\nthree \n\n\n\nfour \n\n\n\nfive\n\nStep 1: x\n\nStep 2: y\n\nStep 3: z.\n\nStep 4: w.\n\n",
] * 4
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nThink it over.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}<|start_header_id|>system<|end_header_id|>\n\n"
    "Today is 26 Jul 2024<|eot_id|>{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
    "\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def save_qwen_tokenizer(folder: Path, *, seed_text: str = "", bos: bool = False) -> int:
    """Byte-level BPE with ChatML and `<extra_0>`, as Qwen2.5 has it; returns its size."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
    backend = _byte_level([*_TEXT, seed_text], specials)
    return _save(
        folder, backend, QWEN_TEMPLATE, eos_token="<|im_end|>", **({"bos_token": "<|endoftext|>"} if bos else {})
    )


def save_llama_tokenizer(folder: Path) -> int:
    """Byte-level BPE with the headers of Llama 3; returns its size."""
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = _byte_level(_TEXT, specials)
    return _save(folder, backend, LLAMA_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def save_mistral_tokenizer(folder: Path) -> int:
    """BPE in the manner of SentencePiece, bytes for what it does not know, as Mistral 7B has it; returns its size."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)|\n"), "isolated")
    trained.train_from_iterator(_TEXT, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    state: Any = __import__("json").loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [piece for piece, _ in sorted(state["vocab"].items(), key=lambda item: item[1]) if piece != "\n"]
    merges = [tuple(merge) for merge in state["merges"]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizer
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return _save(folder, backend, None, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save_model(folder: Path, kind: str, vocab_size: int, *, seed: int = 0, **config: Any) -> Path:
    """A model with random weights, large enough for outputs to depend on the whole text.

    Args:
        folder: where its tokenizer may be already.
        kind: `qwen2`, `llama`, `mistral`, `granite`: causal; `qwen2-prm`, `qwen2-value`, `qwen2-tokens`: with a head.
        vocab_size: of the tokenizer.
        seed: of the weights.
        **config: fields of the configuration.
    """
    architecture, _, head = kind.partition("-")
    config_class: Any = {
        "qwen2": transformers.Qwen2Config,
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "granite": transformers.GraniteConfig,
    }[architecture]
    model_class: Any = {
        "qwen2": transformers.Qwen2ForCausalLM,
        "llama": transformers.LlamaForCausalLM,
        "mistral": transformers.MistralForCausalLM,
        "granite": transformers.GraniteForCausalLM,
        "qwen2-prm": Qwen2ForProcessRewardModel,
        "qwen2-value": Qwen2ForPrmModel,
        "qwen2-tokens": transformers.Qwen2ForTokenClassification,
    }[kind]
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    if head:
        fields["num_labels"] = 2
    torch.manual_seed(seed)
    model = model_class(config_class(**(fields | config)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


FAMILY_PARTS: dict[str, tuple[str, str, str]] = {
    "qwen-prm": ("Qwen2.5-Math-PRM-7B", "qwen", "qwen2-prm"),
    "token-classification": ("trl-prm", "qwen", "qwen2-tokens"),
    "skywork-prm": ("Skywork-o1-Open-PRM-Qwen-2.5-7B", "qwen-bos", "qwen2-value"),
    "math-shepherd": ("math-shepherd-mistral-7b-prm", "mistral", "mistral"),
    "rlhflow": ("Llama3.1-8B-PRM-Deepseek-Data", "llama", "llama"),
    "versaprm": ("VersaPRM", "llama", "llama"),
}
"""The name of a released model, the tokenizer and the architecture of each family."""


def save_family(parent: Path, family: str, *, seed: int = 0) -> Path:
    """A model of a family, in a folder with the name of a released one."""
    name, tokenizer, kind = FAMILY_PARTS[family]
    folder = parent / name
    folder.mkdir()
    if tokenizer == "mistral":
        size = save_mistral_tokenizer(folder)
    elif tokenizer == "llama":
        size = save_llama_tokenizer(folder)
    else:
        size = save_qwen_tokenizer(folder, bos=tokenizer == "qwen-bos")
    return save_model(folder, kind, size, seed=seed)


def _byte_level(text: Sequence[str], specials: Sequence[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=440, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken(text, special=True) for text in specials])
    return backend


def _save(folder: Path, backend: Tokenizer, template: str | None, **specials: str) -> int:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **specials)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return backend.get_vocab_size(with_added_tokens=True)
