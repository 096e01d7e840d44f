"""The tokenizer read without transformers gives the same ids and chats as transformers' own."""

import json
import os
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from genprm.engines import BUILT_IN, EngineError
from genprm.engines.tokenizer import Tokenizer
from genprm.engines.tokenizer_files import TokenizerFiles

SHARED = Path(os.environ.get("GENPRM_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data/tokenizers"
FOLDERS = [
    *(pytest.param(path, id=name) for name, path in BUILT_IN.items()),
    *(pytest.param(SHARED / name, id=name, marks=pytest.mark.shared_data) for name in ("qwen3", "r1")),
]
CHATS = [
    [{"role": "user", "content": "What is 3 + 4?"}],
    [{"role": "system", "content": "  Be short. "}, {"role": "user", "content": "caf\u00e9\n\n\t$\\frac{1}{2}$"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
        {"role": "user", "content": "d"},
    ],
]


@pytest.fixture(scope="module", params=FOLDERS)
def both(request):
    if not request.param.is_dir():
        pytest.skip(f"{request.param} is not there")
    ours = TokenizerFiles.load(str(request.param))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(request.param)
    assert ours is not None
    return ours, theirs


def test_ids_of_texts(both):
    ours, theirs = (Tokenizer(each) for each in both)

    @settings(max_examples=60, deadline=None)
    @given(st.text(max_size=200))
    def check(text):
        for special in (False, True):
            assert ours.encode(text, special=special) == theirs.encode(text, special=special)

    check()
    added = [token.content for token in ours._special.get_added_tokens_decoder().values()]
    for text in ("<｜User｜>hi<think>", "<|im_start|>user\n", "  two  spaces", "\\boxed{Yes}", *added):
        for special in (False, True):
            assert ours.encode(text, special=special) == theirs.encode(text, special=special)
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (theirs.bos_id, theirs.eos_id, theirs.vocab_size)
    assert ours.fingerprint == theirs.fingerprint


@pytest.mark.parametrize("chat", CHATS, ids=["user", "system", "turns"])
@pytest.mark.parametrize("prompt", [True, False])
def test_chats(both, chat, prompt):
    ours, theirs = both
    if theirs.chat_template is None:
        assert ours.chat_template is None
        return
    assert ours.apply_chat_template(chat, add_generation_prompt=prompt) == theirs.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=prompt
    )


@pytest.fixture
def folder(tmp_path):
    """The built-in tokenizer, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((BUILT_IN["nano"] / name).read_bytes())

    def change(**values):
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return tmp_path

    return change


TEMPLATE = (
    "{% for m in messages %}\n  {% if loop.index0 == 1 %}{% break %}{% endif %}\n"
    "{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\n"
    "{{ bos_token }}{{ m | tojson }}{% generation %}x{% endgeneration %}{{ strftime_now('%Y')[:2] }}{% endfor %}"
)


@pytest.mark.parametrize(
    "template", [TEMPLATE, [{"name": "tool_use", "template": "no"}, {"name": "default", "template": TEMPLATE}]]
)
def test_templates_of_other_models(folder, template):
    where = folder(chat_template=template, bos_token={"__type": "AddedToken", "content": "<BOS>", "special": True})
    (where / "chat_template.jinja").unlink()
    ours, theirs = TokenizerFiles.load(str(where)), transformers.PreTrainedTokenizerFast.from_pretrained(where)
    assert ours is not None
    chat = [{"role": "user", "content": "<a href='x'> & caf\u00e9"}, {"role": "user", "content": "left out"}]
    expected = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert ours.apply_chat_template(chat, add_generation_prompt=True) == expected
    assert "<a href" in expected
    # A token that only the configuration knows is a token of the vocabulary all the same.
    assert ours.bos_token_id == theirs.bos_token_id
    with pytest.raises(EngineError, match="no tools"):
        Tokenizer(ours).render_chat([{"role": "tool", "content": "x"}], True)


def test_tokens_that_only_the_configuration_knows(folder):
    size = json.loads((BUILT_IN["nano"] / "config.json").read_text())["vocab_size"]
    added = {str(size): {"content": "<extra>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}}
    where = folder(added_tokens_decoder=added)
    ours, theirs = TokenizerFiles.load(str(where)), transformers.PreTrainedTokenizerFast.from_pretrained(where)
    assert ours is not None
    text = "a <extra> b"
    assert Tokenizer(ours).encode(text, special=True) == Tokenizer(theirs).encode(text, special=True)


def test_a_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match=r"no tokenizer\.json in"):
        Tokenizer.from_pretrained(str(tmp_path))


def test_a_file_that_is_not_json(folder):
    where = folder()
    (where / "tokenizer_config.json").write_text("{")
    with pytest.raises(EngineError, match="is not JSON"):
        Tokenizer.from_pretrained(str(where))
