"""A model's own generation settings: the same tokens as transformers' generate(do_sample=False)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from hypothesis import assume, given
from hypothesis import strategies as st
from tracing import traced_once
from typer.testing import CliRunner

from edgekit import api
from edgekit.api.results import HowGenerated
from edgekit.bundle import Bundle
from edgekit.checkpoint.generation import PLAIN, Generation, acting, read_generation
from edgekit.checkpoint.rules import Rules
from edgekit.cli import build
from edgekit.demo.shapes import draw
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.inputs.chat import question
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import Chat, answer
from edgekit.runtimes.sampling import Sampling, chooser

END = 2
V = 12


# ------------------------------------------------------------------------------------------------------ step by step


TOKENS = st.integers(0, V + 2)  # an embedding may know tokens that the output head has no row for
COUNTS = st.integers(0, 5)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "repetition_penalty": st.sampled_from([0.5, 1.0, 1.05, 1.3]),
        "encoder_repetition_penalty": st.sampled_from([0.7, 1.2]),
        "no_repeat_ngram_size": COUNTS,
        "encoder_no_repeat_ngram_size": COUNTS,
        "sequence_bias": st.lists(
            st.tuples(st.lists(st.integers(0, V - 1), min_size=1, max_size=3), st.sampled_from([-2.5, 4.0])),
            min_size=1, max_size=3, unique_by=lambda pair: tuple(pair[0]),
        ).map(lambda pairs: [list(pair) for pair in pairs]),
        "bad_words_ids": st.lists(
            st.lists(st.integers(0, V - 1), min_size=1, max_size=3), min_size=1, max_size=4, unique_by=tuple
        ),
        "min_length": st.integers(0, 14),
        "min_new_tokens": COUNTS,
        "forced_bos_token_id": st.integers(0, V - 1),
        "forced_eos_token_id": st.integers(0, V - 1),
        "exponential_decay_length_penalty": st.tuples(COUNTS, st.sampled_from([1.01, 1.5])),
        "suppress_tokens": st.lists(TOKENS, min_size=1, max_size=3),
        "begin_suppress_tokens": st.lists(TOKENS, min_size=1, max_size=3),
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def mixin() -> Any:
    """A model, for transformers' own list of processors."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


@given(
    settings=SETTINGS,
    prompt=st.lists(st.integers(0, V - 1), min_size=1, max_size=9),
    said=st.lists(st.integers(0, V - 1), max_size=7),
    seed=st.integers(0, 9),
)
def test_rules_are_transformers_processors(
    mixin: Any, settings: dict[str, Any], prompt: list[int], said: list[int], seed: int
) -> None:
    import torch
    from transformers import GenerationConfig

    forced = {settings.get("forced_bos_token_id"), settings.get("forced_eos_token_id")}
    assume(not forced & set(settings.get("suppress_tokens", [])))  # transformers refuses that
    config = GenerationConfig(**settings, eos_token_id=[END, 3], max_length=len(prompt) + 8)
    mixin._prepare_special_tokens(config, device="cpu", batch_size=1)
    ids = torch.tensor([prompt + said])
    theirs = mixin._get_logits_processor(config, len(prompt), torch.tensor([prompt]), device="cpu")
    logits = np.random.default_rng(seed).normal(0, 3, V).astype(np.float32)
    wanted = theirs(ids, torch.from_numpy(logits.copy())[None])[0].numpy()
    rules = Rules(read_generation(config.to_dict()), prompt, 8, [END, 3])
    np.testing.assert_array_equal(rules(logits, prompt + said), wanted)


# ------------------------------------------------------------------------------------------------------ whole answers


def with_settings(source: Path, folder: Path, **settings: Any) -> Path:
    """A copy of a checkpoint whose generation_config.json says more."""
    shutil.copytree(source, folder)
    path = folder / "generation_config.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | settings))
    return folder


def generated(folder: Path, prompt: str, limit: int, image: Any = None, **settings: Any) -> list[int]:
    """What transformers says: its own loop, greedily, with the folder's settings; of a drawn image by default."""
    session: Any = RUNTIMES.load("pytorch").open_session(folder, 1)
    text = session.processor.apply_chat_template(question(prompt), add_generation_prompt=True)
    inputs = session.processor(text=[text], images=[image or draw(3)[0]], return_tensors="pt", add_special_tokens=False)
    out = session.model.generate(
        **inputs, max_new_tokens=limit, do_sample=False, tokenizer=session.processor.tokenizer, **settings
    )
    found: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return found


PROMPT, LIMIT = "is there a red circle or a blue triangle?", 12
# A random model repeats nothing by itself, so below 1 the penalty makes it.
CASES: dict[str, dict[str, Any]] = {
    "penalty": {"repetition_penalty": 0.7},
    "ngrams": {"repetition_penalty": 0.7, "no_repeat_ngram_size": 2},
    "several": {
        "repetition_penalty": 0.75, "no_repeat_ngram_size": 3, "min_new_tokens": 12, "suppress_tokens": [204, 6],
        "do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.001,
    },
    "forced": {"forced_eos_token_id": 7, "begin_suppress_tokens": list(range(190, 210)), "repetition_penalty": 1.5},
    "decay": {"exponential_decay_length_penalty": [2, 1.9]},
    "long": {"min_length": 90, "encoder_repetition_penalty": 1.4},
}  # fmt: skip


@pytest.fixture(scope="module")
def sessions(tiny_checkpoint: Path, tiny_bundle: Path) -> Iterator[list[Any]]:
    """The reference and a bundle of it."""
    opened = [RUNTIMES.load(runtime_for(folder)).open_session(folder, 1) for folder in (tiny_checkpoint, tiny_bundle)]
    yield opened
    for session in opened:
        session.close()


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_generate(tiny_checkpoint: Path, tmp_path: Path, sessions: list[Any], case: str) -> None:
    wanted = generated(with_settings(tiny_checkpoint, tmp_path / "model", **CASES[case]), PROMPT, LIMIT)
    settings = read_generation(CASES[case])
    plain = answer(sessions[0], question(PROMPT), [draw(3)[0]], max_new_tokens=LIMIT).token_ids
    assert wanted != plain  # else the case shows nothing
    for session in sessions:
        said = answer(session, question(PROMPT), [draw(3)[0]], max_new_tokens=LIMIT, generation=settings)
        assert said.token_ids == wanted
        assert answer(session, question(PROMPT), [draw(3)[0]], max_new_tokens=LIMIT).token_ids == plain


def test_words_that_are_forbidden_and_words_that_end(
    tiny_checkpoint: Path, tmp_path: Path, sessions: list[Any]
) -> None:
    """What the plain answer says, taken from it."""
    plain = answer(sessions[0], question(PROMPT), [draw(3)[0]], max_new_tokens=LIMIT)
    letters = [sessions[1].decode_text([token]).strip() for token in plain.token_ids[:-1]]
    shown = next(text for text in letters if text.isascii() and text.isprintable() and text)
    for case in (
        {"bad_words_ids": [plain.token_ids[1:3], plain.token_ids[:1]]},
        {"sequence_bias": [[plain.token_ids[:1], -50.0], [[9], 3.5]]},
        {"stop_strings": [shown]},
    ):
        wanted = generated(with_settings(tiny_checkpoint, tmp_path / next(iter(case)), **case), PROMPT, LIMIT)
        assert wanted != plain.token_ids
        for session in sessions:
            settings = read_generation(case)
            said = answer(session, question(PROMPT), [draw(3)[0]], max_new_tokens=LIMIT, generation=settings)
            assert said.token_ids == wanted, case


def test_a_bundle_carries_the_settings(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From the folder to the manifest to the answer, and back from a bundle that is older than the field."""
    folder = with_settings(tiny_checkpoint, tmp_path / "model", **CASES["several"], num_beams=4, top_h=None)
    draw(3)[0].save(tmp_path / "a.png")
    with traced_once(tiny_checkpoint):
        bundle = export_checkpoint(folder, "onnx", "fp32", tmp_path / "bundle", prompts=2)
    kept = bundle.manifest.generation
    assert kept == {**CASES["several"], "num_beams": 4}
    ask = {"images": tmp_path / "a.png", "max_new_tokens": LIMIT}
    wanted = generated(folder, PROMPT, LIMIT, num_beams=1)
    for model in (folder, bundle):
        said = api.run(model, PROMPT, **ask)
        assert said.token_ids == wanted
        assert said.generation == HowGenerated("model", acting(read_generation(kept)), ("num_beams 4",))
    plain = api.run(bundle, PROMPT, **ask, generation="greedy")
    assert plain.token_ids != wanted and plain.generation.settings == {}
    told = {name: api.run(folder, PROMPT, **ask, repetition_penalty=name) for name in (1.0, 1.6)}
    for penalty, said in told.items():
        assert said.token_ids == generated(folder, PROMPT, LIMIT, num_beams=1, repetition_penalty=penalty)
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    del manifest["generation"], manifest["seal"]
    manifest["schema_version"] = 2
    (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
    older = RUNTIMES.load("onnxruntime").open_session(bundle.folder, 1)
    assert older.generation == read_generation({**CASES["several"], "num_beams": 4})
    every = api.run_all(PROMPT, draw(3)[0], [folder, bundle.folder], max_new_tokens=LIMIT)
    assert [one.token_ids for one in every] == [wanted, wanted] and every[1].same
    assert every[0].generation is not None
    assert every[0].generation.settings["repetition_penalty"] == 0.75
    greedy = api.run_all(PROMPT, draw(3)[0], bundle.folder, max_new_tokens=LIMIT, generation="greedy")
    assert greedy[0].token_ids == plain.token_ids


def test_a_chat_obeys_over_the_whole_conversation(sessions: list[Any]) -> None:
    """The reference answers each turn from an empty cache."""
    settings = read_generation({"repetition_penalty": 0.7, "no_repeat_ngram_size": 2, "min_new_tokens": 3})
    chat = Chat(sessions[1], max_new_tokens=6, generation=settings)
    for words, images in (("is there a circle?", [draw(3)[0]]), ("sure?", []), ("what color?", [draw(4)[0]])):
        said = chat.say(words, images)
        asked = chat.messages[:-1], list(chat.images)
        fresh = answer(sessions[0], *asked, max_new_tokens=6, generation=settings)
        assert said.token_ids == fresh.token_ids != answer(sessions[0], *asked, max_new_tokens=6).token_ids


def test_drawn_tokens_obey_too(sessions: list[Any]) -> None:
    settings = Generation(suppress_tokens=tuple(range(30)), min_new_tokens=8)
    choose = chooser(Sampling(1.0, seed=3), sessions[1].vocab_size)
    said = answer(sessions[1], question(PROMPT), [draw(3)[0]], max_new_tokens=8, choose=choose, generation=settings)
    assert len(said.token_ids) == 8 and min(said.token_ids) >= 30 and len(set(said.token_ids)) > 3


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", 0), ("repetition_penalty", "1.1"), ("repetition_penalty", float("nan")),
        ("no_repeat_ngram_size", -1), ("no_repeat_ngram_size", 1.5), ("bad_words_ids", [[]]), ("bad_words_ids", [3]),
        ("suppress_tokens", [-4]), ("suppress_tokens", ["a"]), ("sequence_bias", [[1, 2, 3]]),
        ("exponential_decay_length_penalty", [1]), ("stop_strings", [3]), ("min_new_tokens", True),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_named(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=name):
        read_generation({name: value})


def test_what_is_not_followed_is_named() -> None:
    found = read_generation(
        {"num_beams": 5, "guidance_scale": 1.5, "penalty_alpha": 0.6, "top_k": 4, "token_healing": True,
         "max_time": 9.0, "watermarking_config": {"bias": 2}, "remove_invalid_values": True}
    )  # fmt: skip
    assert {text.split()[0] for text in found.not_followed} == {
        "num_beams", "guidance_scale", "penalty_alpha", "token_healing", "max_time", "watermarking_config",
        "remove_invalid_values",
    }  # fmt: skip
    quiet = {"num_beams": 1, "guidance_scale": 1.0, "penalty_alpha": 0.6, "top_k": 1, "cache_implementation": "static"}
    assert read_generation(quiet).not_followed == () and acting(read_generation(quiet)) == {}
    assert read_generation({"top_k": -1, "temperature": 0.0}) == Generation(top_k=-1, temperature=0.0)
    assert read_generation({}) == PLAIN and not Rules(PLAIN, [1, 2], 4, [3])


def test_run_names_the_way_on_the_command_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = with_settings(tiny_checkpoint, tmp_path / "model", repetition_penalty=0.7, num_beams=2)
    base = ["run", str(folder), "--prompt", "q", "--max-new-tokens", "4"]

    def ask(*more: str, code: int = 0) -> Any:
        done = CliRunner().invoke(build(), [*base, *more])
        assert done.exit_code == code, done.output
        return done

    told = " ".join(ask().stderr.split())
    assert "generation model: repetition_penalty 0.7; set by the model and not followed: num_beams 2" in told
    assert ask("--generation", "greedy").stderr.rstrip().endswith("generation greedy")
    found = json.loads(ask("--json").stdout)
    assert found["generation"]["settings"] == {"repetition_penalty": 0.7}
    assert ask("--generation", "beams", code=2)


# As Qwen2.5-VL ships it.
SHIPPED: dict[str, Any] = {
    "repetition_penalty": 1.05, "do_sample": True, "temperature": 1e-6, "bos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {"smolvlm": (CASES["several"], LIMIT), "qwen2_5_vl": (SHIPPED, 40)}
ROWS = [(target, family) for target in ("coreai", "coreml", "executorch", "gguf", "onnx") for family in FAMILIES]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "family"), ROWS)
def test_every_runtime_says_what_generate_says(
    tiny_of: Callable[..., Path], tmp_path: Path, target: str, family: str
) -> None:
    from edgekit.errors import MissingExtraError, UnsupportedError
    from edgekit.export import TARGETS

    tiny = TARGETS.load(target).tiny.get(family, {})  # of any image size
    settings, limit = FAMILIES[family]
    folder = with_settings(tiny_of(family, **tiny), tmp_path / "model", **settings)
    image = draw(3)[0].resize((112, 112)) if family == "qwen2_5_vl" else draw(3)[0]  # one that no side resizes
    image.save(tmp_path / "a.png")
    wanted = generated(folder, PROMPT, limit, image)
    ask: dict[str, Any] = {"images": tmp_path / "a.png", "max_new_tokens": limit}
    assert api.run(folder, PROMPT, **ask).token_ids == wanted
    plain = api.run(folder, PROMPT, **ask, generation="greedy").token_ids
    assert plain != wanted  # else the settings show nothing
    # Float16 where an app is given it; where the penalty's 5 % decide, in float32.
    precision = "fp16" if target in ("coreml", "coreai") and family == "smolvlm" else "fp32"
    try:
        bundle: Bundle = export_checkpoint(folder, target, precision, tmp_path / "bundle", prompts=2)
    except (MissingExtraError, UnsupportedError) as error:
        pytest.skip(str(error))
    assert bundle.manifest.generation["repetition_penalty"] == settings["repetition_penalty"]
    assert api.run(bundle, PROMPT, **ask).token_ids == wanted
    if precision == "fp32":  # float16 may turn a close call of so many tokens round
        assert api.run(bundle, PROMPT, **ask, generation="greedy").token_ids == plain


def test_an_unknown_generation_is_an_error(tiny_checkpoint: Path) -> None:
    with pytest.raises(EdgekitError, match="no generation 'beams'"):
        api.run(tiny_checkpoint, "q", generation="beams")
