"""Labels and training rows as a data set: Parquet, a card with plots, and a push to the Hub.

    data/train-00000-of-00001.parquet
    README.md        the card: provenance, counts, label statistics
    plots/*.png

`datasets.load_dataset(FOLDER)` opens it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from genprm.rpe.budget import State
from genprm.rpe.chains import Filter, agrees
from genprm.rpe.labels import Method
from genprm.rpe.posterior import Counts, posterior_mean, progress_interval, value_interval
from genprm.rpe.rows import Drop, LabelRow, SolutionRow, SynthesisRow, ValueRow
from genprm.runs.folder import RunInfo, write_atomically

PARQUET = "data/train-00000-of-00001.parquet"


class DatasetError(RuntimeError):
    """The data set cannot be written or pushed."""


def label_metrics(rows: Sequence[LabelRow]) -> dict[str, int | float]:
    """Counts and rates of a labelling run, for `metrics.json` and the card."""
    solutions = [solution for row in rows for solution in row.solutions]
    labels = [label for solution in solutions for label in solution.labels]
    samples = [row.samples for row in rows]
    right = sum(s.right for s in samples)
    known = right + sum(s.wrong for s in samples)
    unknown_values = sum(value.unknown for solution in solutions for value in solution.values)
    return {
        "problems": len(rows),
        **{f"dropped: {why}": count for why, count in sorted(Counter(r.dropped for r in rows if r.dropped).items())},
        "solutions_sampled": known + sum(s.unknown for s in samples),
        "solutions_invalid": sum(s.invalid for s in samples),
        "pass_at_1": _mean([s.pass_at_1 for s in samples if s.right + s.wrong]),
        "outcomes_unknown": sum(s.unknown for s in samples) + unknown_values,
        "solutions_labelled": len(solutions),
        "no_wrong_step": sum(solution.first_error == -1 for solution in solutions),
        "a_wrong_step": sum(solution.first_error not in (-1, None) for solution in solutions),
        "undecided": sum(solution.first_error is None for solution in solutions),
        "uncertain_estimates": sum(solution.first_error is None for solution in solutions)
        - sum(solution.first_error_estimate is None for solution in solutions),
        "steps": len(labels),
        **{f"steps_{state.value}": sum(label.state is state for label in labels) for state in State},
        "rollouts": sum(row.rollouts for row in rows),
        "generated_tokens": sum(row.generated for row in rows),
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def _intervals(row: LabelRow, solution: SolutionRow, method: Method) -> dict[str, list[float | None]]:
    """Estimates and intervals of the values and of the progress; None where there are no rollouts."""
    counts = [_counts(row.start), *map(_counts, solution.values)]
    values = [value_interval(after) if after.rollouts else None for after in counts[1:]]
    progress = [
        progress_interval(method, before, after) if before.rollouts and after.rollouts else None
        for before, after in pairwise(counts)
    ]
    return {
        "mc_mean": [posterior_mean(after) for after in counts[1:]],
        "mc_low": [each and each.low for each in values],
        "mc_high": [each and each.high for each in values],
        "progress_low": [each and each.low for each in progress],
        "progress_high": [each and each.high for each in progress],
    }


def _counts(value: ValueRow | None) -> Counts:
    return Counts(value.successes, value.rollouts, value.exact) if value else Counts()


def balanced(rows: Sequence[SynthesisRow]) -> list[SynthesisRow]:
    """Drops kept chains about right or wrong solutions, whichever are more, until there are as many of both.

    The choice depends only on the keys. If one kind has none, nothing is dropped.
    """
    kinds = {wrong: [row for row in rows if row.kept and (row.first_error != -1) is wrong] for wrong in (True, False)}
    fewest = min(map(len, kinds.values()))
    extra = {
        row.key
        for kind in kinds.values()
        if fewest
        for row in sorted(kind, key=lambda row: blake2b(row.key.encode()).digest())[fewest:]
    }
    return [_dropped(row, Drop.BALANCE) if row.key in extra else row for row in rows]


def distinct(rows: Sequence[SynthesisRow]) -> list[SynthesisRow]:
    """Drops kept chains that equal an earlier one about the same solution."""
    seen: set[tuple[str, str]] = set()
    made: list[SynthesisRow] = []
    for row in rows:
        text = (row.id, row.messages[-1].content) if row.kept else ("", "")
        made.append(_dropped(row, Drop.DUPLICATE) if row.kept and text in seen else row)
        seen.add(text)
    return made


def _dropped(row: SynthesisRow, why: Drop) -> SynthesisRow:
    return row.model_copy(update={"kept": False, "dropped": why, "messages": []})


def filter_metrics(rows: Sequence[SynthesisRow]) -> dict[str, int | float]:
    """Number of chains in the layout that pass each of ThinkPRM's filters, whichever was used."""
    asked = [row for row in rows if row.label is not None]
    pairs = [
        (row.label, row.first_error)
        for row in asked
        if row.label is not None and row.first_error is not None and row.dropped is not Drop.LENGTH
    ]
    return {
        "chains": len(asked),
        "in_layout": len(pairs),
        "passes_process": sum(agrees(label, found, Filter.PROCESS) for label, found in pairs),
        "passes_outcome": sum(agrees(label, found, Filter.OUTCOME) for label, found in pairs),
    }


def synthesis_metrics(rows: Sequence[SynthesisRow]) -> dict[str, int | float]:
    """Counts of a synthesis run, for `metrics.json` and the card."""
    kept = [row for row in rows if row.kept]
    snippets = sum((Counter(row.snippets) for row in rows), Counter[str]())
    return {
        "solutions": len(rows),
        "kept": len(kept),
        "kept_with_a_wrong_step": sum(row.first_error != -1 for row in kept),
        **{f"dropped_{why.value}": sum(row.dropped is why for row in rows) for why in Drop},
        "critiques": sum(len(row.messages) // 2 for row in kept),
        **{f"snippets_{status}": count for status, count in sorted(snippets.items())},
        "generated_tokens": sum(row.generated for row in rows),
    }


def write_labels(folder: Path, rows: Sequence[LabelRow], info: RunInfo) -> Path:
    """Writes labelled solutions as ProcessBench-style rows: `label` is the 0-based first wrong step, -1 for none.

    The label is null if the first wrong step is undecided.

    Raises:
        DatasetError: the libraries are not installed.
    """
    pa = _pyarrow()
    method = Method(str(info.config.get("method", Method.RATIO)))
    made: list[dict[str, object]] = [
        {
            "id": f"{row.id or row.key}-{number}",
            "problem": row.problem,
            "answer": row.answer,
            "steps": solution.steps,
            "final_answer_correct": solution.outcome == "equal",
            "label": solution.first_error,
            "label_estimate": solution.first_error_estimate,
            "uncertain": solution.first_error is None,
            "pass_at_1": row.samples.pass_at_1,
            "mc": [v.successes / v.rollouts if v.rollouts else None for v in solution.values],
            "rollouts": [value.rollouts for value in solution.values],
            "step_labels": [label.label for label in solution.labels],
            "states": [label.state.value for label in solution.labels],
            "progress": [label.progress for label in solution.labels],
            **_intervals(row, solution, method),
        }
        for row in rows
        for number, solution in enumerate(row.solutions)
    ]
    plots = {
        "pass-at-1": ("Pass@1 of the problems", [row.samples.pass_at_1 for row in rows]),
        "first-error": ("first wrong step (-1: none)", [solution.first_error for solution in _decided(rows)]),
        "progress": ("progress of the steps (2 and more as 2)", [min(p, 2.0) for p in _progress(rows)]),
    }
    text, floats = pa.string(), pa.list_(pa.float64())
    schema = {
        "id": text,
        "problem": text,
        "answer": text,
        "steps": pa.list_(text),
        "final_answer_correct": pa.bool_(),
        "label": pa.int64(),
        "label_estimate": pa.int64(),
        "uncertain": pa.bool_(),
        "pass_at_1": pa.float64(),
        "mc": floats,
        "rollouts": pa.list_(pa.int64()),
        "step_labels": pa.list_(pa.bool_()),
        "states": pa.list_(text),
        "progress": floats,
        "mc_mean": floats,
        "mc_low": floats,
        "mc_high": floats,
        "progress_low": floats,
        "progress_high": floats,
    }
    _write(folder, made, schema, "Step labels by relative progress", LABEL_FIELDS, info, label_metrics(rows), plots)
    return folder


LABEL_FIELDS = {
    "label": "0-based index of the first wrong step, -1 for none, null if undecided",
    "label_estimate, uncertain": "the same, with undecided steps by their point estimate; whether there are any",
    "mc, rollouts": "Monte Carlo value after each step and its number of rollouts; null without rollouts",
    "mc_mean": "posterior mean of the value, (successes + 1) / (rollouts + 2), whenever sampling stops",
    "mc_low, mc_high": "95 % confidence sequence of the value: it covers the value whenever sampling stops",
    "step_labels, states": "label of each step, null where unknown or after the first wrong one; how it was decided",
    "progress": "what was compared with the threshold, from the shares in mc",
    "progress_low, progress_high": "95 % confidence interval of the progress, valid whenever sampling stops",
}
TRAIN_FIELDS = {
    "messages": "system turn, then a user turn (the step) and an assistant turn (the rationale) per step, up to the "
    "first wrong one; ready for TRL's SFTTrainer",
    "steps, label": "the whole solution, and the 0-based index of its first wrong step (-1 for none), on which "
    "rollouts and teacher agree",
    "teacher": "the model that wrote the rationales",
}


CHAIN_MESSAGES = "a user turn (problem and solution) and an assistant turn (the chain in <think>, then Yes or No)"
CHAIN_STEPS = "the solution up to its first wrong step, and the 0-based index of that step by the chain (-1 for none)"


def write_training(
    folder: Path,
    rows: Sequence[SynthesisRow],
    info: RunInfo,
    metrics: Mapping[str, int | float],
) -> Path:
    """Writes the kept solutions as training rows with `messages`.

    Raises:
        DatasetError: the libraries are not installed.
    """
    pa = _pyarrow()
    kept = [row for row in rows if row.kept]
    made: list[dict[str, object]] = [
        {
            "id": row.id,
            "problem": row.problem,
            "steps": row.steps,
            "label": row.first_error,
            "teacher": row.teacher,
            "messages": [message.model_dump() for message in row.messages],
        }
        for row in kept
    ]
    text = pa.string()
    schema = {
        "id": text,
        "problem": text,
        "steps": pa.list_(text),
        "label": pa.int64(),
        "teacher": text,
        "messages": pa.list_(pa.struct({"role": text, "content": text})),
    }
    plots = {
        "first-error": (
            "first wrong step (-1: none)",
            [row.first_error for row in kept if row.first_error is not None],
        ),
        "length": (
            "characters of the rationales",
            [len(m.content) for r in kept for m in r.messages if m.role == "assistant"],
        ),
    }
    chains = info.config.get("style") == "thinkprm"
    title = "Verification chains about solutions" if chains else "Rationales about solutions, with executed code"
    fields = TRAIN_FIELDS | ({"messages": CHAIN_MESSAGES, "steps, label": CHAIN_STEPS} if chains else {})
    _write(folder, made, schema, title, fields, info, metrics, plots)
    return folder


def push(folder: Path, repository: str) -> None:
    """Uploads a data set folder to the Hub, with the token that huggingface_hub finds.

    Raises:
        DatasetError: the upload fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repository, repo_type="dataset", exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, repo_type="dataset")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DatasetError(f"cannot push to {repository!r}: {error}") from error


def _decided(rows: Sequence[LabelRow]) -> Iterator[SolutionRow]:
    return (solution for row in rows for solution in row.solutions if solution.first_error is not None)


def _progress(rows: Sequence[LabelRow]) -> Iterator[float]:
    labels = (label for row in rows for solution in row.solutions for label in solution.labels)
    return (label.progress for label in labels if label.progress is not None)


def _write(
    folder: Path,
    rows: Sequence[Mapping[str, object]],
    schema: Mapping[str, object],
    title: str,
    fields: Mapping[str, str],
    info: RunInfo,
    metrics: Mapping[str, int | float],
    plots: Mapping[str, tuple[str, Sequence[float | None]]],
) -> None:
    pa = _pyarrow()
    import pyarrow.parquet as parquet

    (folder / PARQUET).parent.mkdir(parents=True, exist_ok=True)
    (folder / "plots").mkdir(exist_ok=True)
    table = pa.Table.from_pylist(list(rows), schema=pa.schema(dict(schema)))
    temporary = folder / PARQUET.replace("train-", ".train-")
    parquet.write_table(table, temporary)
    temporary.replace(folder / PARQUET)
    drawn = [name for name, (label, values) in plots.items() if _draw(folder / "plots" / f"{name}.png", label, values)]
    write_atomically(folder / "README.md", _card(title, fields, info, metrics, drawn))


def _card(
    title: str, fields: Mapping[str, str], info: RunInfo, metrics: Mapping[str, int | float], plots: Sequence[str]
) -> str:
    """Returns the data set's README, with the front matter that the Hub and `load_dataset` read."""
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/*.parquet",
    ]
    lines += ["tags: [process-reward-model, genprm]", "---", "", f"# {title}", ""]
    lines += [f"Made by `genprm {info.command}`, without human review.", "", "## Fields", ""]
    lines += ["| field | meaning |", "|---|---|", *(f"| {name} | {what} |" for name, what in fields.items())]
    lines += ["", "## Counts", "", "| | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value:,} |" for name, value in metrics.items()]
    lines += ["", *(f"![{name}](plots/{name}.png)" for name in plots), "", "## Provenance", ""]
    provenance = {"settings": info.config, "models": info.facts, "versions": info.versions, "digest": info.digest}
    lines += ["```json", json.dumps(provenance, indent=2, sort_keys=True), "```", ""]
    return "\n".join(lines)


def _draw(path: Path, label: str, values: Sequence[float | None]) -> bool:
    """Draws a histogram. Returns False without values or without matplotlib."""
    known = [value for value in values if value is not None]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not known:
        return False
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    whole = all(isinstance(value, int) for value in known)
    bins = [k - 0.5 for k in range(int(min(known)), int(max(known)) + 2)] if whole and max(known) < 50 else 20
    axes.hist(known, bins=bins)
    axes.set_xlabel(label)
    axes.set_ylabel("count")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return True


def check_installed() -> None:
    """Checks, before hours of work, that the data set can be written.

    Raises:
        DatasetError: a library is missing; the message says what to install.
    """
    _pyarrow()


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise DatasetError("writing a data set needs pyarrow: pip install 'genprm[data]'") from None
    return pyarrow
