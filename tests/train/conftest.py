from collections.abc import Iterator

import pytest
import torch

from tests.prms.conftest import box

__all__ = ["box"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """One thread: with steps of milliseconds, a second thread would mostly wait, especially on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
