"""Training sequences equal what `verify` would send and receive, id by id."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genprm import prompts
from genprm.config import Mode
from genprm.engines.base import Completion, Sampling
from genprm.engines.stops import completion
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.genprm.protocol import Profile
from genprm.prms.profiles import GenPRMModel, ThinkPRMModel
from genprm.prms.thinkprm.judge import ThinkPRMJudge, ThinkProfile
from genprm.sandbox import Sandbox
from genprm.train.export import Conversation, ExportError, TokenRow, export, read_conversation
from genprm.train.replay import IGNORE
from tests.fakes import ASSISTANT, USER, ScriptedEngine, byte_tokenizer


@dataclass
class Recorder(ScriptedEngine):
    """Keeps the ids of every generation: what was sent, what was received."""

    exchanged: list[tuple[list[int], list[int]]] = field(default_factory=list)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        done = await super().generate(prompt_ids, sampling, chain=chain)
        self.exchanged.append((list(prompt_ids), list(done.token_ids)))
        return done


def check(rows: list[TokenRow], exchanged: list[tuple[list[int], list[int]]]) -> None:
    """Every exchange is in a row, with exactly its received ids learned."""
    learned = [[IGNORE] * len(row.input_ids) for row in rows]
    for prompt, received in exchanged:
        whole = prompt + received
        holders = [n for n, row in enumerate(rows) if row.input_ids[: len(whole)] == whole]
        assert holders, "an exchange of the judge is in no training sequence"
        # Learned once, in the first sequence that holds it as the judge wrote it.
        for n in holders:
            learned[n][len(prompt) : len(whole)] = received
    assert [row.labels for row in rows] == learned


word = st.text(st.characters(codec="utf-8", exclude_characters="\r", exclude_categories=("Cs", "Co")), max_size=25)
safe = word.filter(lambda t: "```" not in t and "</" not in t and "[Code" not in t and "<output>" not in t)
solution_step = st.one_of(word.filter(str.strip), st.sampled_from([f"{USER}48/2 = 24", "$\\boxed{Yes}$", "<output> 3"]))


@st.composite
def turns(draw: st.DrawFn) -> list[str]:
    """What the model writes about a step: an analysis, up to two snippets, a judgement."""
    parts = [f"{draw(safe)}\n</analyze>\n"]
    for _ in range(draw(st.integers(1, 2))):
        parts.append(f"print({draw(st.integers(0, 99))!r}, {draw(safe)!r})\n```\n")
    verdict = draw(st.sampled_from(["Yes", "No"]))
    parts.append(f"{draw(safe)}\n</verify>\n<output>\n**Judgement**: $\\boxed{{{verdict}}}$\n</output>\n")
    return parts


profiles = st.builds(
    Profile,
    question=st.sampled_from(["bare", "question"]),
    assistant_marker=st.booleans(),
    bos=st.integers(0, 2),
)


@pytest.mark.bubblewrap
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    problem=word.filter(str.strip),
    judged=st.lists(st.tuples(solution_step, turns()), min_size=1, max_size=3),
    p=profiles,
)
async def test_a_row_holds_what_the_judge_sent_and_received(box: Sandbox, problem, judged, p) -> None:
    engine = Recorder(deque(part for _, parts in judged for part in parts), deque([(-0.1, -2.4)]))
    steps = [step for step, _ in judged]
    judgement = await GenPRM(engine, box, profile=p).judge(problem, steps)
    written = tuple(step.chains[0].text for step in judgement.steps)
    rows = await export(Conversation(problem, tuple(steps), written), engine.tokenizer, GenPRMModel(profile=p))
    assert len(rows) == (1 if p.assistant_marker else len(steps))
    check(rows, engine.exchanged)
    found = [verdict for row in rows for verdict in row.verdicts]
    assert [v.step for v in found] == list(range(len(steps)))
    assert [v.correct for v in found] == [step.chains[0].verdict == "Yes" for step in judgement.steps]


@pytest.mark.bubblewrap
@pytest.mark.parametrize("marker", [True, False])
async def test_the_same_with_a_tokenizer_whose_tokens_span_words(box: Sandbox, smollm2, marker: bool) -> None:
    tokenizer = Tokenizer.from_pretrained(str(smollm2))
    said = [
        "It needs 48/2.\n</analyze>\n",
        "print(48/2)\n```\n",
        "Good.\n</verify>\n<output>\n$\\boxed{Yes}$\n</output>\n",
    ]
    engine = Recorder(deque([*said, *said]), deque([(-0.1, -2.4)]), tokenizer=tokenizer)
    p = Profile(assistant_marker=marker, bos=1)
    steps = ["48/2 = 24 clips", "24+48 = 72"]
    judgement = await GenPRM(engine, box, profile=p).judge("How many?", steps)
    written = tuple(step.chains[0].text for step in judgement.steps)
    rows = await export(Conversation("How many?", tuple(steps), written), tokenizer, GenPRMModel(profile=p))
    check(rows, engine.exchanged)


async def test_without_code_and_directly() -> None:
    for mode, said in (
        (Mode.ANALYZE, ["Fine.\n</analyze>\n", "{No}$\n</output>\n"]),
        (Mode.DIRECT, ["{Yes}$\n</output>\n"]),
    ):
        p = Profile(assistant_marker=True)
        engine = Recorder(deque(said), deque([(-0.1, -2.4)]))
        judgement = await GenPRM(engine, mode=mode, profile=p).judge("1+1?", ["2"])
        text = judgement.steps[0].chains[0].text
        rows = await export(Conversation("1+1?", ("2",), (text,)), engine.tokenizer, GenPRMModel(profile=p))
        check(rows, engine.exchanged)


THINK_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '" + USER + "' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "<think>\\n' }}{% endif %}"
)


class Thinker(Recorder):
    """Writes `</think>` as the one token that reasoning models have for it."""

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        before, mark, after = self.replies.popleft().partition("</think>")
        encode = self.tokenizer.encode
        ids = [*encode(before), *encode(mark, special=True), *encode(after)]
        self.exchanged.append((list(prompt_ids), ids))
        return completion(self.tokenizer, ids, sampling.stop, ended=False)


def thinking_tokenizer() -> Tokenizer:
    made = byte_tokenizer(("Yes", "No", " Yes", " No", "<think>", "</think>"))
    made._hf.chat_template = THINK_TEMPLATE
    return made


@settings(max_examples=40, deadline=None)
@given(
    problem=word.filter(str.strip), steps=st.lists(solution_step, min_size=1, max_size=3), said=safe, yes=st.booleans()
)
async def test_thinkprm_rows_hold_what_its_judge_sent_and_received(problem, steps, said, yes) -> None:
    tokenizer = thinking_tokenizer()
    chain = f"{said}\nStep 1: The step is \\boxed{{correct}}\n</think>\nIs the solution correct?"
    engine = Thinker(deque([chain]), deque([(-0.1, -2.4) if yes else (-2.4, -0.1)]), tokenizer=tokenizer)
    judge = ThinkPRMJudge(engine)
    judgement = await judge.judge(problem, steps)
    assert judgement.solution is not None
    written = judgement.solution.chains[0].text
    (row,) = await export(Conversation(problem, tuple(steps), (written,)), tokenizer, ThinkPRMModel())
    (prompt, received), *others = engine.exchanged
    assert not others
    answer = tokenizer.encode(" Yes" if yes else " No")
    assert row.input_ids == [*prompt, *received, *answer, tokenizer.eos_id]
    assert row.labels == [*[IGNORE] * len(prompt), *received, *answer, tokenizer.eos_id]
    (verdict,) = row.verdicts
    assert row.input_ids[verdict.at] == (verdict.yes if yes else verdict.no)
    assert verdict.correct is yes


def turn(said: str = "Fine.", code: str = "print(1)", output: str = "1", verdict: str = "Yes") -> str:
    return (
        f"{prompts.render('genprm/analyze', paragraph=1)}{said}\n</analyze>\n"
        f"{prompts.render('genprm/verify')}{code}\n```\n"
        f"{prompts.render('genprm/code_output', output=output)}So.\n</verify>\n{prompts.render('genprm/output')}"
        f"{{{verdict}}}$\n</output>\n"
    )


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (turn().replace("<analyze>", "<think>"), "does not begin with"),
        (turn().replace("boxed{Yes}", "boxed{Maybe}"), "no verdict"),
        (turn().replace("[Code Output]\n\n```\n1\n```\n", ""), "no output follows the code"),
        (turn().replace("</output>\n", "</output>\nAnd more."), "part at 'And more.'"),
        (turn(said="so " * 2000), "longer than the 2048"),
    ],
)
async def test_a_turn_in_another_layout_is_refused(written: str, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        await export(Conversation("p", ("s",), (written,)), byte_tokenizer(), GenPRMModel())


def test_messages_without_columns_are_read() -> None:
    row = {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "Question: a\nb?\n\nfirst step"},
            {"role": "assistant", "content": "x"},
        ]
    }
    found = read_conversation(row, GenPRMModel(profile=Profile(question="question")))
    assert found == Conversation("a\nb?", ("first step",), ("x",))
    for bad, says in (
        ({}, "no `messages`"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]"),
        ({"messages": row["messages"][:2]}, "1 user and 0 assistant"),
        ({**row, "problem": "p", "steps": []}, "1 critiques do not fit 0 steps"),
    ):
        with pytest.raises(ExportError, match=says):
            read_conversation(bad, GenPRMModel(profile=Profile(question="question")))
    with pytest.raises(ExportError, match=r"'Question: a.*pass --question question"):
        read_conversation(row, GenPRMModel())
    # A problem may itself begin so: then the turn has no blank line.
    plain = {"messages": [{"role": "user", "content": "Question: a?\nstep"}, {"role": "assistant", "content": "x"}]}
    assert read_conversation(plain, GenPRMModel()) == Conversation("Question: a?", ("step",), ("x",))


@pytest.mark.parametrize("question", ["bare", "question"])
def test_the_first_turn_has_the_problem_and_step_of_the_columns(question: Literal["bare", "question"]) -> None:
    """Either form is accepted; the profile's form is trained."""
    model = GenPRMModel(profile=Profile(question=question))
    answer = {"role": "assistant", "content": "x"}
    for first in ("a?\nfirst", "Question: a?\n\nfirst"):
        row = {"messages": [{"role": "user", "content": first}, answer], "problem": "a?", "steps": ["first", "second"]}
        assert read_conversation(row, model) == Conversation("a?", ("first",), ("x",))
        for change in ({"problem": "b?"}, {"steps": ["other"]}):
            with pytest.raises(ExportError, match=r"user turn 0 says '.*a.*', but the problem is '.*' and step 0 is"):
                read_conversation({**row, **change}, model)


async def test_profiles_of_thinkprm_have_their_own_bos() -> None:
    tokenizer = thinking_tokenizer()
    written = "Step 1: \\boxed{correct}\n</think>\nIs the solution correct? Yes"
    for bos in (0, 2):
        (row,) = await export(
            Conversation("p", ("s",), (written,)), tokenizer, ThinkPRMModel(profile=ThinkProfile(bos=bos))
        )
        assert row.input_ids[: bos + 1].count(tokenizer.bos_id) == bos
