"""Process reward models: one file a family, one `judge` for all."""

from genprm.prms.base import PRM, PRMError

__all__ = ["PRM", "PRMError"]
