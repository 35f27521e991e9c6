"""The judge `local`: tiny random models, a text one and a vision-language one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edgekit.data import Sample
from edgekit.distill import judge_cache
from edgekit.distill.judge_cache import Case
from edgekit.distill.judges import check_judges, local, make_judge
from edgekit.errors import CheckpointError, EdgekitError, RecipeError
from edgekit.inputs.chat import question
from edgekit.recipe.model import LlmJudge, Rewards

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CASES = [Case(f"which animal is on picture {n}?", ("cat", "kitty"), "a cat " * (3 * n + 1)) for n in range(7)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_cache, "ANALYSIS_TOKENS", 4)


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a byte-level tokenizer and a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([judge_cache.ANALYSE, judge_cache.DECIDE], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=0, bos_token_id=None, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def settings(folder: Path | str, **more: Any) -> LlmJudge:
    return replace(LlmJudge(judge_model=str(folder), judge_concurrency=3), **more)


def ask(model: local.LocalModel) -> list[int | None]:
    """The verdicts on CASES, in order."""
    answers = dict(model.ask(CASES))
    assert sorted(answers) == list(range(len(CASES)))
    return [answers[place].value for place in range(len(CASES))]


def test_the_verdict_is_the_likelier_of_the_two_tokens(judge_folder: Path) -> None:
    """Batched and padded, against the whole model on one prompt at a time, without padding."""
    model = local.LocalModel(judge_folder, 3)
    prompts = [model.render(judge_cache.verdict_prompt(case, "So it says.")) for case in CASES]
    one, zero = model._ids("1"), model._ids("0")
    expected = []
    for prompt in prompts:
        with torch.no_grad():
            logp = model._model(input_ids=torch.tensor([model._ids(prompt)])).logits[0, -1].log_softmax(-1)
        expected.append(int(logp[one[0]] > logp[zero[0]]))
    assert model.decide(prompts) == expected
    assert len(set(map(len, map(model._ids, prompts)))) > 3


def test_there_always_is_a_verdict_and_it_hangs_on_the_tokens(judge_folder: Path) -> None:
    model = local.LocalModel(judge_folder, 3)
    before = ask(model)
    assert set(before) <= {0, 1}
    assert ask(local.LocalModel(judge_folder, 7)) == before  # whatever the batch
    (one,), (zero,) = model._ids("1"), model._ids("0")
    head = model._model.lm_head.weight.data
    head[[one, zero]] = head[[zero, one]]
    assert ask(model) == [1 - int(value or 0) for value in before]


def test_the_analysis_stands_before_the_verdict(judge_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = local.LocalModel(judge_folder, 3)
    seen: list[str] = []
    monkeypatch.setattr(model, "_text", lambda ids: f"analysis of {len(ids)} tokens")
    monkeypatch.setattr(model, "decide", lambda prompts: seen.extend(prompts) or [0] * len(prompts))
    ask(model)
    assert len(seen) == 7 and all("<|assistant|>analysis of 4 tokens<|end|><|user|>Any one of" in text for text in seen)


def test_verdicts_are_kept_by_checkpoint(judge_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(Sample("a", (), question("which?", 0), "cat"), said) for said in ("cat", "dog", "", "cat")]
    rewards = Rewards("local", settings(judge_folder.name))
    values = make_judge(rewards, "exact", tmp_path, judge_folder.parent)(rows)
    assert (
        values[2] == 0 and values[0] == values[3] and len((tmp_path / judge_cache.FILE).read_text().splitlines()) == 2
    )
    monkeypatch.setattr(local.LocalModel, "ask", None)  # nothing is asked again
    assert make_judge(rewards, "exact", tmp_path, judge_folder.parent)(rows) == values


def test_a_vision_language_checkpoint_is_asked_in_text(tiny_checkpoint: Path) -> None:
    """Its template wants parts, not text: with text it would silently show nothing of it."""
    model = local.LocalModel(tiny_checkpoint, 4)
    text = model.render(judge_cache.analysis_prompt(CASES[2]))
    assert CASES[2].question in text and "a cat a cat" in text
    assert set(ask(model)) <= {0, 1}


def test_what_cannot_judge(judge_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"needs masters\.rewards\.llm\.judge_model"):
        check_judges(Rewards("local"), tmp_path)
    with pytest.raises(EdgekitError, match="No model at"):
        check_judges(Rewards("local", settings("../nowhere at all")), tmp_path)

    def copy(name: str) -> Path:
        shutil.copytree(judge_folder, tmp_path / name)
        return tmp_path / name

    bare = copy("bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="has no chat template"):
        check_judges(Rewards("local", settings(bare)), tmp_path)
    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle"):
        check_judges(Rewards("local", settings(pickled)), tmp_path)
    cut = copy("cut")
    (cut / "model.safetensors").write_bytes((judge_folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        check_judges(Rewards("local", settings(cut)), tmp_path)
    mute = copy("mute")
    (mute / "chat_template.jinja").write_text("{{ messages | length }}")
    with pytest.raises(CheckpointError, match="does not show a user's text"):
        ask(local.LocalModel(mute, 2))
    foreign = copy("foreign")
    config = json.loads((foreign / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}}
    (foreign / "config.json").write_text(json.dumps({**config, **own}))
    (foreign / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointError, match="Cannot load"):
        ask(local.LocalModel(foreign, 2))
    assert not (tmp_path / "ran").exists()
