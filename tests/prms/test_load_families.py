"""How a model's family is recognised, and its profile changed."""

import json
from collections import deque

import pytest

from genprm.config import PolicyConfig
from genprm.engines import EngineError
from genprm.prms import load_prm
from genprm.prms.base import PRMError
from genprm.prms.critic import Critic
from genprm.prms.genprm.judge import GenPRM
from genprm.prms.profiles import read_profile
from genprm.prms.thinkprm.judge import ThinkPRMJudge
from genprm.search.policy import Policy
from tests.fakes import ScriptedEngine, byte_tokenizer


def engine():
    return ScriptedEngine(deque())


@pytest.fixture
def folder(tmp_path):
    def make(**profile):
        (tmp_path / "genprm.json").write_text(json.dumps(profile))
        return str(tmp_path)

    return make


async def test_families(folder):
    path = folder(family="thinkprm", profile={"rounds": 2}, sampling={"temperature": 0.3})
    judge = await load_prm(path, engine=engine())
    assert isinstance(judge, ThinkPRMJudge)
    assert judge.profile.rounds == 2
    assert judge.sampling.temperature == 0.3
    critic = await load_prm(path, family="critic", engine=engine(), votes=8)
    assert isinstance(critic, Critic)
    assert (critic.sampling.temperature, critic.sampling.top_p) == (1.0, 0.9)
    genprm = await load_prm(path, family="genprm", engine=engine(), sandbox=None, mode="analyze")
    assert isinstance(genprm, GenPRM)
    await judge.close()


async def test_fields_of_a_profile(folder):
    path = folder(family="thinkprm", profile={"rounds": 2})
    judge = await load_prm(path, engine=engine(), profile={"per_step": True})
    assert (judge.profile.rounds, judge.profile.per_step) == (2, True)
    with pytest.raises(PRMError, match="has no 'round'"):
        await load_prm(path, engine=engine(), profile={"round": 3})
    with pytest.raises(PRMError, match="1 to 4, not 9"):
        await load_prm(path, engine=engine(), profile={"rounds": 9})
    with pytest.raises(PRMError, match="'rounds' cannot be 'x'"):
        await load_prm(path, engine=engine(), profile={"rounds": "x"})


@pytest.mark.parametrize(
    ("settings", "reference", "revision"),
    [
        ({}, "a/one", "r1"),
        ({"reference_revision": "r2"}, "a/one", "r2"),
        ({"reference": "b/two"}, "b/two", None),
        ({"reference": "b/two", "reference_revision": "r2"}, "b/two", "r2"),
    ],
)
async def test_the_revision_of_a_profile_is_of_its_own_reference(folder, monkeypatch, settings, reference, revision):
    async def opened(own, other, **_):
        return other

    monkeypatch.setattr("genprm.prms.load.load_implicit", opened)
    path = folder(family="implicit", profile={"reference": "a/one", "reference_revision": "r1"})
    source = await load_prm(path, **settings)
    assert (source.model, source.revision) == (reference, revision)


async def test_sampling_that_is_given_wins_field_by_field(folder):
    judge = await load_prm(folder(family="critic"), engine=engine(), votes=4, temperature=0.7)
    assert (judge.sampling.temperature, judge.sampling.top_p) == (0.7, 0.9)
    with pytest.raises(PRMError, match="same chain"):
        await load_prm(folder(family="thinkprm"), engine=engine(), votes=4, temperature=0.0)


def test_names_tell_the_family(tmp_path):
    for name, family in (("ThinkPRM-1.5B", "thinkprm"), ("GenPRM-7B", "genprm")):
        (tmp_path / name).mkdir()
        assert read_profile(str(tmp_path / name)).family == family
    (tmp_path / "Qwen").mkdir()
    with pytest.raises(PRMError, match="cannot tell the family"):
        read_profile(str(tmp_path / "Qwen"))
    assert read_profile(str(tmp_path / "Qwen"), family="critic").family == "critic"
    with pytest.raises(PRMError, match="must be one of genprm, thinkprm, critic, implicit, qwen-prm"):
        read_profile(str(tmp_path / "Qwen"), family="judge")


@pytest.mark.parametrize(
    "profile", [{"family": "else"}, {}, {"family": "thinkprm", "profile": {"round": 1}}, {"family": "critic", "x": 1}]
)
def test_files_that_are_no_profile(folder, profile):
    with pytest.raises(PRMError, match="not a model profile"):
        read_profile(folder(**profile))


@pytest.mark.parametrize("family", ["genprm", "thinkprm", "critic", "implicit", "qwen-prm", "rlhflow"])
async def test_a_model_without_a_chat_template_is_refused_at_the_start(family):
    words = ("<extra_0>",) if family == "qwen-prm" else ()
    bare = ScriptedEngine(deque(), tokenizer=byte_tokenizer(("Yes", "No", " Yes", " No", *words)))
    bare.tokenizer._hf.chat_template = None
    options = {"reference": "none"} if family == "implicit" else {}
    with pytest.raises(EngineError, match="has no chat template"):
        await load_prm("some/model", family=family, engine=bare, sandbox=None, mode="analyze", **options)


def test_a_policy_without_a_chat_template_is_refused_at_the_start():
    bare = ScriptedEngine(deque(), tokenizer=byte_tokenizer())
    bare.tokenizer._hf.chat_template = None
    with pytest.raises(EngineError, match=r"has no chat template.*chat: false"):
        Policy(bare)
    Policy(bare, PolicyConfig(chat=False))
