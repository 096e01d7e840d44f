"""`genprm verify` and `genprm bench` with every kind of PRM: tiny models with random weights, and the built-in one."""

import asyncio
import json
import math

import pytest
from typer.testing import CliRunner

from genprm.cli.main import app
from genprm.prms import load_prm
from genprm.prms.discriminative.formats import FORMATS
from genprm.prms.implicit import load as load_implicit
from tests.prms import tiny_models
from tests.prms.tiny_models import PROBLEM, SOLUTIONS

ROWS = [
    {"id": f"math-{n}", "problem": PROBLEM, "steps": steps, "label": n % 2 - 1} for n, steps in enumerate(SOLUTIONS)
]


@pytest.fixture(autouse=True)
def solutions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two causal language models with one tokenizer."""
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("policy", "reference")]
    for seed, folder in enumerate(folders):
        tiny_models.save_model(folder, "qwen2", tiny_models.save_qwen_tokenizer(folder), seed=seed)
    return folders


def genprm(*arguments):
    result = CliRunner().invoke(app, [*arguments, "--engine", "transformers"], env={"COLUMNS": "160"})
    return result, " ".join((result.stdout + result.stderr).split())


def judged(folder):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return {row["id"]: [step["log_odds"] for step in row["steps"]] for row in rows}


@pytest.mark.parametrize("family", FORMATS)
def test_released_models_are_known(family, tmp_path):
    """Recognised by name or architecture alone."""
    model = tiny_models.save_family(tmp_path, family)
    result, text = genprm("verify", "math.jsonl", "--model", str(model), "--out", "run")
    assert result.exit_code == 0, text
    assert json.loads((tmp_path / "run/run.json").read_text())["facts"]["family"] == family

    async def scored():
        prm = await load_prm(str(model), family=family, engine="transformers")
        try:
            return [await prm.judge(row["problem"], row["steps"]) for row in ROWS]
        finally:
            await prm.close()

    for row, expected in zip(ROWS, asyncio.run(scored()), strict=True):
        assert judged(tmp_path / "run")[row["id"]] == pytest.approx([s.log_odds for s in expected.steps], abs=1e-4)


def test_a_profile_and_a_calibration(tmp_path):
    model = str(tiny_models.save_family(tmp_path, "token-classification"))
    (tmp_path / "calibration.json").write_text('{"method": "temperature", "temperature": 2.0}')
    (tmp_path / "blank.yaml").write_text(r'separator: "\n\n"')
    for out, more in (("a", ()), ("b", ("--calibration", "calibration.json")), ("c", ("--profile", "blank.yaml"))):
        result, text = genprm("verify", "math.jsonl", "--model", model, "--out", out, *more)
        assert result.exit_code == 0, text
    plain, calibrated, blank = (judged(tmp_path / out) for out in "abc")
    for name, values in plain.items():
        assert [2 * value for value in calibrated[name]] == pytest.approx(values, abs=1e-4)
    assert plain != blank


def test_implicit_prms_take_turns_with_their_reference(pair, tmp_path, monkeypatch):
    opened, closed = [], []
    load_engine = load_implicit.load_engine

    async def counted(kind, model, **more):
        engine = await load_engine(kind, model, **more)
        opened.append((model, len(opened) - len(closed)))
        close = engine.close

        async def closing():
            closed.append(model)
            await close()

        engine.close = closing
        return engine

    monkeypatch.setattr(load_implicit, "load_engine", counted)
    policy, reference = pair
    command = ("verify", "math.jsonl", "--prm", "implicit", "--model", policy)
    runs = {"ratio": ("--reference", reference), "swapped": ("--model", reference, "--reference", policy)}
    runs |= {"own": ("--reference", "none"), "base": ("--model", reference, "--reference", "none")}
    found = {}
    for out, more in runs.items():
        result, text = genprm(*command, *more, "--out", out)
        assert result.exit_code == 0, text
        found[out] = judged(tmp_path / out)
    assert opened[:4] == [(reference, 0), (policy, 0), (policy, 0), (reference, 0)]
    assert len(opened) == len(closed)
    for row in ROWS:
        there, back, own, base = (values[row["id"]] for values in found.values())
        assert len(there) == len(row["steps"])
        assert [-value for value in back] == pytest.approx(there, abs=1e-6)
        assert [a - b for a, b in zip(own, base, strict=True)] == pytest.approx(there, abs=1e-6)
    # The reference's answers are on disk: it is not opened again.
    before = len(opened)
    result, text = genprm(*command, "--reference", reference, "--out", "ratio", "--clean")
    assert (result.exit_code, opened[before:]) == (0, [(policy, 0)]), text
    # Batches differ between runs, and with them the rounding of float32 sums.
    for name, values in judged(tmp_path / "ratio").items():
        assert values == pytest.approx(found["ratio"][name], abs=1e-6)


def test_a_model_can_name_its_reference(pair, tmp_path):
    policy, reference = pair
    model = tmp_path / "trained"
    model.mkdir()
    tiny_models.save_model(model, "qwen2", tiny_models.save_qwen_tokenizer(model), seed=0)
    own = {"family": "implicit", "profile": {"reference": reference, "beta": 0.05, "reward": "single"}}
    (model / "genprm.json").write_text(json.dumps(own))
    result, text = genprm("bench", "processbench", "math.jsonl", "--model", str(model), "--tune-on", "math")
    assert result.exit_code == 0, text
    assert "Threshold" in text
    assert "tuned on math" in text
    genprm("verify", "math.jsonl", "--prm", "implicit", "--model", policy, "--reference", reference, "--out", "plain")
    (run,) = (tmp_path / "runs").iterdir()
    for name, single in judged(run).items():
        # The sum of the steps' own rewards is the last cumulative one, whatever the scale.
        assert math.fsum(single) / 0.05 == pytest.approx(judged(tmp_path / "plain")[name][-1] / 0.001, abs=1e-3)


@pytest.mark.parametrize("family", ["critic", "thinkprm", "implicit"])
def test_the_built_in_model_in_the_formats_of_other_families(family, tmp_path):
    (tmp_path / "short.yaml").write_text("max_tokens: 16")
    more = ("--reference", "none") if family == "implicit" else ("--profile", "short.yaml")
    result, text = genprm("bench", "processbench", "math.jsonl", "--prm", family, "--out", "run", *more)
    assert result.exit_code == 0, text
    assert len((tmp_path / "run/rows.jsonl").read_text().splitlines()) == len(ROWS)
    assert "math" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prm", "implicit"), "trained with? Pass it as the reference; 'none' means none"),
        (("--prm", "implicit", "--votes", "8"), "does not sample: leave out votes (8)"),
        (("--reference", "none"), "a reference is for implicit PRMs"),
        (("--prm", "implicit", "--reference", "./nowhere"), "./nowhere"),
        (("--prm", "judge"), "the family must be one of genprm, thinkprm"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    result, text = genprm("verify", "math.jsonl", *arguments)
    assert result.exit_code != 0
    assert message in text, text
