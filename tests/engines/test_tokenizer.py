"""Text and ids: nothing added, nothing lost, no control token forged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from genprm.engines import EngineError
from genprm.engines.tokenizer import Tokenizer
from tests.engines.conftest import ASSISTANT, BOS, EOS, SENTENCES, USER, save_tiny_tokenizer

CONTROLS = [BOS, EOS, USER, ASSISTANT, "</think>"]


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(str(tiny_model))


texts = st.one_of(
    st.text(), st.lists(st.sampled_from([*CONTROLS, *SENTENCES, " ", "<｜", "\U0010fff0", "0"])).map("".join)
)


@given(text=texts)
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, special=True)) == text


@given(text=texts)
def test_untrusted_text_has_no_control_token(tokenizer: Tokenizer, text: str) -> None:
    controls = {tokenizer.encode(control, special=True)[0] for control in CONTROLS}
    assert len(controls) == len(CONTROLS)
    assert not controls & set(tokenizer.encode(text))


@given(text=texts, suffix=texts)
def test_a_chat_has_the_control_tokens_of_its_template_only(tokenizer: Tokenizer, text: str, suffix: str) -> None:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    ids = tokenizer.encode_chat(messages, True, suffix)
    assert tokenizer.decode(ids) == f"{BOS}{text}{USER}{text}{ASSISTANT}{suffix}"
    controls = [tokenizer.encode(control, special=True)[0] for control in CONTROLS]
    assert [i for i in ids if i in controls] == [controls[CONTROLS.index(c)] for c in (BOS, USER, ASSISTANT)]


def test_a_harmless_chat_is_tokenised_as_one_text(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": SENTENCES[0]}, {"role": "assistant", "content": SENTENCES[2]}]
    rendered = tokenizer.render_chat(messages, False)
    assert rendered == f"{BOS}{USER}{SENTENCES[0]}{ASSISTANT}{SENTENCES[2]}{EOS}"
    assert tokenizer.encode_chat(messages, False, "<ana") == tokenizer.encode(rendered + "<ana", special=True)


def test_white_space_among_the_added_tokens_stays_a_token(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path)
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    hf.add_tokens(["        "])
    tokenizer = Tokenizer(hf)
    assert len(tokenizer.encode("        ")) == 1


def test_what_loses_text_is_refused(tmp_path: Path) -> None:
    save_tiny_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    state = json.loads(path.read_text())
    state["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    path.write_text(json.dumps(state))
    with pytest.raises(EngineError, match="does not preserve text"):
        Tokenizer.from_pretrained(str(tmp_path))


def test_a_declared_llama_tokenizer_keeps_its_spaces(tmp_path: Path) -> None:
    """What the R1 distillations declare; transformers 5 would rebuild it with Llama's own rules."""
    save_tiny_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))
    tokenizer = Tokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.decode(tokenizer.encode("a  b Yes")) == "a  b Yes"
    assert tokenizer.bos_id == tokenizer.encode(BOS, special=True)[0]


def test_ends_of_a_turn_come_from_the_generation_config_too(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [439, 441]}))
    tokenizer = Tokenizer.from_pretrained(str(tmp_path))
    assert tokenizer.eos_ids == {439, 441}
    assert tokenizer.eos_id == 439


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no folder '/nowhere/at-all'"):
        Tokenizer.from_pretrained("/nowhere/at-all")
    save_tiny_tokenizer(tmp_path)
    hf = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    hf.chat_template = None
    with pytest.raises(EngineError, match="no chat template"):
        Tokenizer(hf, name="bare").render_chat([{"role": "user", "content": "?"}], True)
    hf.chat_template = "{{ raise_exception('Only user messages please') }}"
    with pytest.raises(EngineError, match="Only user messages please"):
        Tokenizer(hf).render_chat([{"role": "system", "content": "?"}], True)
