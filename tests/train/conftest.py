from tests.prms.conftest import box

__all__ = ["box"]
