from pathlib import Path

import pytest
import yaml

from genprm.fields import ConfigError
from genprm.search.recipe import Recipe, load_recipe
from genprm.search.run import Choose, Method

ROOT = Path(__file__).parent.parent.parent / "recipes"
LOOPS = sorted(path for path in ROOT.rglob("*.yaml") if "loop" in (path.parent.name, path.stem.partition("-")[0]))
RECIPES = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name != "train" and path not in LOOPS)
MINIMAL = "problems: {files: [a.jsonl]}\npolicy: {model: m}\nprm: {}\n"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_is_resolved(path):
    recipe = load_recipe(path)
    assert recipe.description
    again = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))))
    assert again == recipe


def test_there_are_recipes_for_what_was_published():
    assert {path.parent.name for path in RECIPES} >= {"math500", "aime", "amc", "built-in", "remote", "pool"}
    beam = load_recipe(ROOT / "math500" / "thinkprm-beam.yaml")
    assert (beam.method, beam.n, beam.width, beam.iterations, beam.seed) == (Method.BEAM, 16, 4, 20, 42)
    assert beam.policy is not None
    assert (beam.policy.temperature, beam.problems.limit) == (0.6, 100)


def test_thinkprm_chooses_by_weighted_majority_except_on_aime():
    for path in (one for one in RECIPES if one.stem.startswith("thinkprm-")):
        recipe = load_recipe(path)
        if path.stem != "thinkprm-policy":
            assert recipe.choose is (Choose.BEST if path.parent.name == "aime" else Choose.WEIGHTED), path


def loaded(tmp_path, text, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def test_overrides_win_over_the_file_and_the_file_over_what_it_extends(tmp_path):
    (tmp_path / "base.yaml").write_text(MINIMAL + "n: 4\nseed: 1\n")
    text = 'extends: base.yaml\nn: 16\npolicy: {temperature: 0.5, stop: ["\\n"]}\n'
    recipe = loaded(tmp_path, text, "policy.top_p=0.9", "prm.votes=4", "method=beam")
    assert recipe.policy is not None
    assert (recipe.policy.model, recipe.policy.temperature, recipe.policy.top_p) == ("m", 0.5, 0.9)
    assert recipe.policy.stop == ("\n",)
    assert (recipe.n, recipe.seed, recipe.method) == (16, 1, Method.BEAM)
    assert recipe.prm is not None
    assert recipe.prm.votes == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "widht: 3", "the key 'widht' is unknown; the nearest one is 'width'"),
        (
            MINIMAL + "policy: {model: m, temprature: 1}",
            "the key 'policy.temprature' is unknown",
        ),
        (MINIMAL + "extend: x", "the nearest one is 'extends'"),
        (MINIMAL + "n: 0", "'n' cannot be 0"),
        (MINIMAL + "method: bean", "'method' cannot be 'bean'"),
        ("policy: {model: m}", "'problems' is missing"),
        ("problems: {}\npolicy: {model: m}", "give one of files, pool, dataset and generate, not none"),
        ("problems: {files: [a], generate: 3}\nprm: {}", "give one of files, pool"),
        ("problems: {files: [a]}\nprm: {}", "a policy is needed"),
        ("problems: {pool: [a]}\npolicy: {model: m}", "a pool has solutions already"),
        ("problems: {files: [a]}\npolicy: {model: m}\nmethod: beam", "beam needs a PRM: set prm"),
        ("problems: {files: [a]}\npolicy: {model: m}", "choose: best needs a prm"),
        (MINIMAL + "method: dvts\nn: 6", "n must be a multiple of width, not 6 with a width of 4"),
        (MINIMAL.replace("m}", "m, temperature: 0}"), "at temperature 0 all solutions are the same"),
        ("extends: nowhere.yaml", "cannot read the recipe"),
        ("extends: recipe.yaml", "extends itself"),
        ("extends: [1]", "extends must name a file"),
        ("- 1", "must hold keys and values"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert message in str(caught.value)


def test_wrong_overrides_say_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="write key=value"):
        loaded(tmp_path, MINIMAL, "n")
    with pytest.raises(ConfigError, match=r"the key 'policy\.n' is unknown"):
        loaded(tmp_path, MINIMAL, "policy.n=3")


def test_one_source_of_problems_replaces_another(tmp_path):
    (tmp_path / "base.yaml").write_text(
        MINIMAL.replace("{files: [a.jsonl]}", "{dataset: d, split: s, problem: q, limit: 3}")
    )
    extended = loaded(tmp_path, "extends: base.yaml\nproblems: {files: [b.jsonl]}\n")
    assert (extended.problems.files, extended.problems.dataset) == (("b.jsonl",), None)
    assert (extended.problems.problem, extended.problems.limit) == ("problem", 3)
    generated = loaded(tmp_path, MINIMAL, "problems.generate=5")
    assert (generated.problems.files, generated.problems.generate) == ((), 5)
    path = tmp_path / "recipe.yaml"
    named = load_recipe(path, ["problems.generate=5"], {"problems": {"files": ["c.jsonl"], "limit": 2}})
    assert (named.problems.files, named.problems.generate, named.problems.limit) == (("c.jsonl",), None, 2)
    with pytest.raises(ConfigError, match="give one of files"):
        loaded(tmp_path, MINIMAL.replace("[a.jsonl]", "[a.jsonl], generate: 3"))
