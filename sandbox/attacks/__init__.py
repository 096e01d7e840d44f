"""Attacks on the sandbox, for its tests and for `genprm sandbox attack`.

Each is a snippet that a policy rewarded for fooling or breaking the judge might write, with its allowed final statuses.
A successful attack prints ESCAPED. After each attack, a canary checks that nothing is left behind.
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
