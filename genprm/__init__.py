"""genprm: generative process reward models that check every step of a reasoning chain with sandboxed code.

    import genprm

    problem = "Ann sold 48 clips in April and half as many in May. How many did she sell altogether?"
    judgement = genprm.judge_sync(problem, ["In May she sold 48/2 = 24 clips.", "Altogether 48+24 = 73 clips."])
    judgement.first_error    # 1

`load_prm` gives a judge to keep: `prm = await genprm.load_prm("nano")`, then `await prm.judge(problem, steps)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm.lazy import names
from genprm.types import Chain, CodeRun, Judgement, StepJudgement, Tokens, Verdict

if TYPE_CHECKING:
    from genprm.api import judge, judge_sync
    from genprm.prms import PRM, PRMError, load_prm
    from genprm.runs.opening import open_judge
    from genprm.search.refine import Critique, critique

__all__ = [
    "PRM",
    "Chain",
    "CodeRun",
    "Critique",
    "Judgement",
    "PRMError",
    "StepJudgement",
    "Tokens",
    "Verdict",
    "__version__",
    "critique",
    "judge",
    "judge_sync",
    "load_prm",
    "open_judge",
]

__version__ = "0.1.0"
"""The one place of the version; the package's metadata is made from it."""

# Importing genprm is quick: what needs more than the standard library is imported when it is asked for.
__getattr__ = names(
    __name__,
    {
        "PRM": "genprm.prms",
        "PRMError": "genprm.prms",
        "load_prm": "genprm.prms",
        "open_judge": "genprm.runs.opening",
        "judge": "genprm.api",
        "judge_sync": "genprm.api",
        "Critique": "genprm.search.refine",
        "critique": "genprm.search.refine",
    },
)
