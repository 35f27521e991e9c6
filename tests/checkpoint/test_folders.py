"""Model folders as they are found: several weight files, tensors nobody asked for, adapters, quantised saves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgekit.checkpoint.configuration import end_token_ids
from edgekit.checkpoint.folder import check_checkpoint, checkpoint_hash, load_model, resolve_checkpoint
from edgekit.checkpoint.weights import other_files, weight_files
from edgekit.errors import CheckpointError, EdgekitError

TinyOf = Callable[..., Path]
FAMILIES = ("smolvlm", "qwen2_5_vl", "internvl", "gemma3")


@pytest.fixture
def copy(tiny_of: TinyOf, tmp_path: Path) -> Callable[..., Path]:
    """`copy(family)`: a tiny checkpoint to write into."""

    def make(family: str = "smolvlm") -> Path:
        return Path(shutil.copytree(tiny_of(family), tmp_path / family))

    return make


def edit(folder: Path, change: Callable[[dict[str, Tensor]], None], name: str = "model.safetensors") -> None:
    """Change the tensors of a file."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, {"format": "pt"})


def set_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; dotted names reach into parts; None is null."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, value in fields.items():
        *parts, last = name.split("__")
        part = content
        for one in parts:
            part = part[one]
        part[last] = value
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    """What loading a folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    return str(caught.value)


def first_logits(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([[9, 11, 12]])).logits
    return logits


# Which files


def test_a_second_safetensors_file_is_none_of_the_model(copy: Callable[..., Path], tmp_path: Path) -> None:
    from edgekit.distill.masking import MaskedTeacher, write_masked
    from edgekit.families import family_of

    folder = copy()
    before, plain = checkpoint_hash(folder), load_model(folder)
    shutil.copyfile(folder / "model.safetensors", folder / "model_old.safetensors")
    edit(folder, lambda tensors: [tensor.mul_(3) for tensor in tensors.values()] and None, "model_old.safetensors")
    assert checkpoint_hash(folder) == before and weight_files(folder) == [folder / "model.safetensors"]
    assert other_files(folder) == [folder / "model_old.safetensors"]
    teacher = MaskedTeacher(load_model(folder), folder, family_of("smolvlm"))
    teacher.set_ratio(0.0)
    for name, weight in teacher.weights.items():
        assert torch.equal(weight, plain.get_parameter(name)), name
    write_masked(folder, 0.5, tmp_path / "masked")
    assert not (tmp_path / "masked/model_old.safetensors").exists()


def test_shards_are_those_of_the_index_and_a_single_file_comes_first(copy: Callable[..., Path]) -> None:
    folder = copy()
    wanted = first_logits(load_model(folder))
    load_model(folder).save_pretrained(folder / "s", max_shard_size="50KB")
    shutil.copytree(folder, folder / "s", dirs_exist_ok=True, ignore=shutil.ignore_patterns("s", "*.safetensors"))
    shards = folder / "s"
    shutil.copyfile(weight_files(shards)[0], shards / "model-00009-of-00009.safetensors")
    names = set(json.loads((shards / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert {path.name for path in weight_files(shards)} == names and len(names) > 2
    assert torch.equal(first_logits(load_model(shards)), wanted)
    shutil.copyfile(folder / "model.safetensors", shards / "model.safetensors")
    assert weight_files(shards) == [shards / "model.safetensors"]  # as transformers has it


INDICES: dict[str, tuple[Any, str]] = {
    "a list": ({"weight_map": [], "metadata": {}}, "weight_map does not say"),
    "numbers": ({"weight_map": {"a": 1}, "metadata": {}}, "weight_map does not say"),
    "empty": ({"metadata": {}}, "weight_map does not say"),
    "outside": ({"weight_map": {"a": "../smolvlm/x.safetensors"}, "metadata": {}}, "lies outside"),
    "absolute": ({"weight_map": {"a": "/etc/passwd"}, "metadata": {}}, "lies outside"),
    "missing": ({"weight_map": {"a": "b.safetensors"}, "metadata": {}}, "lacks b.safetensors, which its index names"),
    "long": ({"weight_map": {"a": "b" * 5000}, "metadata": {}}, "lacks b"),
    "no metadata": ({"weight_map": {"a": "b.safetensors"}}, "metadata is missing"),
    "text": ("weights", "is not a JSON object"),
}


@pytest.mark.parametrize("case", INDICES)
def test_an_index_that_is_none(copy: Callable[..., Path], case: str) -> None:
    folder = copy()
    (folder / "model.safetensors").unlink()
    index, message = INDICES[case]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    text = refusal(folder)
    assert message in text, text[:300]
    assert "lacks" in message or "model.safetensors.index.json" in text


def test_a_variant_alone_is_not_taken(copy: Callable[..., Path]) -> None:
    folder = copy()
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert "model.fp16.safetensors, which transformers does not load by itself" in refusal(folder)


def test_the_file_that_the_configuration_names(copy: Callable[..., Path]) -> None:
    folder = copy()
    wanted = first_logits(load_model(folder))
    shutil.copyfile(folder / "model.safetensors", folder / "other.safetensors")
    edit(folder, lambda tensors: [tensor.zero_() for tensor in tensors.values()] and None)
    set_json(folder / "config.json", transformers_weights="other.safetensors")
    assert weight_files(folder) == [folder / "other.safetensors"]
    assert torch.equal(first_logits(load_model(folder)), wanted)
    set_json(folder / "config.json", transformers_weights="../x.safetensors")
    assert "lies outside" in refusal(folder)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe as weights": lambda f: ((f / "model.safetensors").unlink(), os.mkfifo(f / "model.safetensors")),
    "pipe as config": lambda f: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")),
    "pipe as tokenizer": lambda f: ((f / "tokenizer.json").unlink(), os.mkfifo(f / "tokenizer.json")),
    "folder as weights": lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
    "folder as config": lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
    "weights cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "config deep": lambda f: (f / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "config a list": lambda f: (f / "config.json").write_text("[]"),
    "config empty": lambda f: (f / "config.json").write_text(""),
    "config not UTF-8": lambda f: (f / "config.json").write_bytes(b'{"model_type": "\xff"}'),
    "config without model_type": lambda f: (f / "config.json").write_text("{}"),
    "config a number too long": lambda f: (f / "config.json").write_text('{"model_type": ' + "9" * 5000 + "}"),
    "no config": lambda f: (f / "config.json").unlink(),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_file_of_the_kind(copy: Callable[..., Path], case: str) -> None:
    folder = copy()
    NO_FILES[case](folder)
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(folder)
    assert str(folder) in str(caught.value)


# Tensors


def put(name: str, like: str = "q_proj.weight", dtype: torch.dtype | None = None) -> Callable[[Path], None]:
    """Add a tensor beside the first one whose name ends so, in whose name the end is replaced."""

    def change(folder: Path) -> None:
        def add(tensors: dict[str, Tensor]) -> None:
            old = next(key for key in tensors if key.endswith(like))
            new = old.removesuffix(like) + name
            tensors[new] = tensors[old].clone() if dtype is None else tensors[old].to(dtype)

        edit(folder, add)

    return change


def rename(change: Callable[[str], str]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        save_file({change(key): value for key, value in tensors.items()}, folder / "model.safetensors")

    return act


def drop(end: str) -> Callable[[Path], None]:
    def act(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if end in key]:
            del tensors[key]

    return lambda folder: edit(folder, act)


def widen(end: str) -> Callable[[Path], None]:
    def act(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.endswith(end))
        tensors[key] = torch.cat([tensors[key], tensors[key][:1]])

    return lambda folder: edit(folder, act)


def codes(folder: Path) -> None:
    def act(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.endswith("q_proj.weight"))
        tensors[key] = tensors[key].mul(10).to(torch.int8)

    edit(folder, act)


TENSORS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "LoRA": (put("q_proj.lora_A.default.weight"), ("adapter", "not merged", "lora_A", "merge_and_unload")),
    "LoRA's base": (put("q_proj.base_layer.weight"), ("adapter", "base_layer")),
    "scale": (put("q_proj.weight_scale", dtype=torch.float16), ("quantised", "weight_scale", "full-precision")),
    "block scale": (put("q_proj.weight_scale_inv"), ("quantised", "weight_scale_inv", "full-precision")),
    "GPTQ": (put("q_proj.qweight", dtype=torch.int32), ("quantised", "qweight")),
    "bitsandbytes": (put("q_proj.weight.absmax"), ("quantised", "absmax")),
    "codes": (codes, ("quantised", "q_proj.weight", "I8")),
    "bias": (put("o_proj.bias", like="o_proj.weight"), ("1 biases", "o_proj.bias", "attention_bias")),
    "unknown": (put("gate.weight"), ("no place for", "gate.weight")),
    "missing": (drop("layers.1.mlp.up_proj.weight"), ("lacks 1 tensors", "up_proj.weight", "random")),
    "missing layer": (drop("layers.2."), ("holds 2 layers", "says 3", "num_hidden_layers")),
    "shape": (widen("embed_tokens.weight"), ("other shapes", "vocab_size", "ignore_mismatched_sizes")),
    "module.": (rename(lambda key: f"module.{key}"), ("'module.'", "DeepSpeed", "unwrap_model")),
    "_orig_mod.": (rename(lambda key: f"_orig_mod.{key}"), ("'_orig_mod.'", "torch.compile", "unwrap_model")),
    "_orig_mod within": (rename(lambda key: key.replace(".layers.", ".layers._orig_mod.")), ("'_orig_mod.'",)),
    "base_model.model.": (rename(lambda key: f"base_model.model.{key}"), ("'base_model.model.'", "peft")),
    "student.": (rename(lambda key: f"student.{key}"), ("'student.'", "unwrap_model")),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_belong_are_named(copy: Callable[..., Path], case: str) -> None:
    folder = copy()
    change, parts = TENSORS[case]
    change(folder)
    text = refusal(folder)
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize("family", FAMILIES)
def test_more_layers_than_declared(copy: Callable[..., Path], family: str) -> None:
    folder = copy(family)
    fields: dict[str, Any] = {"text_config__num_hidden_layers": 2}
    if "layer_types" in json.loads((folder / "config.json").read_text())["text_config"]:
        kinds = json.loads((folder / "config.json").read_text())["text_config"]["layer_types"]
        fields["text_config__layer_types"] = kinds[:2]
    set_json(folder / "config.json", **fields)
    text = refusal(folder)
    assert "holds 3 layers" in text and "says 2" in text and "num_hidden_layers" in text


HARMLESS: dict[str, Callable[[Path], None]] = {
    "inv_freq": put("rotary_emb.inv_freq", like="q_proj.weight"),
    "position_ids": lambda f: edit(
        f, lambda t: t.update({"model.vision_model.embeddings.position_ids": torch.arange(16)[None]})
    ),
    "pooling head": lambda f: edit(f, lambda t: t.update({"model.vision_model.head.probe": torch.zeros(1, 1, 32)})),
    "further tokens": lambda f: edit(f, lambda t: t.update({"mtp.layers.0.fc.weight": torch.zeros(4, 4)})),
    "copy of the head": lambda f: edit(
        f, lambda t: t.update({"model.text_model.lm_head.weight": t["lm_head.weight"].clone()})
    ),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_tensors_change_nothing(copy: Callable[..., Path], case: str) -> None:
    folder = copy()
    wanted = first_logits(load_model(folder))
    HARMLESS[case](folder)
    assert torch.equal(first_logits(load_model(folder)), wanted)


def test_a_copy_of_the_head_that_differs_is_refused(copy: Callable[..., Path]) -> None:
    folder = copy()
    edit(folder, lambda t: t.update({"model.text_model.lm_head.weight": t["lm_head.weight"] + 1}))
    assert "model.text_model.lm_head.weight" in refusal(folder)


def test_one_of_two_tied_tensors_is_enough(copy: Callable[..., Path]) -> None:
    folder = copy("gemma3")
    wanted = first_logits(load_model(folder))
    table = next(key for key in load_file(folder / "model.safetensors") if key.endswith("embed_tokens.weight"))
    edit(folder, lambda t: t.update({"lm_head.weight": t[table].clone()}))
    assert torch.equal(first_logits(load_model(folder)), wanted)
    edit(folder, lambda t: (t.pop(table), None)[1])
    assert torch.equal(first_logits(load_model(folder)), wanted)


def test_a_missing_head_says_how_it_is_tied(copy: Callable[..., Path]) -> None:
    folder = copy()
    drop("lm_head.weight")(folder)
    assert "tie_word_embeddings" in refusal(folder)


QUANTISED: dict[str, tuple[dict[str, Any], str]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, "AWQ, 4 bits"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "GPTQ, 4 bits"),
    "bitsandbytes": ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes, 4 bits"),
    "bitsandbytes of old": ({"load_in_8bit": True}, "bitsandbytes, 8 bits"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "blockwise FP8"),
    "hqq": ({"quant_method": "hqq", "nbits": 4}, "HQQ"),
    "torchao": ({"quant_method": "torchao", "quant_type": {}}, "torchao"),
    "mxfp4": ({"quant_method": "mxfp4"}, "MXFP4"),
    "new": ({"quant_method": "of-tomorrow"}, "of-tomorrow"),
}


@pytest.mark.parametrize("case", QUANTISED)
def test_quantised_checkpoints_are_named(copy: Callable[..., Path], case: str) -> None:
    folder = copy("qwen2_5_vl")
    given, name = QUANTISED[case]
    set_json(folder / "config.json", quantization_config=given)
    text = refusal(folder)
    assert f"is quantised with {name}" in text and "full-precision folder" in text and "quantization_config" in text


# End tokens

ENDS: dict[str, tuple[Any, Any, Any, list[int]]] = {
    "generation alone counts": (5, 6, 7, [5]),
    "several": ([5, 8], 6, 7, [5, 8]),
    "no word in it": ("absent", 6, 7, []),
    "null in it": (None, 6, 7, []),
    "an empty list": ([], 6, 7, []),
    "no such file": ("no file", 6, 7, [6]),
    "no such file, text's": ("no file", "absent", 7, [7]),
    "nowhere": ("no file", "absent", "absent", []),
}


@pytest.mark.parametrize("case", ENDS)
def test_end_tokens_are_those_of_transformers(copy: Callable[..., Path], case: str) -> None:
    from edgekit.runtimes.pytorch import TorchSession

    folder = copy()
    generation, outer, inner, wanted = ENDS[case]
    config = json.loads((folder / "config.json").read_text())
    for part, value in ((config, outer), (config["text_config"], inner)):
        part.pop("eos_token_id", None)
        if value != "absent":
            part["eos_token_id"] = value
    (folder / "config.json").write_text(json.dumps(config))
    path = folder / "generation_config.json"
    path.unlink()
    if generation != "no file":
        path.write_text(json.dumps({} if generation == "absent" else {"eos_token_id": generation}))
    assert end_token_ids(folder) == wanted
    session = TorchSession(folder)
    assert session.eos_token_ids == set(wanted)
    ids = torch.tensor([[9, 11]])
    found = session.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, pad_token_id=0)
    if not wanted:
        assert found.shape[1] == 4  # goes on to its limit


def test_gguf_refuses_a_checkpoint_without_an_end_token(copy: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    from exporting import export_checkpoint

    folder = copy()
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="without an end token cannot be exported to 'gguf'"):
        export_checkpoint(folder, "gguf", "fp32", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_a_bundle_without_an_end_token_goes_on_to_its_limit(copy: Callable[..., Path], tmp_path: Path) -> None:
    from exporting import export_checkpoint

    from edgekit import api

    folder = copy()
    (folder / "generation_config.json").write_text("{}")
    bundle = export_checkpoint(folder, "onnx", "fp32", tmp_path / "bundle", prompts=2)
    assert bundle.manifest.text.eos_token_ids == () and bundle.manifest.parity["passed"]
    said = [api.run(place, "what is there?", [], max_new_tokens=4) for place in (bundle.folder, folder)]
    assert [one.finish for one in said] == ["length"] * 2 and said[0].token_ids == said[1].token_ids


@pytest.mark.parametrize("value", ["</s>", ["</s>"], 2.5, {"id": 2}, True])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_end_tokens_in_words(copy: Callable[..., Path], name: str, value: Any) -> None:
    folder = copy()
    set_json(folder / name, eos_token_id=value)
    text = refusal(folder)
    assert "eos_token_id" in text and name in text


@pytest.mark.parametrize(("field", "value"), [("pad_token_id", "<pad>"), ("watermarking_config", 3)])
def test_a_generation_config_that_transformers_cannot_read(copy: Callable[..., Path], field: str, value: Any) -> None:
    folder = copy()
    set_json(folder / "generation_config.json", **{field: value})
    assert "generation_config.json describes no way to generate" in refusal(folder)


# Adapters


@pytest.fixture
def adapter(copy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A base and a trained adapter's folder beside it."""
    peft = pytest.importorskip("peft")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = copy()
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(load_model(base), peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"]))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.5)
    wrapped.save_pretrained(tmp_path / "adapter")
    set_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="org/smolvlm")
    return base, tmp_path / "adapter"


def test_an_adapter_is_merged_into_its_base(adapter: tuple[Path, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base, folder = adapter
    whole = resolve_checkpoint(str(folder))  # the base lies beside it under the name's last part
    theirs = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), folder)
    ours = load_model(whole)
    assert (first_logits(ours) - first_logits(theirs)).abs().max() < 1e-4
    assert (first_logits(ours) - first_logits(load_model(base))).abs().max() > 1e-2
    assert resolve_checkpoint(str(folder)) == whole and whole.name == "adapter"
    assert resolve_checkpoint(str(folder), weights=False) == base
    assert not (whole / "adapter_config.json").exists() and (whole / "tokenizer.json").exists()


def test_an_adapter_beside_a_whole_model_is_merged_too(adapter: tuple[Path, Path]) -> None:
    base, folder = adapter
    apart = load_model(resolve_checkpoint(str(folder)))
    for path in folder.iterdir():
        shutil.copyfile(path, base / path.name)
    with pytest.raises(CheckpointError, match=r"holds an adapter \(adapter_config.json\)"):
        load_model(base)
    assert torch.equal(first_logits(load_model(resolve_checkpoint(str(base)))), first_logits(apart))


def test_an_adapter_of_another_model_is_refused(adapter: tuple[Path, Path]) -> None:
    _, folder = adapter
    edit(folder, lambda t: (t.pop(min(t)), None)[1], "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="needs and does not find 1 tensors of the adapter"):
        resolve_checkpoint(str(folder))
    assert not list((Path(os.environ["XDG_CACHE_HOME"])).rglob("*.safetensors"))


def test_an_adapter_without_its_base_says_what_to_do(adapter: tuple[Path, Path]) -> None:
    base, folder = adapter
    shutil.rmtree(base)
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(str(folder))
    assert "its base 'org/smolvlm' is not at hand" in str(caught.value) and "merge_and_unload" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"megatron_core": "antigravity"}, "megatron_core is set"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is None"),
    ],
)
def test_adapters_of_other_kinds(adapter: tuple[Path, Path], fields: dict[str, Any], message: str) -> None:
    _, folder = adapter
    set_json(folder / "adapter_config.json", **fields)
    with pytest.raises(EdgekitError, match=message):
        resolve_checkpoint(str(folder))


def test_a_pickled_adapter_is_not_opened(adapter: tuple[Path, Path]) -> None:
    _, folder = adapter
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="a pickle; loading one can run any code"):
        resolve_checkpoint(str(folder))
