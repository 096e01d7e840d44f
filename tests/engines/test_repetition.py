"""When a generation counts as repeating itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm.engines.stops import REPEATED_LEAST, REPEATED_MOST, REPEATED_TIMES, repeats

pieces = st.lists(st.integers(0, 5), min_size=1, max_size=30)


@settings(deadline=None)
@given(pieces, pieces)
def test_it_is_the_rule_that_vllm_has(start, piece):
    utils = pytest.importorskip("vllm.v1.core.sched.utils")
    params = pytest.importorskip("vllm.sampling_params").RepetitionDetectionParams
    rule = params(REPEATED_MOST, REPEATED_LEAST, REPEATED_TIMES)
    for times in (1, 3, 5, 6, 7, 17, 96):
        ids = start + piece * times
        assert repeats(ids) == utils.check_sequence_repetition(ids, rule)


def test_tables_and_lists_of_numbers_are_no_repetition():
    assert not repeats([7] * 95)
    assert repeats([7] * 96)
    counting = [part for number in range(300) for part in (1, 2, 3, 4, 5, 100 + number)]
    assert not repeats(counting)
    sentence = list(range(40))
    assert not repeats(sentence * 5)
    assert repeats(sentence * 6)
    assert not repeats([*sentence * 6, 1])
