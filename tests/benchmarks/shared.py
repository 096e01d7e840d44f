"""The real data that some tests read and the repository does not hold."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """A file of it; where it is missing the test skips, and says so."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not here")
    return path
