"""Every sentence of the threat model that claims something names the tests behind it, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from genprm.sandbox.attacks import ATTACKS

HERE = Path(__file__).parent
TEXT = (HERE.parents[1] / "docs" / "threat-model.md").read_text(encoding="utf-8")
CONTAINED = TEXT.split("## Contained")[1].split("## Not contained")[0]
CLAIMS = [line[2:] for line in CONTAINED.splitlines() if line.startswith("- ")]
TESTS = {
    name
    for file in HERE.glob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.M)
}


def test_there_are_claims() -> None:
    assert len(CLAIMS) > 35


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_names_tests_that_exist(claim: str) -> None:
    named = re.search(r"\(([^()]*)\)$", claim)
    assert named, "the line does not end with its tests"
    attacks = {attack.name for attack in ATTACKS}
    for name in named.group(1).split(", "):
        if name.startswith("attack:"):
            assert name.removeprefix("attack:") in attacks
        else:
            assert name in TESTS
