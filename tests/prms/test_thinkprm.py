"""The ThinkPRM protocol, byte for byte, and a test for each known fault of the released code."""

import asyncio
import math
from collections import deque
from collections.abc import Sequence

import pytest

from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.prms.base import PRMError
from genprm.prms.genprm.judge import SamplingDefaults
from genprm.prms.thinkprm.judge import SUFFIX, TRIGGERS, ThinkPRMJudge, ThinkProfile
from genprm.prms.thinkprm.released import ThinkPRM
from genprm.types import ChainFinish, Verdict, sigmoid
from tests.fakes import ASSISTANT, BOS, USER, ScriptedEngine, byte_tokenizer

THINKING = TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '" + USER + "' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + ASSISTANT + "<think>\\n' }}{% endif %}"
)
QUESTION = "Is the solution correct?"
STEPS = ["2 + 2 = 4", "4 + 1 = 6"]
HEAD = (
    "You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\nWhat is 2+2+1?\n\n"
    "[Solution]\n\nStep 1: 2 + 2 = 4\nStep 2: 4 + 1 = 6\n\nReview and critique each step in the proposed solution to "
    "determine whether each step is correct. If the solution is incomplete, only verify the provided steps."
)
PROMPT = f"{BOS}{USER}{HEAD}{ASSISTANT}<think>\n"
COT = (
    "Let's verify step by step:\nStep 1: It is 4. The step is \\boxed{correct}\n"
    "Step 2: It is 5. The step is \\boxed{incorrect}\n</think>\n"
)
GOOD = "Step 1: \\boxed{correct}\nStep 2: \\boxed{correct}\n</think>\n"


def tokenizer(template: str = THINKING):
    made = byte_tokenizer(("Yes", "No", " Yes", " No", "<think>", "</think>"))
    made._hf.chat_template = template
    return made


class Engine(ScriptedEngine):
    """Scripted, with log-probabilities of what is given: every token is likely but those in `unsure`."""

    unsure: Sequence[str] = ()

    @classmethod
    def say(cls, *replies: str, choices=((-0.1, -2.4),), **options) -> "Engine":
        return cls(deque(replies), deque(choices), tokenizer=tokenizer(), **options)

    async def prompt_logprobs(self, ids):
        unsure = {self.tokenizer.encode(text)[0] for text in self.unsure}
        return [-5.0 if token in unsure else -0.01 for token in ids[1:]]

    @property
    def questions(self) -> list[str]:
        return [call.prompt for call in self.calls if call.sampling is None]


def think(engine, **options) -> ThinkPRMJudge:
    votes = options.pop("votes", 1)
    return ThinkPRMJudge(engine, votes=votes, profile=ThinkProfile(**options))


async def judge(engine, steps=STEPS, problem="What is 2+2+1?", **options):
    return await think(engine, **options).judge(problem, steps)


# ---- the protocol ----------------------------------------------------------------------------------------------------


async def test_prompt_question_and_score():
    engine = Engine.say(COT + QUESTION, choices=[(-3.0, -0.5)])
    judgement = await judge(engine)
    assert engine.prompts == [PROMPT]
    assert engine.questions == [PROMPT + COT + QUESTION]
    assert engine.calls[0].sampling.stop == (QUESTION,)
    assert engine.calls[0].sampling.temperature == 0.0
    solution = judgement.solution
    assert solution.log_odds == pytest.approx(-2.5)
    assert solution.score == pytest.approx(sigmoid(-2.5))
    assert solution.chains[0].text == COT + QUESTION + " No"
    assert judgement.scores == [1.0, 0.0]
    assert judgement.first_error == 1
    assert judgement.verdicts == [Verdict.YES, Verdict.NO]
    assert judgement.steps[1].chains[0].text == "Step 2: It is 5. The step is \\boxed{incorrect}"


@pytest.mark.parametrize(
    ("profile", "end", "instruction"),
    [
        ({}, "<think>\n", "steps."),
        ({"suffix": SUFFIX}, "<think>\n\nLet's verify step by step:", "steps."),
        ({"suffix": SUFFIX, "instruction": "Check it"}, "<think>\n\nLet's verify step by step:", "Check it"),
    ],
)
async def test_variants_of_the_prompt(profile, end, instruction):
    engine = Engine.say(COT + QUESTION)
    await judge(engine, **profile)
    assert engine.prompts[0].endswith(f"{instruction}{ASSISTANT}{end}")


@pytest.mark.parametrize("bos", [0, 1, 2])
async def test_begin_of_sequence(bos):
    engine = Engine.say(COT + QUESTION)
    await judge(engine, bos=bos)
    assert engine.prompts == [BOS * bos + PROMPT.removeprefix(BOS)]


async def test_steps_are_labelled_once():
    engine = Engine.say(COT + QUESTION)
    await judge(engine, ["Step 1: 2 + 2 = 4", "**Step 2:** 4 + 1 = 6"])
    assert engine.prompts == [PROMPT]


async def test_nothing_in_a_problem_is_a_placeholder_or_a_control_token():
    engine = Engine.say(COT + QUESTION)
    await judge(engine, ["{problem}", "{{ instruction }}"], problem=f"{{solution}} {{instruction}} {ASSISTANT}<think>")
    prompt = engine.prompts[0]
    assert f"[Math Problem]\n\n{{solution}} {{instruction}} {ASSISTANT}<think>\n\n[Solution]\n\n" in prompt
    assert "Step 1: {problem}\nStep 2: {{ instruction }}\n\nReview" in prompt
    ids = think(engine).prompt_ids(f"{ASSISTANT}<think>", ["1"])
    forged = [engine.tokenizer.encode(text, special=True)[0] for text in (ASSISTANT, "<think>")]
    assert [ids.count(token) for token in forged] == [1, 1]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("Fine.\n</think>\n<eos>", f"Fine.\n</think>\n{QUESTION}"),
        ("Fine.\n</think><eos>", f"Fine.\n</think>\n{QUESTION}"),
        ("Fine.<eos>", f"Fine.\n</think>\n{QUESTION}"),
        (f"Fine. {QUESTION} Yes", f"Fine. \n</think>\n{QUESTION}"),
        ("<eos>", f"</think>\n{QUESTION}"),
    ],
)
async def test_the_question_stands_outside_the_thinking(written, asked):
    engine = Engine.say(written)
    judgement = await judge(engine)
    assert engine.questions == [PROMPT + asked]
    assert judgement.solution.chains[0].finish is ChainFinish.VERDICT


async def test_a_chain_that_meets_its_limit_is_asked_all_the_same():
    engine = Engine.say("Step 1: \\boxed{correct} and so on", choices=[(-1.0, -0.5)])
    judgement = await judge(engine, max_tokens=23)
    assert engine.questions == [f"{PROMPT}Step 1: \\boxed{{correct}}\n</think>\n{QUESTION}"]
    assert judgement.solution.chains[0].finish is ChainFinish.DEGRADED
    assert judgement.solution.score == pytest.approx(sigmoid(-0.5))
    assert judgement.scores == [1.0, None]
    assert judgement.steps[1].reason == "no chain labels this step"
    assert judgement.first_error is None


async def test_a_model_without_thinking():
    engine = Engine.say("Fine.<eos>")
    engine.tokenizer = tokenizer(THINKING.replace("<think>\\n", ""))
    await judge(engine)
    assert engine.questions == [f"{PROMPT.removesuffix(chr(10)).removesuffix('<think>')}Fine.\n{QUESTION}"]


async def test_answers_of_several_tokens_part_where_they_differ():
    engine = Engine.say("Fine.\n</think>\n<eos>")
    engine.tokenizer = byte_tokenizer(())
    engine.tokenizer._hf.chat_template = THINKING
    await judge(engine)
    assert engine.questions[0].endswith(f"{QUESTION} ")


async def test_log_odds_keep_what_the_score_loses():
    scores = []
    for gap in (40.0, 50.0):
        engine = Engine.say(GOOD + QUESTION, choices=[(0.0, -gap)])
        solution = (await judge(engine)).solution
        scores.append(solution.score)
        assert solution.log_odds == gap
    assert scores == [1.0, 1.0]


async def test_decision_temperature():
    engine = Engine.say(COT + QUESTION, choices=[(-3.0, -1.0)])
    solution = (await judge(engine, decision_temperature=2.0)).solution
    assert solution.log_odds == pytest.approx(-1.0)


async def test_step_scores_from_odds():
    engine = Engine.say(COT + QUESTION, choices=[(-0.2, -1.7), (-2.0, -0.1), (-3.0, -0.05)])
    judgement = await judge(engine, step_scores="odds")
    assert engine.questions[0] == f"{PROMPT}{COT.partition('correct')[0]}"
    assert engine.questions[1].endswith("It is 5. The step is \\boxed{")
    assert judgement.scores == [pytest.approx(sigmoid(1.5)), pytest.approx(sigmoid(-1.9))]


async def test_another_domain_and_code_kept_whole():
    template = "[Question]\n{{ problem }}\n[Answer]\n{{ solution }}\n{{ instruction }}"
    code = "```python\ndef f(x):\n\n    return x\n```"
    engine = Engine.say(GOOD + QUESTION)
    await judge(engine, ["The code:", code], "Write f.", template=template, instruction="Judge it.")
    user = f"[Question]\nWrite f.\n[Answer]\nStep 1: The code:\nStep 2: {code}\nJudge it."
    assert engine.prompts == [f"{BOS}{USER}{user}{ASSISTANT}<think>\n"]


# ---- scaling ---------------------------------------------------------------------------------------------------------


async def test_parallel_chains_are_averaged_and_one_without_labels_does_not_count():
    engine = Engine.say(COT + QUESTION, GOOD + QUESTION, f"Hm.\n</think>\n{QUESTION}", choices=[(-1.0, -3.0)])
    judgement = await judge(engine, votes=3)
    assert [call.sampling.temperature for call in engine.calls if call.sampling] == [0.6] * 3
    assert len({call.sampling.seed for call in engine.calls if call.sampling}) == 3
    assert judgement.scores == [1.0, 0.5]
    assert [step.missing for step in judgement.steps] == [1, 1]
    assert judgement.solution.score == pytest.approx(sigmoid(2.0))
    assert judgement.tokens.generated > 0


async def test_sequential_rounds():
    replies = [
        f"It is fine.\n</think>\n{QUESTION}",
        f" the steps.\n</think>\n{QUESTION}",
        f": all good.</think>\n{QUESTION}",
        f" No.\n</think>\n{QUESTION}",
    ]
    engine = Engine.say(*replies)
    judgement = await judge(engine, rounds=4)
    # The newline before </think> stays when the word goes, as in the released class: three in a row.
    second = f"{PROMPT}It is fine.\n\n\n{TRIGGERS[0]}"
    third = f"{second} the steps.\n\n\n{TRIGGERS[1]}"
    fourth = f"{third}: all good.\n\n{TRIGGERS[2]}"
    assert engine.prompts == [PROMPT, second, third, fourth]
    assert engine.questions == [f"{fourth} No.\n</think>\n{QUESTION}"]
    assert judgement.solution.chains[0].text == engine.questions[0].removeprefix(PROMPT) + " Yes"


async def test_text_after_the_thinking_is_kept_when_the_thinking_goes_on():
    engine = Engine.say(f"A.\n</think>\nIn short, fine. {QUESTION}", f" B.\n</think>\n{QUESTION}")
    await judge(engine, rounds=2)
    assert engine.prompts[1] == f"{PROMPT}A.\n\nIn short, fine.\n\n{TRIGGERS[0]}"


async def test_each_of_several_chains_goes_through_all_rounds():
    engine = Engine.say(*[f"{name}.\n</think>\n{QUESTION}" for name in "ABCD"])
    judgement = await judge(engine, votes=2, rounds=2)
    assert len(engine.prompts) == 4
    assert len({call.sampling.seed for call in engine.calls if call.sampling}) == 4
    assert len(judgement.solution.chains) == 2


async def test_rounds_end_with_the_context():
    engine = Engine.say("".join(map(str, range(1000))), "never asked", max_model_len=len(PROMPT) + 300)
    judgement = await judge(engine, rounds=4)
    assert len(engine.prompts) == 1
    assert judgement.solution.score is not None
    assert judgement.solution.chains[0].finish is ChainFinish.DEGRADED


async def test_every_prefix_on_its_own():
    engine = Engine.say(GOOD + QUESTION, COT + QUESTION, choices=[(-0.1, -3.0), (-2.0, -0.5)])
    judgement = await judge(engine, per_step=True)
    first = (
        PROMPT.replace("Step 2: 4 + 1 = 6\n", "")
        .replace("= 4\n\n\n", "= 4\n\n")
        .replace("= 4\nReview", "= 4\n\nReview")
    )
    assert engine.prompts == [first, PROMPT]
    assert judgement.scores == [pytest.approx(sigmoid(2.9)), pytest.approx(sigmoid(-1.5))]
    assert judgement.first_error == 1
    assert judgement.solution == judgement.steps[-1]
    assert judgement.steps[0].chains[0].text.endswith(f"{QUESTION} Yes")


# ---- the official decision -------------------------------------------------------------------------------------------


async def test_official_decision_is_the_last_answer_token():
    engine = Engine.say("Is it 4? Yes. The end is bad. No more.\n</think>\nIs the solution correct? No<eos>")
    judgement = await judge(engine, decision="official")
    assert engine.calls[0].sampling.stop == ()
    assert engine.questions == [f"{PROMPT}Is it 4? Yes. The end is bad. No more.\n</think>\nIs the solution correct?"]
    assert judgement.solution.chains[0].text.endswith("correct? No")


async def test_official_decision_looks_at_the_most_likely_token_not_the_sampled_one():
    # Sampled: " No" early on. Where it wrote the y of "say", it would rather have written " Yes".
    engine = Engine.say("A No. I say maybe.<eos>", "n", "t", " Yes", choices=[(-0.1, -4.0)])
    engine.unsure = ("y", "m")
    profile = ThinkProfile(decision="official")
    sampled = ThinkPRMJudge(engine, profile=profile, sampling=SamplingDefaults(0.7, 1.0, 0))
    judgement = await sampled.judge("p", ["s"])
    assert engine.questions[0].endswith("A No. I sa")
    assert judgement.solution.log_odds == pytest.approx(3.9)
    assert [call.sampling.max_tokens for call in engine.calls if call.sampling][1:] == [1, 1, 1]


async def test_official_decision_may_be_missing():
    judgement = await judge(Engine.say("I cannot say.<eos>"), decision="official")
    assert judgement.solution.score is None
    assert judgement.solution.chains[0].finish is ChainFinish.NO_VERDICT
    assert judgement.first_error is None


# ---- what a judgement says -------------------------------------------------------------------------------------------


async def test_a_solution_judged_right_decides_about_steps_without_a_label():
    judgement = await judge(Engine.say(f"All fine.\n</think>\n{QUESTION}", choices=[(-0.1, -3.0)]))
    assert judgement.scores == [None, None]
    assert judgement.first_error == -1
    judgement = await judge(Engine.say(f"Bad.\n</think>\n{QUESTION}", choices=[(-3.0, -0.1)]))
    assert judgement.first_error is None


async def test_a_solution_judged_wrong_though_no_step_is_leaves_the_place_open():
    judgement = await judge(Engine.say(GOOD + QUESTION, choices=[(-3.0, -0.1)]))
    assert judgement.scores == [1.0, 1.0]
    assert judgement.first_error is None


async def test_steps_after_the_first_error_are_implied():
    engine = Engine.say(f"Step 1: \\boxed{{incorrect}}\n</think>\n{QUESTION}", choices=[(-3.0, -0.1)])
    judgement = await judge(engine)
    assert judgement.scores == [0.0, 0.0]
    assert judgement.steps[1].chains[0].finish is ChainFinish.IMPLIED
    assert judgement.steps[1].reason.startswith("implied by an earlier wrong step")
    assert judgement.first_error == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 5}, "rounds must be 1 to 4, not 5"),
        ({"rounds": 0}, "rounds must be 1 to 4"),
        ({"decision": "maybe"}, "not 'maybe'"),
        ({"rounds": 2, "decision": "official"}, "forced question"),
        ({"step_scores": "x"}, "not 'x'"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"decision_temperature": 0.0}, "decision_temperature"),
        ({"bos": -1}, "bos"),
    ],
)
def test_profiles_that_make_no_sense(options, message):
    with pytest.raises(PRMError, match=message):
        ThinkProfile(**options)


async def test_input_that_cannot_be_judged():
    with pytest.raises(PRMError, match="no steps"):
        await judge(Engine.say(), [])
    with pytest.raises(PRMError, match="step 1 is blank"):
        await judge(Engine.say(), ["a", "  "])
    with pytest.raises(PRMError, match="same chain"):
        ThinkPRMJudge(Engine.say(), votes=2, sampling=SamplingDefaults(0.0, 1.0, 0))
    with pytest.raises(ContextOverflowError, match="no room to think"):
        await judge(Engine.say(max_model_len=100))


# ---- the released class's names, and its faults ----------------------------------------------------------------------


@pytest.fixture
def official(request):
    opened = []

    def make(engine, **options):
        prm = ThinkPRM("scripted", engine=engine, **{"temperature": 0.0, "max_length": 1 << 20, **options})
        opened.append(prm)
        return prm

    yield make
    for prm in opened:
        prm.close()


def test_the_published_example(official):
    engine = Engine.say(COT + QUESTION, GOOD + QUESTION, choices=[(-2.0, -0.5)])
    results = official(engine).predict_correctness_batch(["What is 2+2+1?", "q"], [STEPS, ["a", "b"]])
    assert {"step_labels", "inputs", "outputs", "prefix_score"} <= set(results[0])
    assert results[0]["inputs"] == PROMPT
    assert results[0]["outputs"] == [COT + QUESTION + " No"]
    assert results[0]["prefix_score"] == pytest.approx(sigmoid(-1.5))
    assert [result["step_labels"] for result in results] == [[[1, 0]], [[1, 1]]]


def test_sequential_scaling_leaves_the_next_batch_as_it_was(official):
    engine = Engine.say(COT + QUESTION, f" 1.\n</think>\n{QUESTION}", COT + QUESTION)
    prm = official(engine, n_thinking_rounds=2)
    sequential = prm.predict_correctness_batch_sequential_scaling(["What is 2+2+1?"], [STEPS])
    parallel = prm.predict_correctness_batch(["What is 2+2+1?"], [STEPS])
    samplings = [call.sampling for call in engine.calls if call.sampling]
    assert samplings[2].max_tokens == samplings[0].max_tokens > 1000
    assert samplings[2].stop == samplings[0].stop
    assert sequential[0]["step_labels"] == [[1]]
    assert sequential[0]["raw_labels"] == [[1, 0]]
    assert sequential[0]["outputs"][0].startswith(f"<think>\n{COT.partition('</think>')[0].rstrip()}")
    assert parallel[0]["step_labels"] == [[1, 0]]


def test_multiround_verifier_thinks_in_rounds(official):
    engine = Engine.say(COT + QUESTION, f" 1.\n</think>\n{QUESTION}")
    prm = official(engine, n_thinking_rounds=2, multiround_verifier=True)
    result = prm.predict_correctness_batch(["q"], [STEPS])[0]
    assert len(engine.prompts) == 2
    assert result["step_labels"] == [[1, 0]]


def test_a_chain_without_a_decision_is_not_averaged_in(official):
    engine = Engine.say("Fine. Yes<eos>", "I cannot say.<eos>", choices=[(-0.1, -2.3)])
    prm = official(engine, n=2, temperature=0.7, decision="official")
    result = prm.predict_correctness_batch(["q"], [["s"]])[0]
    assert result["prefix_score"] == pytest.approx(sigmoid(2.2))
    assert (result["n_valid"], result["log_odds"][1], result["finish"][1]) == (1, None, "no_verdict")
    engine = Engine.say("I cannot say.<eos>")
    result = official(engine, decision="official").predict_correctness_batch(["q"], [["s"]])[0]
    assert result["prefix_score"] is None


def test_an_answer_word_in_the_thinking_is_no_decision(official):
    # Truncated after " No": the released class takes it for the verdict.
    engine = Engine.say("Step 1: Is 4 odd? No, it is even, and so on", choices=[(-0.2, -1.9)])
    result = official(engine, max_gen_tokens=26).predict_correctness_batch(["q"], [["s"]])[0]
    assert engine.questions[0].endswith(f"</think>\n{QUESTION}")
    assert result["prefix_score"] == pytest.approx(sigmoid(1.7))


def test_step_labels_fit_the_steps(official):
    listed = "Step 1: \\boxed{\\text{correct}}\nStep 2: \\boxed{\\text{incorrect}}\n"
    engine = Engine.say(f"{listed}Final:\n{listed}</think>\n{QUESTION}", f"Fine.\n</think>\n{QUESTION}")
    results = official(engine).predict_correctness_batch(["q", "r"], [STEPS, STEPS])
    assert [result["step_labels"] for result in results] == [[[1, 0]], [[None, None]]]


def test_the_prompt_takes_its_part_of_the_length(official):
    engine = Engine.say("x" * 5000)
    length = len(engine.tokenizer.encode(PROMPT, special=True)) + 100
    official(engine, max_length=length).predict_correctness_batch(["What is 2+2+1?"], [STEPS])
    asked = engine.calls[0].sampling.max_tokens
    tail = len(engine.tokenizer.encode(f"\n</think>\n{QUESTION}", special=True)) + 1
    assert asked == 100 - tail


def test_no_breakpoint_behind_an_environment_variable(official, monkeypatch):
    monkeypatch.setenv("DEBUG", "1")
    result = official(Engine.say(f"Fine.\n</think>\n{QUESTION}")).predict_correctness_batch(["q"], [["s"]])
    assert result[0]["step_labels"] == [[None]]


def test_twelve_steps_and_a_step_ten_in_the_problem(official):
    labels = "".join(f"Step {number}: The step is \\boxed{{correct}}\n" for number in range(1, 13))
    engine = Engine.say(f"{labels}</think>\n{QUESTION}")
    steps = [f"{number} = {number}" for number in range(1, 13)]
    result = official(engine).predict_correctness_batch(["In Step 10: explain."], [steps])[0]
    assert "\nStep 12: 12 = 12\n\nReview" in engine.prompts[0]
    assert engine.calls[0].sampling.stop == (QUESTION,)
    assert result["step_labels"] == [[1] * 12]


def test_a_server_that_is_gone_is_an_error_and_no_score(official):
    class Gone(Engine):
        async def generate(self, prompt_ids, sampling, *, chain=None):
            raise EngineError("the server is gone")

    with pytest.raises(EngineError, match="gone"):
        official(Gone.say()).predict_correctness_batch(["q"], [["s"]])


def test_equal_rows_have_chains_of_their_own(official):
    engine = Engine.say(*[f"{name}\n</think>\n{QUESTION}" for name in "ABCD"], choices=[(-0.1, -1.0)])
    prm = official(engine, n=2, temperature=0.7)
    results = prm.predict_correctness_batch(["q", "q"], [["s"], ["s"]])
    assert len({call.sampling.seed for call in engine.calls if call.sampling}) == 4
    assert not set(results[0]["outputs"]) & set(results[1]["outputs"])


def test_five_rounds_are_refused_before_anything_is_loaded(official):
    with pytest.raises(PRMError, match="1 to 4, not 5"):
        official(Engine.say(), n_thinking_rounds=5)


def test_lists_that_do_not_fit(official):
    with pytest.raises(PRMError, match="2 questions do not fit 1"):
        official(Engine.say()).predict_correctness_batch(["a", "b"], [["s"]])


async def test_it_also_works_where_an_event_loop_runs(official):
    engine = Engine.say(COT + QUESTION)
    result = official(engine).predict_correctness_batch(["q"], [STEPS])
    assert result[0]["n_valid"] == 1
    assert asyncio.get_running_loop().is_running()
    assert math.isfinite(result[0]["log_odds"][0])
