"""Real data that some tests read and that is not in the repository."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """Path of a file; if it is missing, the test skips with a message."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"../shared/data/{name} is not here")
    return path
