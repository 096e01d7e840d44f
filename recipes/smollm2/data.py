r"""Writes critiques to train SmolLM2 on: `python recipes/smollm2/data.py --data FILE --out runs/smollm2-data`.

One row a solution, in the form of `genprm synthesize`: problem, steps, label, messages. The code of every critique is
run in the sandbox; its output is in the row, and a rationale whose code contradicts the label ends the program.
The 500 held-out rows of `recipes/nano/heldout.py` are never used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "nano"))

from data import read_gsm8k, split_rows
from mistakes import (
    BRIDGES,
    INTROS,
    LEADS,
    Step,
    answer_step,
    in_words,
    misread,
    mistaken,
    read_solution,
    restated,
    right_step,
    to_latex,
)

from genprm import prompts
from genprm.prms.code_blocks import code_output
from genprm.sandbox import Sandbox, Session, open_sandbox

STYLES = (r"\( @ \)", r"$@$", "\\[\n@\n\\]", r"\[ @ \]", "$$@$$", "\n\\[ @ \\]\n")
NUMBERINGS = ("Step {}: ", "{}. ", "**Step {}:** ", "### Step {}\n", "({}) ", "- ", "**{}.** ", "Step {}\n")


def solution(problem: str, lines: list[str], rng: random.Random, wrong: float) -> list[Step] | None:
    """One solution in one wording, up to its first mistake where it has one."""
    read = read_solution(lines)
    if read is None:
        return None
    latex = rng.random() < 0.5
    givens = [restated(problem, rng) for _ in range(rng.choice((1, 1, 2)))] if rng.random() < 0.25 else []
    if rng.random() < wrong:
        if rng.random() < 0.05:
            given = misread(problem, rng)
            return worded([given], rng, latex=latex) if given else None
        steps = mistaken(problem, read, rng, latex=latex)
        if steps is None or steps[-1].correct or not all(step.correct for step in steps[:-1]):
            return None
    else:
        steps = [right_step(*step) for step in read]
        if rng.random() < 0.6:
            value = read[-1][1][-1].value if read[-1][1] else None
            steps += [answer_step(value, value, rng, latex=latex)] if value else []
    return worded([*(given for given in dict.fromkeys(givens) if given), *steps], rng, latex=latex)


def worded(steps: list[Step], rng: random.Random, *, latex: bool) -> list[Step]:
    """The same steps as a model would write them."""
    chatty, style = rng.random() < 0.5, rng.choice(STYLES)
    made: list[Step] = []
    for step in steps:
        if latex and step.spans:
            step = to_latex(step, [_shown(step, span) for span in step.spans], rng, style)
        elif step.spans and rng.random() < 0.3:
            step = in_words(step, [_shown(step, span) for span in step.spans], rng)
        text = step.text
        if chatty and rng.random() < 0.4 and step.claims:
            lead = rng.choice(BRIDGES) if rng.random() < 0.5 else rng.choice(LEADS)
            starts = text[:1].isupper() and not re.match(r"[A-Z][a-z]*('s)? ", text) and not lead.endswith(". ")
            text = lead + (text[:1].lower() + text[1:] if starts else text)
        made.append(Step(text, step.claims))
    if rng.random() < 0.5:
        numbering = rng.choice(NUMBERINGS)
        made = [Step(numbering.format(k + 1) + s.text, s.claims) for k, s in enumerate(made)]
    if chatty and rng.random() < 0.5:
        made.insert(0, Step(rng.choice(INTROS), ()))
    if len(made) > 2 and rng.random() < 0.15:
        at = rng.randrange(len(made) - 1)
        # A wrong step stays the last one, and a joined step is wrong where one of its parts is.
        made[at : at + 2] = [Step(f"{made[at].text} {made[at + 1].text}", made[at].claims + made[at + 1].claims)]
    return made


def _shown(step: Step, span: tuple[int, int, int, int]) -> str:
    """The expression before a value in the text, as plain arithmetic; empty if it cannot be parsed."""
    from equations import clean_number, evaluate, read_expression

    low, _, start, end = span
    if low < 0:
        return ""
    value = float(clean_number(step.text[start:end]))
    between = re.sub(r"\s*=\s*[$€£]?\s*$", "", step.text[low:start])
    found = read_expression(between, value)
    if found is not None:
        return found[0]
    # A slip: what stands there does not give the value. Read it as arithmetic by itself.
    plain = re.sub(r"[$€£,]", "", between).replace("x", "*").replace("×", "*").replace("÷", "/").replace("%", "/100")
    plain = re.sub(r"\s*[a-zA-Z]+\s*", "", plain).replace(" ", "")
    return plain if evaluate(plain) is not None and re.search(r"[-+*/]", plain) else ""


async def turn(number: int, step: Step, with_code: bool, session: Session) -> str:
    """What the judge says about a step."""
    opening = prompts.render("genprm/analyze", paragraph=number)
    said = [f"It needs {claim.needed} and says {claim.said}." for claim in step.claims]
    analysis = f"{' '.join(said) or 'There is nothing to compute.'}\n</analyze>\n"
    verdict = prompts.render("genprm/output") + f"{{{'Yes' if step.correct else 'No'}}}$\n</output>\n"
    if not with_code:
        return opening + analysis + verdict
    code = "\n".join(f"v = {c.needed}\nprint(v, abs(v - {c.said}) < 0.01)" for c in step.claims)
    code = code or 'print("nothing to check")'
    result = await session.run(code)
    shown = code_output(result, 2000)
    if not result.ok or ("False" in shown) == step.correct:
        raise SystemExit(f"the code {code!r} printed {shown!r} of a step that is {step.correct}: {step.text!r}")
    remark = (
        "False, so it is wrong."
        if "False" in shown
        else "True, so it is correct."
        if step.claims
        else "So it is correct."
    )
    block = f"{prompts.render('genprm/verify')}{code}\n```\n{prompts.render('genprm/code_output', output=shown)}"
    return f"{opening}{analysis}{block}{remark}\n</verify>\n{verdict}"


def choose(
    source: list[tuple[str, list[str]]], rng: random.Random, options: argparse.Namespace
) -> Iterator[tuple[str, list[Step], bool]]:
    """Problems with a solution in some wording, and whether its critique runs code; without end."""
    while True:
        for problem, lines in rng.sample(source, len(source)):
            steps = solution(problem, lines, rng, options.wrong)
            if steps is not None and len(problem) + sum(len(s.text) for s in steps) <= options.longest:
                yield problem, steps, rng.random() < 0.9


async def critique(problem: str, steps: list[Step], with_code: bool, box: Sandbox) -> dict[str, Any]:
    """One row of the training set."""
    async with box.session() as session:
        turns = [await turn(k + 1, step, with_code, session) for k, step in enumerate(steps)]
    messages = [{"role": "system", "content": prompts.render("genprm/system")}]
    for k, (step, said) in enumerate(zip(steps, turns, strict=True)):
        user = prompts.render("genprm/first_turn", problem=problem, step=step.text) if k == 0 else step.text
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    label = next((k for k, step in enumerate(steps) if not step.correct), -1)
    return {"problem": problem, "steps": [s.text for s in steps], "label": label, "messages": messages}


async def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="GSM8K train file")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2-data"))
    parser.add_argument("--rows", type=int, default=20_000, help="solutions to write")
    parser.add_argument("--held-out", type=int, default=100, help="of them for evaluation while training")
    parser.add_argument("--wrong", type=float, default=0.6, help="share of solutions with a mistake")
    parser.add_argument("--longest", type=int, default=2200, help="characters of a problem and its steps together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows, _ = split_rows(read_gsm8k(options.data))
    # Problems of the evaluation are not trained on either.
    parts = {
        "eval": (rows[: options.held_out * 2], options.held_out),
        "train": (rows[options.held_out * 2 :], options.rows),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    async with open_sandbox("auto") as box:
        for name, (source, wanted) in parts.items():
            with (options.out / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                chosen = choose(source, rng, options)
                labels: list[int] = []
                while len(labels) < wanted:
                    some = [next(chosen) for _ in range(min(16, wanted - len(labels)))]
                    for row in await asyncio.gather(*(critique(*one, box) for one in some)):
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                        labels.append(row["label"])
            written, wrong = len(labels), sum(label >= 0 for label in labels)
            print(f"{options.out / name}.jsonl: {written:,} solutions, {wrong:,} with a mistake")


if __name__ == "__main__":
    asyncio.run(main())
