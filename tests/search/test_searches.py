"""The searches, with rules whose outcome is known."""

import asyncio

import pytest

from genprm.benchmarks.searches import evaluate_searches
from genprm.config import Keep, PolicyConfig
from genprm.data.pools import PoolItem
from genprm.data.problems import ProblemRow
from genprm.grading.answers import AnswerChecker
from genprm.grading.solutions import AnswerGrader
from genprm.search.beam import beam_search
from genprm.search.best_of_n import best_of_n
from genprm.search.candidates import NodeState, SearchResult
from genprm.search.dvts import dvts
from genprm.search.policy import Policy, SolutionState
from genprm.search.run import Choose, Method, SearchSettings, search
from genprm.search.scoring import Scorer, TokenCount
from genprm.search.voting import Aggregate
from genprm.types import Chain, ChainFinish, Judgement, Tokens, combine_chains, logit
from tests.fakes import RuleEngine
from tests.search.shared import TextGrader, TruthJudge

LENGTH = 3


def digits(text: str, seed: int) -> str:
    """Writes three steps of a digit each, chosen by the seed; greedy ones are 0. Written whole or step by step."""
    done = text.count("\n\n")
    out = ""
    for depth in range(done, LENGTH):
        digit = (seed >> (3 * depth)) % 4
        out += f"{digit}\n\n" if depth < LENGTH - 1 else f"\\boxed{{{digit}}}<eos>"
    return out


def worth(step: str) -> float:
    """Larger digits are better."""
    return {"0": 0.1, "1": 0.3, "2": 0.6, "3": 0.9}[step.strip("\\boxed{}")]


def scorer(judge: TruthJudge, how: Aggregate = Aggregate.PRODUCT) -> Scorer:
    return Scorer(judge, "p", how=how, seed=0, spent=TokenCount())


def policy(rule=digits, **settings) -> Policy:
    return Policy(RuleEngine(rule), PolicyConfig(**settings))


async def beam(rule=digits, n=8, width=4, iterations=9, lookahead=0, judge=None, **settings) -> SearchResult:
    return await beam_search(
        "p", policy(rule, **settings), scorer(judge or TruthJudge(worth)), n=n, width=width, iterations=iterations,
        seed=0, spent=TokenCount(), lookahead=lookahead,
    )  # fmt: skip


async def test_best_of_n_samples_whole_solutions_and_smaller_n_are_beginnings_of_larger():
    engine = RuleEngine(digits)
    spent = TokenCount()
    eight = await best_of_n("p", Policy(engine), scorer(TruthJudge(worth)), n=8, seed=3, spent=spent)
    assert len(engine.prompts) == 8
    assert engine.most_in_flight == 8
    assert spent.policy.generated == engine.sampled
    four = await best_of_n("p", policy(), scorer(TruthJudge(worth)), n=4, seed=3, spent=TokenCount())
    assert [one.solution.text for one in eight.candidates[:4]] == [one.solution.text for one in four.candidates]
    for one in eight.candidates:
        assert one.finished
        assert len(one.solution.steps) == LENGTH
        assert one.scored.judgement is not None


async def test_equal_solutions_are_judged_once():
    judge = TruthJudge(lambda step: 0.5)
    found = await best_of_n("p", policy(lambda *_: "same<eos>"), scorer(judge), n=5, seed=0, spent=TokenCount())
    assert judge.judged == [("same",)]
    assert len(found.candidates) == 5


async def test_what_was_cut_off_is_neither_judged_nor_an_answer():
    judge = TruthJudge(lambda step: 0.5)
    found = await best_of_n(
        "p",
        policy(lambda _, seed: "\\boxed{1}" + "x" * 40, max_tokens=20),
        scorer(judge),
        n=2,
        seed=0,
        spent=TokenCount(),
    )
    assert [one.solution.state for one in found.candidates] == [SolutionState.CUT] * 2
    assert judge.judged == []
    row = await search(
        ProblemRow("k", "f", 1, "p", answer="1"),
        SearchSettings(n=2),
        policy=policy(lambda _, seed: "\\boxed{1}" + "x" * 40, max_tokens=20),
        prm=judge,
        grader=TextGrader(),
    )
    assert (row.chosen, row.prediction, row.correct) == (None, None, None)
    assert [one.answer for one in row.candidates] == [None, None]


async def test_a_beam_keeps_the_best_of_each_round():
    found = await beam(n=8, width=4)
    levels: dict[int, list[int]] = {}
    depth = {-1: 0}
    for index, node in enumerate(found.nodes):
        depth[index] = depth[node.parent] + 1
        levels.setdefault(depth[index], []).append(index)
    assert sorted(levels) == [1, 2, 3]
    for level in (1, 2):
        nodes = [found.nodes[index] for index in levels[level]]
        assert len(nodes) == 8
        kept = [node for node in nodes if node.state is NodeState.KEPT]
        assert len(kept) == 2
        worst = min(node.reward for node in kept)
        assert all(node.reward <= worst for node in nodes if node.state is NodeState.DROPPED)
        children = {found.nodes[index].parent for index in levels[level + 1]}
        assert children == {index for index in levels[level] if found.nodes[index].state is NodeState.KEPT}
    assert {node.state for index, node in enumerate(found.nodes) if index in levels[3]} <= {
        NodeState.FINISHED,
        NodeState.DUPLICATE,
    }
    assert all(one.finished for one in found.candidates)
    best = max(found.candidates, key=lambda one: one.scored.reward)
    assert best.solution.steps[:2] == ("3", "3")


async def test_a_beam_does_not_pay_for_the_same_continuation_twice():
    judge = TruthJudge(worth)
    found = await beam(rule=lambda text, _: digits(text, 0), judge=judge)
    states = [node.state for node in found.nodes]
    assert states.count(NodeState.DUPLICATE) == len(states) - LENGTH
    assert len(judge.judged) == LENGTH
    assert [one.copies for one in found.candidates] == [8]
    assert sum(node.copies for node in found.nodes) == len(found.nodes)


async def test_a_finished_solution_takes_its_share_of_the_beam_with_it():
    """Half of the first round ends at once: the second round has only the missing continuations."""

    def rule(text: str, seed: int) -> str:
        return f"{seed % 1000}<eos>" if not text and seed % 2 else f"{seed % 1000}\n\n" if not text else f"{seed}<eos>"

    found = await beam(rule=rule, judge=TruthJudge(lambda step: 0.5), n=8, width=2)
    first = [node for node in found.nodes if node.parent == -1]
    ended = sum(node.state is NodeState.FINISHED for node in first)
    assert 0 < ended < 8
    assert len(found.nodes) - len(first) == 8 - ended
    assert sum(one.finished for one in found.candidates) == 8


async def test_the_last_round_writes_to_the_end():
    found = await beam(iterations=2)
    assert all(one.finished for one in found.candidates)
    assert all(len(one.solution.steps) == LENGTH for one in found.candidates)
    endless = await beam(rule=lambda text, seed: f"{seed % 4}\n\n" * 30, iterations=2, max_tokens=24)
    assert not any(one.finished for one in endless.candidates)
    assert {node.state for node in endless.nodes if node.parent != -1} <= {NodeState.CUT, NodeState.DUPLICATE}


@pytest.mark.parametrize("lookahead", [0, 1])
async def test_what_looking_ahead_writes_is_judged(lookahead: int):
    judge = TruthJudge(worth)
    engine = RuleEngine(digits)
    await beam_search(
        "p", Policy(engine), scorer(judge), n=4, width=2, iterations=9, seed=0, spent=TokenCount(), lookahead=lookahead
    )
    greedy = [sampling for sampling in engine.samplings if sampling.temperature == 0]
    assert bool(greedy) == bool(lookahead)
    # Judged prefixes include the lookahead; a finished one is judged unchanged.
    assert min(map(len, judge.judged)) == 1 + lookahead


async def test_dvts_goes_down_independent_trees():
    found = await dvts("p", policy(), scorer(TruthJudge(worth)), n=8, width=4, iterations=9, seed=0, spent=TokenCount())
    roots = [node for node in found.nodes if node.parent == -1]
    assert len(roots) == 8
    assert [node.state for node in roots].count(NodeState.KEPT) == 2
    assert all(one.finished for one in found.candidates)
    for one in found.candidates:
        steps: list[str] = []
        node = one.node
        while node != -1:
            steps = [*found.nodes[node].steps, *steps]
            node = found.nodes[node].parent
        assert tuple(steps) == one.solution.steps


async def test_searches_do_not_depend_on_what_else_runs():
    alone = await beam()
    many = await asyncio.gather(*(beam() for _ in range(5)))
    assert all(other.nodes == alone.nodes for other in many)


async def test_a_beginning_without_a_score_ranks_last():
    judge = TruthJudge(lambda step: None if step == "3" else worth(step))
    found = await beam(judge=judge)
    unscored = [node for node in found.nodes if node.steps == ("3",)]
    assert unscored
    assert all(node.state is not NodeState.KEPT for node in unscored)


async def test_a_row_says_what_was_found_and_what_it_cost():
    row = await search(
        ProblemRow("k", "f", 1, "p", "id", "2"),
        SearchSettings(Method.BEAM, n=8, width=4, aggregate=Aggregate.PRODUCT),
        policy=policy(),
        prm=TruthJudge(worth),
        grader=TextGrader(),
        keep=Keep.FULL,
    )
    assert (row.key, row.id, row.prediction, row.correct) == ("k", "id", "2", True)
    assert row.chosen is not None
    chosen = row.candidates[row.chosen]
    assert chosen.scores == [0.9, 0.9, 0.6]
    assert chosen.score == pytest.approx(0.9 * 0.9 * 0.6)
    assert chosen.votes == [[0.9, 0.9, 0.6]]
    assert chosen.vote_tokens == [[1, 1, 1]]
    assert chosen.judged[0].chains[0].text == "about 3"
    assert row.policy.generated > 0
    assert row.prm.generated == row.judged_steps
    assert row.generated == row.policy.generated + row.prm.generated


async def test_majority_and_weighted_votes_choose_differently():
    replies = {0: "a \\boxed{1}<eos>", 1: "b \\boxed{1}<eos>", 2: "c \\boxed{2}<eos>"}
    count = iter(range(100))

    async def chosen(choose: Choose) -> str | None:
        nonlocal count
        count = iter(range(100))
        row = await search(
            ProblemRow("k", "f", 1, "p"),
            SearchSettings(n=3, choose=choose),
            policy=policy(lambda *_: replies[next(count)]),
            prm=TruthJudge(lambda step: {"a": 0.1, "b": 0.2, "c": 0.8}[step[0]]),
            grader=TextGrader(),
        )
        assert row.correct is None
        return row.prediction

    assert await chosen(Choose.MAJORITY) == "1"
    assert await chosen(Choose.WEIGHTED) == "2"
    assert await chosen(Choose.BEST) == "2"


async def test_a_pool_is_judged_without_sampling():
    item = PoolItem("0", "p", ("3", "0", "2"), ("a", "b", "c"), (False, True, True), (0.5, 7.0, -1.0))
    row = ProblemRow("k", "f", 1, "p", pool=item)
    judged = await search(row, SearchSettings(), policy=None, prm=TruthJudge(worth), grader=TextGrader())
    assert (judged.chosen, judged.correct) == (0, False)
    stored = await search(row, SearchSettings(), policy=None, prm=None, grader=TextGrader())
    assert (stored.chosen, stored.correct) == (1, True)
    two = await search(row, SearchSettings(n=1), policy=None, prm=None, grader=TextGrader())
    assert len(two.candidates) == 1


async def test_an_error_of_an_engine_is_raised_as_it_is():
    class Broken(TruthJudge):
        async def judge(self, problem, steps, *, seed=0) -> Judgement:
            raise RuntimeError("the sandbox is gone")

    with pytest.raises(RuntimeError, match="the sandbox is gone"):
        await search(
            ProblemRow("k", "f", 1, "p"),
            SearchSettings(Method.DVTS, n=4, width=2),
            policy=policy(),
            prm=Broken(worth),
            grader=TextGrader(),
        )


async def test_forced_openings_and_the_end_at_the_answer():
    seen: list[str] = []

    def rule(text: str, _: int) -> str:
        seen.append(text)
        return "a\n\n" if text.endswith("Step 1: ") else "so \\boxed{4}.\n\nand more<eos>"

    forced = policy(rule, opening="Step {number}: ", ends_with="\\boxed{")
    solution = await forced.finish(forced.begin("p"), 0)
    assert solution.text == "Step 1: a\n\nStep 2: so \\boxed{4}.\n\n"
    assert solution.steps == ("Step 1: a", "Step 2: so \\boxed{4}.")
    assert solution.state is SolutionState.FINISHED
    assert seen == ["Step 1: ", "Step 1: a\n\nStep 2: "]
    assert solution.spent.generated == solution.generated


async def test_an_opening_that_is_left_blank_is_no_step():
    forced = policy(lambda text, _: "a\n\n" if text == "Step 1: " else "<eos>", opening="Step {number}: ")
    solution = await forced.finish(forced.begin("p"), 0)
    assert (solution.text, solution.steps, solution.state) == ("Step 1: a\n\n", ("Step 1: a",), SolutionState.FINISHED)


async def test_only_separators_and_too_many_steps_end_a_path():
    blank = policy(lambda *_: "\n\n")
    solution = await blank.step(blank.begin("p"), 0)
    assert solution.state is SolutionState.CUT
    endless = policy(lambda *_: "a\n\n", ends_with="\\boxed{", max_steps=3)
    solution = await endless.finish(endless.begin("p"), 0)
    assert (len(solution.steps), solution.state) == (3, SolutionState.CUT)
    long = policy(lambda *_: "<overflow>")
    assert (await long.step(long.begin("p"), 0)).state is SolutionState.CUT


async def test_prompts_of_base_models_and_conversations():
    plain = policy(chat=False, prompt="Q: {{ problem }}\nA:")
    text = plain.engine.tokenizer.decode(plain.begin("p").ids)
    assert text.endswith("Q: p\nA:")
    chat = policy(system="Be brief.")
    ids = chat.begin("p", [{"role": "assistant", "content": "x"}, {"role": "user", "content": "again"}]).ids
    assert chat.engine.tokenizer.decode(ids).endswith(
        "<｜Assistant｜>x<｜end▁of▁sentence｜><｜User｜>again<｜Assistant｜>"
    )
    with pytest.raises(Exception, match="cannot hold a conversation"):
        plain.begin("p", [{"role": "user", "content": "again"}])


async def test_a_separator_is_tokenised_with_the_opening_behind_it():
    forced = policy(
        lambda text, _: " b\n\n" if text.endswith("Step 1:") else " \\boxed{1}<eos>", opening="Step {number}:"
    )
    encoded: list[str] = []
    tokenizer = forced.engine.tokenizer
    encode = tokenizer.encode
    tokenizer.encode = lambda text, **options: encoded.append(text) or encode(text, **options)
    solution = forced.begin("p")
    first = await forced.step(solution, 1)
    assert (first.text, first.between) == ("Step 1: b\n\n", "\n\n")
    assert not tokenizer.decode(first.ids).endswith("\n")
    second = await forced.step(first, 2)
    assert "\n\nStep 2:" in encoded
    assert tokenizer.decode(second.ids).endswith("Step 1: b\n\nStep 2: \\boxed{1}")
    assert second.steps == ("Step 1: b", "Step 2: \\boxed{1}")


def one_answer_or_many_texts(_: str, seed: int) -> str:
    """Writes the right answer in one way, six times of ten, and the same wrong answer in ever different words."""
    return "so \\boxed{1}<eos>" if seed % 10 < 6 else f"by {seed}: \\boxed{{0}}<eos>"


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.slow
async def test_a_vote_counts_samples_and_not_texts(method: Method):
    rows = [
        await search(
            ProblemRow("k", "f", 1, "p", answer="1"),
            SearchSettings(method, n=16, width=4, choose=Choose.MAJORITY),
            policy=policy(one_answer_or_many_texts),
            prm=TruthJudge(lambda step: 0.5),
            grader=TextGrader(),
            seed=seed,
        )
        for seed in range(20)
    ]
    assert sum(row.correct is True for row in rows) >= 14
    assert {sum(one.copies for one in row.candidates) for row in rows} == {16}
    table = evaluate_searches(rows, method, failed=0, n=16, width=4).best_of_n
    whole = next(one for one in table.methods if (one.method, one.n) == ("majority", 16))
    assert whole.outcomes == [float(row.correct is True) for row in rows]
    fewest = whole.solutions == 16 if method is Method.BEST_OF_N else 4 < whole.solutions < 13
    assert fewest


async def test_dvts_is_reported_by_trees():
    rows = [
        await search(
            ProblemRow("k", "f", 1, "p", answer="3"),
            SearchSettings(Method.DVTS, n=8, width=4),
            policy=policy(),
            prm=TruthJudge(worth),
            grader=TextGrader(),
            seed=seed,
        )
        for seed in range(5)
    ]
    assert {one.tree for row in rows for one in row.candidates} == {0, 1}
    table = evaluate_searches(rows, Method.DVTS, failed=0, n=8, width=4).best_of_n
    assert [one.n for one in table.methods if one.method == "best-of-n"] == [4, 8]
    first = next(one for one in table.methods if (one.method, one.n) == ("pass@n", 4))
    assert first.outcomes == [float(any(one.correct and one.tree == 0 for one in row.candidates)) for row in rows]


async def test_reasons_say_what_happened():
    async def reasons(rule, score=0.5, prm=True, method=Method.BEST_OF_N, **settings) -> set[str | None]:
        row = await search(
            ProblemRow("k", "f", 1, "p"),
            SearchSettings(method, n=2, width=2, iterations=3, choose=Choose.MAJORITY),
            policy=policy(rule, **settings),
            prm=TruthJudge(lambda step: score) if prm else None,
            grader=TextGrader(),
        )
        return {one.reason for one in row.candidates}

    def long(_: str, seed: int) -> str:
        return f"{seed}" + "x" * 60

    assert await reasons(long, max_tokens=20) == {"unfinished after max_tokens (20) tokens"}
    assert await reasons(long, max_tokens=20, method=Method.BEAM) == {"unfinished after max_tokens (20) tokens"}
    assert await reasons(lambda *_: "<overflow>") == {"unfinished in the policy's context: too long"}
    assert await reasons(lambda *_: "a<eos>", score=None) == {
        "step 1 has no score: no chain gave a verdict (no_verdict)"
    }
    assert await reasons(lambda *_: "a<eos>") == {None}
    assert await reasons(lambda *_: "a<eos>", prm=False) == {"no PRM is configured"}
    assert await reasons(lambda *_: "a\n\n", ends_with="\\boxed{", max_steps=3) == {
        "unfinished after max_steps (3) steps"
    }


async def test_without_a_reference_nothing_counts_as_wrong():
    row = await search(
        ProblemRow("k", "f", 1, "p"),
        SearchSettings(n=4),
        policy=policy(lambda _, seed: "\\boxed{1}<eos>" if seed % 2 else "x" * 99, max_tokens=20),
        prm=TruthJudge(lambda step: 0.5),
        grader=TextGrader(),
    )
    assert {one.finished for one in row.candidates} == {True, False}
    assert {one.correct for one in row.candidates} == {None}
    metrics = evaluate_searches([row], Method.BEST_OF_N, failed=0)
    assert (metrics.graded, metrics.accuracy) == (0, None)


class WholeJudge(TruthJudge):
    """Judges a solution in one chain, as ThinkPRM does: its tokens are those of the whole, and steps cost nothing."""

    async def judge(self, problem, steps, *, seed=0) -> Judgement:
        # The chain calls every step wrong; the whole is scored by the last step.
        labels = tuple(combine_chains([Chain("", (), 0.25, logit(0.25), None, ChainFinish.VERDICT)]) for _ in steps)
        score = self.score(steps[-1])
        assert score is not None
        votes = [
            Chain("all", (), one, logit(one), None, ChainFinish.VERDICT, Tokens(9, 50)) for one in (score, score / 2)
        ]
        return Judgement(labels, tokens=Tokens(18, 100), solution=combine_chains(votes))


async def test_what_a_judge_of_whole_solutions_costs_and_picks():
    rows = [
        await search(
            ProblemRow("k", "f", 1, "p", answer=answer),
            SearchSettings(n=2),
            policy=policy(lambda _, seed: f"\\boxed{{{seed % 4}}}<eos>"),
            prm=WholeJudge(worth),
            grader=TextGrader(),
            seed=seed,
        )
        for seed, answer in enumerate("3333")
    ]
    metrics = evaluate_searches(rows, Method.BEST_OF_N, failed=0)
    judged = sum(len({tuple(one.steps) for one in row.candidates}) for row in rows)
    assert metrics.tokens["prm"]["generated"] == 100 * judged
    assert metrics.costs[-1].prm == pytest.approx(100 * judged / len(rows))
    splits = {(one.n, one.votes): one for one in metrics.splits}
    assert splits[2, 2].accuracy == metrics.accuracy
    assert splits[2, 1].tokens < splits[2, 2].tokens
    assert splits[2, 2].tokens == pytest.approx(
        sum(one.generated for row in rows for one in row.candidates) / len(rows) + 100 * judged / len(rows)
    )


async def test_stored_answers_are_grouped_and_blank_ones_do_not_vote():
    item = PoolItem(
        "0",
        "p",
        ("a",) * 6,
        ("1/2", "3", "\\frac{1}{2}", "3", "0.5", None),
        (True, False, True, False, True, False),
        None,
    )
    row = ProblemRow("k", "f", 1, "p", pool=item)
    async with AnswerChecker(workers=1, limit_s=60) as checker:
        found = await search(
            row, SearchSettings(choose=Choose.MAJORITY), policy=None, prm=None, grader=AnswerGrader(checker)
        )
    assert (found.prediction, found.correct) == ("1/2", True)
    assert [one.answer for one in found.candidates] == ["1/2", "3", "1/2", "3", "1/2", None]
