"""The uploaded files: one import name, all of its files, and nothing else."""

import re
import tarfile
import zipfile
from email.parser import Parser

import pytest

import genprm
from scripts.imports import ROOT

pytestmark = pytest.mark.slow


def test_the_wheel_installs_genprm_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions.wheel) as wheel:
        names = wheel.namelist()
        info = f"genprm-{genprm.__version__}.dist-info"
        assert {name.split("/")[0] for name in names} == {"genprm", info}
        assert wheel.read(f"{info}/top_level.txt").decode().split() == ["genprm"]
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        links = [item for item in wheel.infolist() if (item.external_attr >> 16) & 0o170000 == 0o120000]
    assert metadata["Version"] == genprm.__version__
    assert not links
    # An index shows the README elsewhere: no link or picture of it is relative, and all name something that is there.
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", metadata.get_payload())
    assert targets
    for target in targets:
        assert target.startswith("https://")
        if path := re.fullmatch(r"https://[^/]+/genprm/genprm/(?:(?:blob|tree)/)?main/(.*)", target):
            assert (ROOT / path[1]).exists(), target
    needed = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert not [line for line in needed if line.split(">")[0] in ("torch", "transformers", "vllm", "safetensors")]
    assert [line for line in needed if line.startswith("math-verify")]
    # All non-Python files of the package are included, also those behind the links.
    source = ROOT / "genprm"
    wanted = {
        f"genprm/{file.relative_to(source)}"
        for folder in (source, *(child for child in source.iterdir() if child.is_symlink()))
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert sorted(wanted - {*names}) == []


def test_the_sdist_holds_one_package_and_its_tests(distributions):
    with tarfile.open(distributions.sdist) as sdist:
        members = {name.partition("/")[2]: sdist.getmember(name) for name in sdist.getnames()}
    packages = {name.split("/")[0] for name in members if name.count("/") == 1 and name.endswith("/__init__.py")}
    assert packages == {"genprm", "tests"}
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]
    for name in ("genprm/sandbox/guest/kernel.py", "genprm/rpe/labels.py", "genprm/prompts/critic/user.jinja"):
        assert name in members
    assert {"LICENSE", "CHANGELOG.md", "pyproject.toml", "tests/fakes.py"} <= {*members}
    assert not [name for name in members if "shared" in name.split("/")]
