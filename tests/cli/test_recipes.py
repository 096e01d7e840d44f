from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from genprm.cli.options import command
from genprm.config import JudgeConfig, RunConfig

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)


def show(files: Annotated[list[str], typer.Argument()], judge: JudgeConfig, run: RunConfig) -> None:
    typer.echo(repr((files, judge.with_code, judge.votes, judge.base_url, judge.sandbox, run.limit)))


command(app, "show")(show)


def run(tmp_path, recipe: str, *arguments: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    return CliRunner().invoke(app, [*arguments, "--config", str(path)], env={"COLUMNS": "200"})


def test_flag_then_file_then_default(tmp_path):
    recipe = "files: [a.jsonl, b.jsonl]\nwith-code: false\nvotes: 4\nbase_url: http://x\nsandbox: docker\nlimit:\n"
    result = run(tmp_path, recipe, "--votes", "8")
    assert result.output == "(['a.jsonl', 'b.jsonl'], False, 8, ('http://x',), 'docker', None)\n"
    result = run(tmp_path, recipe, "c.jsonl", "--with-code", "--base-url", "http://y", "--base-url", "http://z")
    assert result.output == "(['c.jsonl'], True, 4, ('http://y', 'http://z'), 'docker', None)\n"


def test_an_empty_recipe_changes_nothing(tmp_path):
    assert run(tmp_path, "", "a").output == "(['a'], True, 1, (), 'auto', None)\n"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("vote: 3", "has the unknown key 'vote'. The nearest one is 'votes'."),
        ("clean: true", "has the unknown key 'clean'"),
        ("votes: 0", "votes: votes must be a number from 1, `adaptive` or `adaptive:N`, not '0'"),
        ("sandbox: dokcer", "not 'dokcer'"),
        ("votes: [1, 2]", "'votes' cannot be [1, 2]"),
        ("votes: {a: 1}", "'votes' cannot be {'a': 1}"),
        ("- votes", "must be a mapping of keys to values, not ['votes']"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path, recipe, message):
    result = run(tmp_path, recipe, "a")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_missing_recipe(tmp_path):
    result = CliRunner().invoke(app, ["a", "--config", str(tmp_path / "nothing.yaml")])
    assert result.exit_code == 2
    assert "No such file" in result.output
