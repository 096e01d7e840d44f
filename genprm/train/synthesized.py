"""Rationales of `genprm synthesize` as token ids of the model to be trained: see `genprm.train.export`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genprm.engines.tokenizer import Tokenizer
from genprm.prms.hub import find_file
from genprm.prms.load import model_path
from genprm.prms.profiles import PROFILE_FILE, GenPRMModel, ThinkPRMModel, read_profile
from genprm.rpe.rows import SynthesisRow
from genprm.runs.folder import write_atomically
from genprm.train.config import Asked
from genprm.train.export import Generative
from genprm.train.profile import model_profile, profile_json
from genprm.train.rows import SourceRow
from genprm.train.token_rows import tokenize, write_parquet

_FILE = "data/train-00000-of-00001.parquet"
_NO_LIMIT = 1 << 30
"""Rows are not limited here: the limit is known only at training."""
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
tags: [process-reward-model, genprm]
---

# Critiques of solutions as token ids

The rows of `dataset/`, as token ids of {name}. Made by `genprm synthesize`.

| field | meaning |
|---|---|
| input_ids | what the judge sends and receives, tokenised where its calls part |
| labels | the id where the model writes it, -100 elsewhere: user turns, forced prefixes, executed output |
| verdicts | where verdicts stand: step, index, whether the step is right, ids of the two answers |

A trainer must take the labels as they are, and the trained model is to be asked as this profile says:

```json
{profile}
```
"""


@dataclass(frozen=True, slots=True)
class Student:
    """The model to be trained."""

    name: str
    tokenizer: Tokenizer
    profile: Generative
    """Its profile."""


def open_student(name: str, style: Literal["genprm", "thinkprm"], question: Literal["bare", "question"]) -> Student:
    """Loads a tokenizer, and the profile of a model that has one; else that of `genprm train sft` without options.

    Args:
        name: folder, model id, or a built-in model.
        style: style of the rationales.
        question: first user turn of a model without a profile.

    Raises:
        EngineError: there is no tokenizer.
        PRMError: the profile cannot be read.
    """
    path = model_path(name)
    tokenizer = Tokenizer.from_pretrained(path)
    profile: Generative = model_profile(Asked(family=style, question=question))
    if find_file(path, PROFILE_FILE) is not None:
        known = read_profile(path)
        if known.family == style and isinstance(known, (GenPRMModel, ThinkPRMModel)):
            profile = known
    return Student(name, tokenizer, profile)


def write_ids(folder: Path, rows: Sequence[SynthesisRow], student: Student, source: Path) -> dict[str, int]:
    """Writes the kept rows as Parquet with `input_ids`, `labels` and `verdicts`, and a card.

    Args:
        folder: the data set's folder.
        rows: rows of a run.
        student: the model to be trained.
        source: the file that the rows come from, for messages.

    Returns:
        Counts for the metrics of the run.

    Raises:
        TrainError: no row can be written.
    """

    def kept() -> Iterator[SourceRow]:
        for number, row in enumerate(rows, start=1):
            if row.kept:
                yield SourceRow(str(source), number, {**row.model_dump(), "label": row.first_error})

    work = tokenize(kept(), student.tokenizer, student.profile, max_length=_NO_LIMIT, bad_rows="skip")
    # The caller may be in an event loop, which cannot run another one.
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(asyncio.run, work).result()
    profile = json.dumps(profile_json(student.profile))
    facts = {"tokenizer": student.name, "fingerprint": student.tokenizer.fingerprint, "profile": profile}
    write_parquet(folder / _FILE, made, facts)
    write_atomically(folder / "README.md", _CARD.format(name=student.name, profile=profile))
    return {
        "id_sequences": len(made.rows),
        "id_tokens": made.tokens,
        "id_tokens_learned": made.learned,
        "id_rows_left_out": len(made.left_out),
    }
