"""When to stop voting: the pure rules, and their effect on a judge."""

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genprm.config import Mode, Until
from genprm.prms.genprm.adaptive import Spending, computes, needs_code, settled
from genprm.prms.genprm.judge import GenPRM
from genprm.sandbox import Sandbox
from genprm.types import StepJudgement, Verdict
from tests.fakes import ScriptedEngine

scores = st.lists(st.floats(0, 1), max_size=8)


@given(scores, st.integers(1, 8), st.floats(0.05, 0.95))
def test_certainty_means_that_no_missing_votes_could_flip_the_verdict(
    votes: list[float], more: int, threshold: float
) -> None:
    total = len(votes) + more
    lowest, highest = math.fsum(votes) / total, (math.fsum(votes) + more) / total
    # Away from the edge, where rounding decides.
    if min(abs(lowest - threshold), abs(highest - threshold)) > 1e-9:
        assert settled(votes, total, threshold, 1.0) == (lowest >= threshold or highest < threshold)


@given(scores, st.integers(1, 8), st.floats(0.5, 0.99))
def test_more_confidence_never_stops_earlier(votes: list[float], more: int, confidence: float) -> None:
    total = len(votes) + more
    if settled(votes, total, 0.5, 1.0):
        assert settled(votes, total, 0.5, confidence)
    if settled(votes, total, 0.5, confidence + 0.009):
        assert settled(votes, total, 0.5, confidence)


def test_the_stated_confidence_is_that_of_the_beta_binomial() -> None:
    # Two right votes of eight: of six more at least two must be right. By hand, with Beta(3, 1): P(0) = 1/84,
    # P(1) = 6/168, so that P(at least 2) = 1 - 8/168.
    flip = 8 / 168
    assert settled([1.0, 1.0], 8, 0.5, 1 - flip - 1e-6)
    assert not settled([1.0, 1.0], 8, 0.5, 1 - flip + 1e-6)


def test_no_votes_settle_nothing_and_all_votes_settle_everything() -> None:
    assert not settled([], 4, 0.5, 0.5)
    for votes in product((0.0, 1.0), repeat=3):
        assert settled(votes, 3, 0.5, 1.0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="3 scores of 2 votes"):
        settled([1, 1, 1], 2, 0.5, 0.9)
    with pytest.raises(ValueError, match=r"not 0\.0"):
        settled([1], 2, 0.5, 0.0)


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("She sold 48/2 = 24 clips.", True),
        ("At 20% off it costs less.", True),
        ("Thus $x = \\frac{3}{4}$.", True),
        ("We get 3 \\times 4 altogether.", True),
        ("Let us denote the number of apples by a.", False),
        ("The answer is 72.", False),
        ("In 1998 the well-known town had 3 mills.", False),
    ],
)
def test_what_computes(step: str, found: bool) -> None:
    assert computes(step) is found


def test_code_is_for_what_computes_or_is_open() -> None:
    assert needs_code("48/2 = 24", 0.999)
    assert needs_code("Hence the claim.", 0.6)
    assert not needs_code("Hence the claim.", 0.95)
    assert not needs_code("Hence the claim.", 0.02)


ANALYSIS, YES, NO = "Fine.\n</analyze>\n", "{Yes}$\n</output>\n", "{No}$\n</output>\n"
GOOD, BAD = (-0.1, -2.4), (-2.4, -0.1)


async def test_nothing_is_judged_after_the_first_error() -> None:
    engine = ScriptedEngine.of(ANALYSIS, YES, ANALYSIS, NO, choices=[GOOD, BAD])
    judge = GenPRM(engine, mode=Mode.ANALYZE, spending=Spending(Until.FIRST_ERROR))
    judgement = await judge.judge("What?", ["a", "b", "c", "d"])
    assert judgement.first_error == 1
    assert len(engine.prompts) == 4
    assert [step.reason for step in judgement.steps[2:]] == ["not judged: it comes after the first wrong step"] * 2
    # Two steps give the expected cost of the other two.
    assert judgement.tokens_saved == judgement.tokens.generated


async def test_the_mean_of_the_votes_decides_on_the_first_error() -> None:
    class Alternating(ScriptedEngine):
        async def generate(self, prompt_ids, sampling, *, chain=None):  # type: ignore[no-untyped-def]
            self.replies.append(ANALYSIS if sampling.stop == ("</analyze>\n",) else YES)
            return await super().generate(prompt_ids, sampling, chain=chain)

    # Of the first step's three votes one is against: it stands. Of the second's, two are.
    engine = Alternating.of(choices=[GOOD, BAD, GOOD, BAD, BAD, GOOD, GOOD])
    judge = GenPRM(engine, mode=Mode.ANALYZE, votes=3, spending=Spending(Until.FIRST_ERROR))
    judgement = await judge.judge("What?", ["a", "b", "c"])
    assert judgement.first_error == 1
    assert len(engine.prompts) == 2 * 3 * 2


async def test_votes_stop_when_the_verdict_is_settled() -> None:
    class Always(ScriptedEngine):
        async def generate(self, prompt_ids, sampling, *, chain=None):  # type: ignore[no-untyped-def]
            self.replies.append(ANALYSIS if sampling.stop == ("</analyze>\n",) else YES)
            return await super().generate(prompt_ids, sampling, chain=chain)

    engine = Always.of(choices=[(0.0, -60.0)])
    judgement = await GenPRM(engine, mode=Mode.ANALYZE, votes=8, spending=Spending(confidence=0.95)).judge(
        "What?", ["a", "b"]
    )
    assert [len(step.chains) for step in judgement.steps] == [2, 2]
    assert judgement.tokens_saved == 3 * judgement.tokens.generated
    engine = Always.of(choices=[(-0.001, -7.0)])
    judgement = await GenPRM(engine, mode=Mode.ANALYZE, votes=8, spending=Spending(confidence=0.95)).judge(
        "What?", ["a", "b"]
    )
    # Scores just below 1 need three more right votes of six instead of two, which is not yet sure enough.
    assert [len(step.chains) for step in judgement.steps] == [4, 4]
    engine = Always.of(choices=[(-0.001, -7.0)])
    judgement = await GenPRM(engine, mode=Mode.ANALYZE, votes=8, spending=Spending(confidence=1.0)).judge(
        "What?", ["a"]
    )
    # With a score just below 1 four votes leave the mean at 0.4997 in the worst case: two more are asked.
    assert [len(step.chains) for step in judgement.steps] == [6]


@pytest.mark.bubblewrap
async def test_code_only_where_it_pays(box: Sandbox) -> None:
    code = "print(2 + 2)\n```\n"
    written = "Yes.\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    engine = ScriptedEngine.of(ANALYSIS, YES, ANALYSIS, code, written, choices=[(-0.001, -7.0)])
    judgement = await GenPRM(engine, box, mode=Mode.AUTO).judge("What?", ["We begin.", "2+2 = 4"])
    assert [len(step.chains[0].code) for step in judgement.steps] == [0, 1]
    assert (
        judgement.steps[0].chains[0].text.endswith("</analyze>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n")
    )


class Coder(ScriptedEngine):
    """Defines x in the first step and uses it in the second; the analysis and the judgement are always the same."""

    async def generate(self, prompt_ids, sampling, *, chain=None):  # type: ignore[no-untyped-def]
        prompt = self.tokenizer.decode(prompt_ids)
        if sampling.stop == ("</analyze>\n",):
            reply = ANALYSIS
        elif prompt.endswith("```python\n"):
            reply = "x = 41\nprint(x)\n```\n" if "Paragraph 2" not in prompt else "print(x + 1)\n```\n"
        else:
            reply = "So.\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
        self.replies.append(reply)
        return await super().generate(prompt_ids, sampling, chain=chain)


@pytest.mark.bubblewrap
async def test_a_chain_that_goes_on_from_another_has_run_what_its_history_says(box: Sandbox) -> None:
    # Two votes settle the first step; on the second, votes differ and all are asked.
    engine = Coder.of(choices=[(0.0, -60.0), (0.0, -60.0), GOOD, BAD, GOOD, BAD])
    judge = GenPRM(engine, box, votes=4, spending=Spending(confidence=0.8))
    first, second = (await judge.judge("What?", ["x is 41", "x + 1 is 42"])).steps
    assert [len(step.chains) for step in (first, second)] == [2, 4]
    assert [run.stdout for chain in second.chains for run in chain.code] == ["42\n"] * 4
    assert [chain.copied for chain in second.chains] == [False, False, True, True]


@pytest.mark.bubblewrap
async def test_a_session_of_ones_own_is_given_up_for_the_adopted_one(box: Sandbox) -> None:
    class Alone(Coder):
        async def generate(self, prompt_ids, sampling, *, chain=None):  # type: ignore[no-untyped-def]
            done = await super().generate(prompt_ids, sampling, chain=chain)
            # The snippet of every chain leaves a number of its own.
            self.numbers = getattr(self, "numbers", 0) + 1
            if done.text.startswith("x = 41"):
                text = done.text.replace("41", str(self.numbers))
                return replace(done, text=text, token_ids=tuple(self.tokenizer.encode(text)))
            return done

    # All are asked about the first step; only the first two about the second; all again about the third.
    engine = Alone.of(choices=[GOOD, BAD, GOOD, BAD, (0.0, -60.0), (0.0, -60.0), GOOD, BAD, GOOD, BAD])
    judge = GenPRM(engine, box, votes=4, spending=Spending(confidence=0.8))
    judged = (await judge.judge("What?", ["x is a number", "x + 1", "x + 1"])).steps
    assert [len(step.chains) for step in judged] == [4, 2, 4]
    third = [chain.code[-1].stdout for chain in judged[2].chains]
    assert third[2] == third[3] == third[0] != third[1]


@pytest.mark.bubblewrap
async def test_an_empty_block_is_not_run(box: Sandbox) -> None:
    judged = "So.\n</verify>\n<output>\n**Judgement**: $\\boxed{Yes}$\n</output>\n"
    engine = ScriptedEngine.of(ANALYSIS, "\n```\n", judged)
    (step,) = (await GenPRM(engine, box).judge("What?", ["a"])).steps
    assert not step.chains[0].code
    assert step.verdict is Verdict.YES


class Halved:
    """Calibrates 0.8 to 0.5, as isotonic calibration of an overconfident judge may."""

    def apply_to_step(self, step: StepJudgement, threshold: float) -> StepJudgement:
        if step.score is None:
            return step
        score = step.score * 0.625
        return replace(step, score=score, verdict=Verdict.YES if score >= threshold else Verdict.NO)

    def raw_threshold(self, threshold: float) -> float:
        return threshold / 0.625


def yes(probability: float) -> tuple[float, float]:
    return math.log(probability), math.log1p(-probability)


async def test_a_calibrated_score_decides_where_judging_ends() -> None:
    engine = ScriptedEngine.of(ANALYSIS, YES, ANALYSIS, YES, choices=[yes(0.9), yes(0.7)])
    judge = GenPRM(engine, mode=Mode.ANALYZE, spending=Spending(Until.FIRST_ERROR), calibration=Halved())
    judgement = await judge.judge("What?", ["a", "b", "c"])
    assert judgement.scores == [pytest.approx(0.5625), pytest.approx(0.4375), None]
    assert judgement.first_error == 1


@pytest.mark.parametrize(("calibration", "asked"), [(None, 4), (Halved(), 8)])
async def test_votes_settle_on_calibrated_scores(calibration: Halved | None, asked: int) -> None:
    class Always(ScriptedEngine):
        async def generate(self, prompt_ids, sampling, *, chain=None):  # type: ignore[no-untyped-def]
            self.replies.append(ANALYSIS if sampling.stop == ("</analyze>\n",) else YES)
            return await super().generate(prompt_ids, sampling, chain=chain)

    # The mean of 0.75 is clearly right by itself, and just below the line once it is calibrated.
    engine = Always.of(choices=[yes(0.75)])
    judge = GenPRM(engine, mode=Mode.ANALYZE, votes=8, spending=Spending(confidence=0.8), calibration=calibration)
    (step,) = (await judge.judge("What?", ["a"])).steps
    assert len(step.chains) == asked
    assert step.verdict is (Verdict.YES if calibration is None else Verdict.NO)
