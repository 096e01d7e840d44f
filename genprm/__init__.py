"""genprm: generative process reward models that check every step of a reasoning chain with sandboxed code.

    import genprm

    problem = "Ann sold 48 clips in April and half as many in May. How many did she sell altogether?"
    judgement = genprm.judge_sync(problem, ["In May she sold 48/2 = 24 clips.", "Altogether 48+24 = 73 clips."])
    judgement.first_error    # 1

To load a judge once: `with genprm.Judge("nano") as judge: judge(problem, steps)`; in asynchronous code
`async with genprm.open_judge("nano") as judge: await judge.judge(problem, steps)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm.lazy import names
from genprm.types import Chain, CodeRun, Judgement, StepJudgement, Tokens, Verdict

if TYPE_CHECKING:
    from genprm.api import Judge, judge, judge_sync
    from genprm.prms import PRM, PRMError, load_prm
    from genprm.runs.opening import open_judge
    from genprm.search.refine import Critique, critique

__all__ = [
    "PRM",
    "Chain",
    "CodeRun",
    "Critique",
    "Judge",
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
"""The version; the package's metadata is read from here."""

# Importing genprm is quick: names that need more than the standard library are imported on first use.
__getattr__ = names(
    __name__,
    {
        "PRM": "genprm.prms",
        "PRMError": "genprm.prms",
        "load_prm": "genprm.prms",
        "Judge": "genprm.api",
        "judge": "genprm.api",
        "judge_sync": "genprm.api",
        "open_judge": "genprm.runs.opening",
        "Critique": "genprm.search.refine",
        "critique": "genprm.search.refine",
    },
)
