"""One configuration: a field added in one place is available everywhere, and invalid values are refused early."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genprm.config import JudgeConfig, Keep, Mode, PolicyConfig, RunConfig
from genprm.fields import Config, ConfigError, free_fields, merged
from genprm.prms.load import resolve
from genprm.search.recipe import Recipe

ROOT = Path(__file__).parents[1]
ADDS_A_FIELD = """
import importlib.util, json, sys
from pathlib import Path

spec = importlib.util.find_spec("genprm.config")
source, mark = Path(spec.origin).read_text(), "    certainty: float = Field("
assert source.count(mark) == 1
line = '    novelty: int = Field(default=7, ge=1, description="A field of today.")\\n'
module = sys.modules["genprm.config"] = importlib.util.module_from_spec(spec)
exec(compile(source.replace(mark, line + mark), spec.origin, "exec"), module.__dict__)

from typer.testing import CliRunner
from genprm.cli.main import app
from genprm.prms.load import resolve
from genprm.search.recipe import load_recipe

def run(*arguments, **environment):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", **environment})

found = {}
benches = [["bench", name] for name in ("processbench", "prmbench", "best-of-n")]
for command in (["verify"], ["search"], ["refine"], *benches):
    text = run(*command, "--help").output
    found["help " + command[-1]] = "--novelty" in text and "A field of today." in text
Path("recipe.yaml").write_text("problems: {generate: 1}\\npolicy: {}\\nprm: {novelty: 3}\\n")
found["recipe"] = load_recipe(Path("recipe.yaml")).prm.novelty
found["api"] = resolve("nano", {"novelty": 4}).novelty
found["default"] = resolve("nano", {}).novelty
found["environment"] = "novelty: 5" in run("verify", "x.jsonl", "--dry-run", GENPRM_NOVELTY="5").output
Path("options.yaml").write_text("novelty: 6\\n")
found["file"] = "novelty: 6" in run("verify", "x.jsonl", "--dry-run", "--config", "options.yaml").output
Path("x.jsonl").write_text(json.dumps({"problem": "p", "steps": ["1 + 1 = 2"]}) + "\\n")
done = run("verify", "x.jsonl", "--no-code", "--novelty", "8", "--out", "run")
assert done.exit_code == 0, done.output
found["run.json"] = json.loads(Path("run/run.json").read_text())["config"]["novelty"]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_field_is_added_in_one_place(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ADDS_A_FIELD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(shown for name, shown in found.items() if name.startswith("help ")), found
    assert (found["recipe"], found["api"], found["default"], found["run.json"]) == (3, 4, 7, 8)
    assert found["environment"]
    assert found["file"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vote": 2}, "the key 'vote' is unknown; the nearest one is 'votes'"),
        ({"threshold": 3}, "'threshold' cannot be 3: Input should be less than or equal to 1"),
        ({"votes": 0}, "votes must be a number from 1, `adaptive` or `adaptive:N`, not 0"),
        ({"mode": "direct", "with_code": True}, "mode 'direct' contradicts --with-code"),
        ({"engine": "llama"}, "'engine' cannot be 'llama'"),
        ({"workers": 2}, "workers 2 need a cluster"),
        ({"confidence": 0.9}, "confidence 0.9 is for adaptive votes"),
        ({"profile": "/nowhere.yaml"}, "cannot read the profile '/nowhere.yaml'"),
        ({"sandbox_wall_s": 0}, "'sandbox_wall_s' cannot be 0"),
    ],
)
def test_nonsense_is_refused_with_the_value(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve("nano", settings)
    assert message in str(refused.value)


def test_code_and_mode_say_the_same() -> None:
    assert JudgeConfig.of({"with_code": False}).mode is Mode.ANALYZE
    assert JudgeConfig.of({"with_code": "auto"}).mode is Mode.AUTO
    assert not JudgeConfig.of({"mode": "direct"}).with_code
    # The later of the two counts.
    assert resolve(JudgeConfig.of({"mode": "direct"}), {"with_code": True}).mode is Mode.EXECUTE
    assert merged({"prm": {"mode": "code", "votes": 2}}, {"prm": {"with_code": False}}) == {
        "prm": {"with_code": False, "votes": 2}
    }


def test_an_option_of_another_engine_is_named() -> None:
    config = JudgeConfig.of({"tensor_parallel_size": 2, "max_num_seqs": 64})
    assert config.options_for("vllm") == {"tensor_parallel_size": 2, "max_num_seqs": 64}
    with pytest.raises(ConfigError, match="tensor_parallel_size 2 is for the vllm engine"):
        config.options_for("transformers")


@pytest.mark.parametrize("model", [JudgeConfig, PolicyConfig, RunConfig, Recipe])
def test_every_field_says_what_it_is(model: type[Config]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_what_a_run_keeps(tmp_path: Path) -> None:
    calibration = tmp_path / "a.json"
    calibration.write_text("{}")
    moved = tmp_path / "b.json"
    moved.write_text("{}")
    kept = [JudgeConfig.of({"calibration": str(path)}).stored() for path in (calibration, moved)]
    assert kept[0] == kept[1]
    assert "with_code" not in kept[0]
    assert not {"out", "clean", "dry_run"} & RunConfig.of({"clean": True}).stored().keys()
    assert {"base_url", "sandbox", "cluster"} <= set(free_fields(JudgeConfig))
    assert "prm.base_url" in free_fields(JudgeConfig, "prm.")
    assert RunConfig().keep is Keep.FULL
