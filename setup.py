"""Makes the links of the README absolute for package indexes. Everything else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

REPOSITORY = "https://github.com/genprm/genprm"
RAW = "https://raw.githubusercontent.com/genprm/genprm/main"


def absolute(link: re.Match[str]) -> str:
    """A link or picture of the repository, as seen from elsewhere."""
    mark, text, target = link.groups()
    base = RAW if mark else f"{REPOSITORY}/{'tree' if target.endswith('/') else 'blob'}/main"
    return f"{mark}[{text}]({base}/{target})"


readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", absolute, readme),
    long_description_content_type="text/markdown",
)
