"""The HTML page of a run."""

from genprm.report.page import write_page

__all__ = ["write_page"]
