import json
from dataclasses import replace

import pytest

from genprm.benchmarks import best_of_n
from genprm.benchmarks.comparison import FirstErrorRun, compare_best_of_n, compare_first_errors, read_first_errors
from genprm.benchmarks.evaluation import evaluate, items_of, vote_curve
from genprm.benchmarks.metrics import Metrics, Tally
from genprm.benchmarks.processbench import tune_threshold
from genprm.config import Keep
from genprm.data.inputs import InputRow
from genprm.runs.folder import METRICS, open_run, write_atomically
from genprm.runs.rows import failure_row, step_row, verify_row
from genprm.types import Chain, ChainFinish, Judgement, StepJudgement, Tokens, combine_chains


def solution(number, label, steps=2, subset="math"):
    return InputRow(
        f"{subset}{number}", f"{subset}.json", number, "p", ("s",) * steps, f"{subset}-{number}", None, label
    )


def step(*scores, generated=10):
    chains = [Chain("t", (), score, None, None, ChainFinish.VERDICT, Tokens(5, generated)) for score in scores]
    return combine_chains(chains)


def judged(row, *steps, **options):
    tokens = sum((chain.tokens for one in steps for chain in one.chains), Tokens())
    return verify_row(row, Judgement(steps, tokens=tokens, **options), seconds=0.0)


def run(*pairs):
    rows = {row.key: judged(row, *steps) for row, *steps in pairs if steps}
    return items_of([row for row, *_ in pairs], rows)


def first_errors(rows, **options):
    return FirstErrorRun({row.key: row for row in rows}, **options)


def test_a_table_by_hand():
    items = run(
        (solution(0, 1), step(0.9), step(0.1)),
        (solution(1, 0), step(0.9), step(0.9)),
        (solution(2, -1), step(0.9), step(0.9)),
        (solution(3, -1), step(0.9), step(None)),
        (solution(4, 0),),
        (solution(0, -1, 1, "gsm8k"), step(0.6)),
        (solution(1, 0, 1, "gsm8k"), step(0.4)),
    )
    table = evaluate(items)
    assert [subset.name for subset in table.subsets] == ["gsm8k", "math"]
    gsm8k, math = table.subsets
    assert (gsm8k.f1, gsm8k.undecided, gsm8k.binary_f1) == (1.0, 0, 1.0)
    assert (math.error_accuracy, math.correct_accuracy) == (pytest.approx(1 / 3), 0.5)
    assert math.f1 == pytest.approx(0.4)
    assert (math.rows, math.undecided, math.failed) == (5, 2, 1)
    # Judged right: rows 1 and 2; of the two undecided ones row 3 is a miss and row 4 a false alarm.
    assert math.binary_f1 == pytest.approx(2 / 5)
    assert table.macro_f1 == pytest.approx(0.7)
    assert table.macro_low < 0.7 < table.macro_high
    assert math.floor == pytest.approx(1 / 3)
    assert table.curve == []


def test_a_threshold_tuned_on_one_subset_is_applied_to_the_others():
    items = run(
        (solution(0, 0, subset="gsm8k"), step(0.7), step(0.9)),
        (solution(1, -1, subset="gsm8k"), step(0.9), step(0.9)),
        (solution(0, 1), step(0.95), step(0.75)),
        (solution(1, -1), step(0.9), step(0.85)),
    )
    assert evaluate(items).macro_f1 == 0.0
    table = evaluate(items, tune_on="gsm8k")
    assert table.threshold == pytest.approx(0.8)
    assert [subset.f1 for subset in table.subsets] == [1.0, 1.0]
    with pytest.raises(ValueError, match="no subset 'omnimath'"):
        evaluate(items, tune_on="omnimath")
    with pytest.raises(ValueError, match="no row has a label"):
        evaluate([])


def test_the_solution_as_a_whole_decides_the_binary_score_and_what_no_step_decides():
    rows = [solution(0, -1), solution(1, 0)]
    both = step(0.9), step(None)
    judged_rows = {
        rows[0].key: judged(rows[0], *both, solution=step(0.8)),
        rows[1].key: judged(rows[1], *both, solution=step(0.2)),
    }
    table = evaluate(items_of(rows, judged_rows))
    assert [item.predicted() for item in items_of(rows, judged_rows)] == [-1, None]
    assert table.subsets[0].binary_f1 == 1.0
    assert table.subsets[0].undecided == 1


def test_f1_against_votes():
    # Chain by chain the first error of row 0 is found, missed, found, found; row 1 is confirmed by all.
    items = run(
        (solution(0, 0, 1), step(0.1, 0.9, 0.3, 0.2)),
        (solution(1, -1, 1), step(0.9, 0.9, 0.9, 0.9)),
    )
    curve = vote_curve(items)
    assert [point.votes for point in curve] == [1, 2, 4]
    # One vote: 3 of 4 chains find it. Two: means of 0.5 (missed) and 0.25. Four: 0.375.
    assert [point.f1 for point in curve] == [0.75, 0.5, 1.0]
    assert [point.tokens for point in curve] == [10.0, 20.0, 40.0]


def test_f1_against_votes_where_chains_name_the_first_error():
    def critic(row, *named):
        steps = [
            step(*(float(name == -1 or index < name) for name in named), generated=0) for index in range(len(row.steps))
        ]
        whole = step(*(float(name == -1) for name in named), generated=7)
        most = max(named, key=named.count)
        return judged(row, *steps, solution=whole, first_error_vote=most)

    rows = [solution(0, 0, 3), solution(1, -1, 3)]
    items = items_of(rows, {rows[0].key: critic(rows[0], 1, 0, 0, 2), rows[1].key: critic(rows[1], -1, -1, -1, -1)})
    curve = vote_curve(items)
    assert [point.f1 for point in curve] == [0.5, 0.5, 1.0]
    assert [point.tokens for point in curve] == [7.0, 14.0, 28.0]


def test_two_runs():
    inputs = [solution(number, 0 if number % 2 else -1) for number in range(40)]
    right = first_errors(judged(row, step(0.1 if row.label == 0 else 0.9), step(0.9)) for row in inputs)
    blind = first_errors(judged(row, step(0.9), step(0.9)) for row in inputs[:30])
    (found,) = compare_first_errors(blind, right)
    assert (found.name, found.rows, found.first, found.second) == ("math", 30, 0.0, 1.0)
    assert found.difference.interval.low > 0.9
    assert (found.rows_test.first_only, found.rows_test.second_only) == (0, 15)
    assert found.rows_test.p < 0.001
    with pytest.raises(ValueError, match="no labelled row in common"):
        compare_first_errors(blind, first_errors(judged(row, step(0.9), step(0.9)) for row in inputs[30:]))


def test_the_threshold_is_tuned_with_the_scores_of_whole_solutions():
    """As of ThinkPRM: steps are 0 or 1 or missing, and the solution's own score decides about right ones."""
    items = run(
        (solution(0, 1), step(1.0), step(0.0)),
        (solution(1, -1), step(1.0), step(None)),
        (solution(2, -1), step(1.0), step(1.0)),
        (solution(3, 0), step(1.0), step(1.0)),
        (solution(4, 1), step(0.9), step(0.7)),
    )
    wholes = [0.1, 0.6, 0.62, 0.2, 0.3]
    items = [
        replace(item, row=item.row.model_copy(update={"solution": step_row(None, step(whole), Keep.FULL)}))
        for item, whole in zip(items, wholes, strict=True)
    ]
    table = evaluate(items, tune_on="math")
    # Steps alone would ask for a threshold above 0.7, at which both right solutions are lost. The error of row 3 is
    # found at no threshold, that of row 4 only above 0.7.
    assert table.threshold == 0.5
    assert table.subsets[0].correct_accuracy == 1.0
    assert table.subsets[0].error_accuracy == pytest.approx(1 / 3)


def test_rows_that_failed_count_when_the_threshold_is_tuned():
    items = run(
        (solution(0, 0, 1), step(0.7)),
        (solution(1, -1, 1), step(0.8)),
        (solution(2, -1, 1), step(0.6)),
        *((solution(number, 0, 1),) for number in range(3, 9)),
    )
    table = evaluate(items, tune_on="math")
    scored = [tune_threshold([[0.7], [0.8], [0.6], *[None] * 6], [0, -1, -1, *[0] * 6])]
    assert table.subsets[0].f1 == pytest.approx(scored[0].f1)
    assert table.threshold == scored[0].threshold


def test_f1_against_votes_is_at_the_tuned_threshold():
    items = run(
        (solution(0, 0, 1), step(0.7, 0.7)),
        (solution(1, -1, 1), step(0.9, 0.9)),
    )
    table = evaluate(items, tune_on="math")
    assert (table.threshold, table.macro_f1) == (pytest.approx(0.8), 1.0)
    assert [point.f1 for point in table.curve] == [1.0, 1.0]


def test_two_runs_are_compared_as_their_own_tables_have_them(tmp_path):
    """Each run is compared at the threshold of its own table, and with its failed rows."""
    inputs = [solution(number, 0 if number % 2 else -1, 1) for number in range(20)]
    # A finds everything at 0.8, nothing at 0.5. B finds all but a few at 0.5, and failed at six rows.
    a = [judged(row, step(0.7 if row.label == 0 else 0.9)) for row in inputs]
    b = [judged(row, step(0.2 if row.label == 0 else 0.9)) for row in inputs[6:]]
    for name, rows, tune_on in (("a", a, "math"), ("b", b, None)):
        by_key = {row.key: row for row in rows}
        table = evaluate(items_of(inputs, by_key), tune_on=tune_on)
        metrics = Metrics.model_validate(Tally().metrics(failed=0)).model_dump() | {"processbench": table.model_dump()}
        with open_run(tmp_path / name, command="bench processbench", config={}) as folder:
            for row in inputs:
                if row.key in by_key:
                    folder.add(by_key[row.key], row.key)
                else:
                    folder.add_failure(failure_row(row, RuntimeError("no")))
            write_atomically(folder.path / METRICS, json.dumps(metrics))
        (part,) = compare_first_errors(*[read_first_errors(tmp_path / name)] * 2)
        assert part.first == pytest.approx(table.macro_f1)
        assert part.rows == 20
    (part,) = compare_first_errors(read_first_errors(tmp_path / "a"), read_first_errors(tmp_path / "b"))
    assert (part.rows, part.first, part.second) == (20, 1.0, pytest.approx(0.7))
    assert part.rows_test.first_only == 6


def test_two_runs_over_several_subsets_have_a_mean():
    rows = [
        solution(number, label, subset=subset) for subset in ("math", "gsm8k") for number, label in enumerate((0, -1))
    ]
    run_a = first_errors(judged(row, step(0.9), step(0.9)) for row in rows)
    parts = compare_first_errors(run_a, run_a)
    assert [part.name for part in parts] == ["gsm8k", "math", "mean"]
    assert parts[2].difference.p == 1.0


def test_two_pools():
    def pool(*correct):
        return [
            best_of_n.PoolItem(str(number), "p", ("a", "b"), ("1", "2"), (not good, good), (0.0, 1.0))
            for number, good in enumerate(correct)
        ]

    first, second = best_of_n.evaluate(pool(*[False] * 12)), best_of_n.evaluate(pool(*[True] * 12))
    found = {part.name: part for part in compare_best_of_n(first, second)}
    assert found["best-of-n, n=2"].rows_test.second_only == 12
    assert found["pass@1, n=2"].difference.value == 0.0
    assert found["pass@1, n=2"].rows_test is None
    with pytest.raises(ValueError, match="different problems"):
        compare_best_of_n(first, best_of_n.evaluate(pool(True)))


def test_a_judgement_without_chains_has_no_curve():
    row = solution(0, -1)
    bare = StepJudgement(0.9, None, None, ())
    assert vote_curve(items_of([row], {row.key: judged(row, bare, bare)})) == []
