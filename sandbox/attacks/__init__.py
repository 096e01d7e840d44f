"""Attacks on the sandbox, for its tests and for `genprm sandbox attack`.

Each is a snippet that somebody could write who is rewarded for fooling or breaking the judge, with the statuses in
which it may end. One that gets what it wants prints ESCAPED. After each one a canary shows that nothing was left.
"""

from .escape import ESCAPE
from .guest import GUEST
from .lifecycle import LIFECYCLE
from .model import Attack
from .protocol import PROTOCOL
from .resources import RESOURCES
from .run import ATTACK_LIMITS, Outcome, run_attacks
from .state import STATE

ATTACKS: tuple[Attack, ...] = (*RESOURCES, *LIFECYCLE, *PROTOCOL, *STATE, *ESCAPE, *GUEST)

__all__ = ["ATTACKS", "ATTACK_LIMITS", "Attack", "Outcome", "run_attacks"]
