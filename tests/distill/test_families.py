"""Each family through the parts of a teacher stage, against the model's own forward and generate."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.checkpoint.folder import load_model
from edgekit.data import ImageRef, Sample
from edgekit.demo.tiny import NAMES
from edgekit.distill.batch import embed, encode_prompts, project, response_hidden, token_logp
from edgekit.distill.embedded import Embedded
from edgekit.distill.gen_data import Reference, reference_logps
from edgekit.distill.generators.transformers import greedy, sample
from edgekit.distill.joint import Collator, Item
from edgekit.distill.masking import MaskedTeacher, maskable
from edgekit.distill.packing import can_pack, packed_hidden, worth_packing
from edgekit.distill.pairing import shared_vocabulary
from edgekit.errors import CheckpointError
from edgekit.families import family_of, lfm2_vl, qwen2_5_vl, qwen3_vl
from edgekit.inputs.chat import question as ask
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData

Maker = Callable[..., Path]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tiny_of: Maker) -> Path:
    return tiny_of(request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return Processor.load(folder)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Prompts of different lengths over images of different shapes; two share one, one has none, one has two."""
    made = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    images = []
    for number, size in enumerate([(60, 130), (200, 70), (40, 40), (90, 64)]):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        image.save(made / f"{number}.png")
        images.append(ImageRef(path=made / f"{number}.png"))
    tall, wide, small, other = images
    return [
        Sample("tall", (tall,), ask("what is there?"), "x"),
        Sample("wide", (wide,), ask("is there a circle in it, or what else?"), "x"),
        Sample("again", (tall,), ask("blue?"), "x"),
        Sample("none", (), ask("no image?", 0), "x"),
        Sample("two", (small, tall), ask("which is larger?", 2), "x"),
        Sample("other", (other,), ask("what is there?"), "x"),
    ]


def own_inputs(model: Any, processor: Processor, one: Sample, response: Sequence[int] = ()) -> dict[str, Any]:
    """What the model's own forward and generate take for one prompt."""
    inputs = processor.encode(one.messages, [image.open() for image in one.images])
    ids = torch.cat([torch.from_numpy(inputs.ids), torch.tensor([list(response)], dtype=torch.long)], 1)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if inputs.pixels is None:
        return given
    pixels = torch.from_numpy(inputs.pixels.values)
    if "qwen" in model.config.model_type:
        kinds = (ids == model.config.image_token_id).int()
        grid = torch.tensor(inputs.pixels.grids)
        return given | {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}
    if model.config.model_type == "lfm2_vl":
        return given | lfm2_vl.forward_inputs(model, pixels, ids, inputs.pixels.grids)
    if model.config.model_type == "llava_onevision":
        return given | {"pixel_values": pixels, "image_sizes": torch.tensor(inputs.pixels.grids)}
    if model.config.model_type == "gemma3":
        return given | {"pixel_values": pixels, "token_type_ids": (ids == model.config.image_token_id).int()}
    return given | {"pixel_values": pixels if model.config.model_type == "internvl" else pixels[None]}


def own_logp(model: Any, processor: Processor, one: Sample, response: Sequence[int]) -> list[float]:
    """Log-probabilities of a response by the untouched model, one row, nothing shared."""
    inputs = own_inputs(model, processor, one, response)
    if "qwen" in model.config.model_type:
        model.model.rope_deltas = None  # what an earlier call left behind
    logits = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
    start = inputs["input_ids"].shape[1] - len(response) - 1
    return [float(logits[start + k, token]) for k, token in enumerate(response)]


@torch.no_grad()
def test_batched_log_probabilities_equal_the_models_own(
    model: Any, processor: Processor, questions: list[Sample]
) -> None:
    """Left padding, several shapes, shared images, several responses each: against whole forwards, one by one."""
    responses = [[50, 9], [70], [33, 40, 41], [80, 81], [60], [90, 100, 110, 120], [50], [12, 13]]
    owners = [0, 1, 2, 3, 4, 5, 0, 4]
    prompts = embed(model, processor, encode_prompts(processor, questions), 0)
    assert prompts.mask.sum(1).unique().numel() > 3
    hidden = response_hidden(model, prompts, owners, responses, 0)
    got = token_logp(project(model, hidden, processor.vocab_size), responses)
    expected = [v for q, r in zip(owners, responses, strict=True) for v in own_logp(model, processor, questions[q], r)]
    assert np.abs(got.numpy() - np.array(expected)).max() < 1e-4
    assert got.std() > 0.1  # or anything would be equal


def test_images_in_tiles_with_a_view_of_the_whole(tiny_of: Maker) -> None:
    """A batch of images in tiles and of small ones: the model's own log-probabilities, and gradients to the tower."""
    model: Any = load_model(tiny_of("lfm2_vl"))
    processor = Processor.load(tiny_of("lfm2_vl"))
    rng = np.random.default_rng(0)
    rows = []
    for number, sizes in enumerate([[(300, 220)], [(40, 40)], [(480, 160), (60, 90)], [(90, 400)]]):
        shown = [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for size in sizes]
        rows.append(Sample(str(number), tuple(map(held, shown)), ask("what is there?", len(sizes)), "x"))
    prompts = encode_prompts(processor, rows)
    responses, owners = [[50, 9], [70], [33, 40, 41], [80], [60, 61]], [0, 1, 2, 3, 0]
    hidden = response_hidden(model, embed(model, processor, prompts, 0), owners, responses, 0)
    got = token_logp(project(model, hidden, processor.vocab_size), responses)
    with torch.no_grad():
        wanted = [v for q, r in zip(owners, responses, strict=True) for v in own_logp(model, processor, rows[q], r)]
    assert np.abs(got.detach().numpy() - np.array(wanted)).max() < 1e-4
    got.sum().backward()
    learned = model.model.vision_tower.embeddings.position_embedding.weight.grad
    assert learned is not None and learned.abs().min() > 0


def held(image: Image.Image) -> ImageRef:
    """An image as a sample has it."""
    png = io.BytesIO()
    image.save(png, "PNG")
    return ImageRef(data=png.getvalue())


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_one_prompt_for_many_responses_is_a_row_for_each(
    folder: Path, processor: Processor, questions: list[Sample], attn: str
) -> None:
    """Packed behind their prompt, responses have the states and the gradients that they have in rows of their own."""
    model = load_model(folder, attn=attn)
    assert can_pack(model) == (model.config.model_type not in ("gemma3", "lfm2_vl", "qwen3_5"))
    if not can_pack(model):
        return
    owners = [0, 3, 1, 0, 2, 4, 4, 0, 5, 4, 1]
    responses = [[50, 9], [70], [33, 40, 41], [80, 81], [60], [90, 100, 110, 120], [50], [12, 13, 7], [7, 7], [8], [9]]
    prompts = encode_prompts(processor, questions)
    found = []
    for pack in (False, True):
        model.zero_grad()
        embedded = embed(model, processor, prompts, 0)
        hidden = (
            packed_hidden(model, embedded, owners, responses)
            if pack
            else response_hidden(model, embedded, owners, responses, 0, pack=False)
        )
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        grads = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        found.append((hidden.detach(), grads))
    (alone, alone_grads), (packed, packed_grads) = found
    assert alone.std() > 0.1 and (packed - alone).abs().max() < 2e-5
    assert packed_grads.keys() == alone_grads.keys() and any(
        "vision" in name or "visual" in name for name in packed_grads
    )
    for name, grad in packed_grads.items():
        # A key's bias moves no softmax: its gradient is rounding alone, some 2e-7.
        bound = 1e-4 * float(alone_grads[name].abs().max()) + 1e-6
        assert (grad - alone_grads[name]).abs().max() < bound, name


def test_long_responses_behind_a_short_prompt_keep_rows_of_their_own(model: Any) -> None:
    width = model.config.get_text_config().hidden_size
    assert worth_packing(model, 256, [0] * 8, [2] * 8) and worth_packing(model, 2, [0, 0], [1, 1])
    assert not worth_packing(model, 256, [0, 1, 2], [2, 2, 2])  # nothing is shared
    # About as many tokens in one row as in eight, and eight times the pairs.
    assert not worth_packing(model, 4, [0] * 8, [64 * width] * 8)


def test_greedy_equals_generate(model: Any, processor: Processor, questions: list[Sample]) -> None:
    got = greedy(model, processor, encode_prompts(processor, questions), 8)
    assert len({tuple(row) for row in got}) > 3
    for one, tokens in zip(questions, got, strict=True):
        inputs = own_inputs(model, processor, one)
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        assert tokens == out[0, inputs["input_ids"].shape[1] :].tolist()


@torch.no_grad()
def test_each_image_is_encoded_once_and_sampled_tokens_have_the_right_probability(
    model: Any, processor: Processor, questions: list[Sample]
) -> None:
    """Prefill and decode with a cache, G rows a question, against the teacher-forced pass."""
    calls: list[int] = []
    encode = processor.family.encode_images

    def counted(model: Any, pixels: Any, grids: Any) -> Any:
        calls.append(len(grids))
        return encode(model, pixels, grids)

    processor = replace(processor, family=replace(processor.family, encode_images=counted))
    prompts = encode_prompts(processor, questions)
    # With one token to choose from, a wrong position or a missing image shows as another token.
    narrow = GenData(max_new_tokens=6, top_k=1, top_p=1.0, repetition_penalty=1.0)
    drawn = sample(model, processor, prompts, 3, narrow, 1)
    assert calls == [5]  # the image that two prompts share once, the pair by itself
    assert drawn == [[row] * 3 for row in greedy(model, processor, prompts, 6)]
    free = GenData(max_new_tokens=6, top_k=0, top_p=1.0, repetition_penalty=1.0)
    drawn = sample(model, processor, prompts, 3, free, 1)
    rows = reference_logps(Reference(model, processor, processor.vocab_size), questions, drawn)
    for q, (texts, logps) in enumerate(zip(drawn, rows, strict=True)):
        for tokens, logp in zip(texts, logps, strict=True):
            if model.config.image_token_id not in tokens:  # the model's own forward would want an image for it
                assert np.abs(np.array(logp) - own_logp(model, processor, questions[q], tokens)).max() < 1e-4


def test_gradients_reach_both_halves(model: Any, processor: Processor, questions: list[Sample]) -> None:
    prompts = embed(model, processor, encode_prompts(processor, questions[:2]), 0)
    response_hidden(model, prompts, [0, 1], [[50], [60]], 0).square().sum().backward()
    # LLaVA takes the features before the last norm of its tower.
    unused = ("lm_head", "model.vision_tower.embeddings.mask_token")
    unused += ("model.vision_tower.post_layernorm",) * (model.config.model_type == "llava_onevision")
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None and not name.startswith(unused)
    ]
    model.zero_grad()
    assert not without


@torch.no_grad()
def test_another_image_gives_other_probabilities_and_answers(
    model: Any, processor: Processor, questions: list[Sample]
) -> None:
    first = questions[0]
    swapped = replace(first, images=questions[5].images)
    prompts = embed(model, processor, encode_prompts(processor, [first, swapped]), 0)
    hidden = response_hidden(model, prompts, [0, 1], [[5], [5]], 0)
    assert (hidden[0] - hidden[1]).abs().max() > 1e-2
    one, two = greedy(model, processor, encode_prompts(processor, [first, swapped]), 12)
    assert one != two


def test_text_goes_on_behind_the_largest_position_of_any_axis() -> None:
    """Two prompts that end in an image: taller than wide, and wider than tall (no chat template ends so)."""
    flat = torch.zeros(2, 3)
    positions = torch.tensor([[[0, 1, 1], [0, 1, 1]], [[0, 1, 2], [0, 1, 1]], [[0, 1, 1], [0, 1, 2]]])
    prompts = Embedded(flat.unsqueeze(-1), flat, flat.long(), positions, flat.bool())
    assert prompts.following(torch.tensor([1, 0, 1]), 2).tolist() == [[[3, 4]] * 3] * 3
    plain = replace(prompts, positions=torch.tensor([[0, 0, 1], [0, 1, 2]]))
    assert plain.following(torch.tensor([0, 1]), 2).tolist() == [[2, 3], [3, 4]]


def test_another_family_never_shares_prompts(tiny_of: Maker, questions: list[Sample]) -> None:
    """Even where all settings are the same: how prompts are made is the family's own."""
    processor = Processor.load(tiny_of("qwen2_5_vl"))
    rows = [{"token_ids": [50], "r_acc": 0.0, "text": "x", "ref_logp": [-1.0], "source": "teacher"}]
    items = [Item(questions[0], rows)]
    batch = Collator(processor, replace(processor, family=qwen3_vl.FAMILY))(items)["batch"]
    assert batch.teacher is not batch.student
    same = Collator(processor, replace(processor))(items)["batch"]
    assert same.teacher is same.student


def test_processor_files_of_another_model_are_a_clear_error(
    model: Any, processor: Processor, questions: list[Sample]
) -> None:
    prompts = encode_prompts(processor, questions[:1])
    ids = [token for token in prompts.ids[0] if token != model.config.image_token_id]
    with pytest.raises(CheckpointError, match="has 0 image tokens but the vision encoder gave"):
        embed(model, processor, replace(prompts, ids=[ids], positions=[np.arange(len(ids))]), 0)


# ---------------------------------------------------------------------------------------------------------- masking


def test_masks_touch_every_linear_layer_but_embeddings_norms_and_the_head(model: Any, folder: Path) -> None:
    """The files name tensors as the hub does, which for some families is not what the modules are called."""
    teacher = MaskedTeacher(model, folder, family_of(model.config.model_type))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.removesuffix(".weight") for name in teacher.weights} == linear - {"lm_head"}
    vision = {"qwen2_5_vl": 3 * 5 + 2, "qwen3_vl": 3 * 4 + 2 * 3, "internvl": 2 * 6 + 2, "smolvlm": 2 * 6 + 1}
    # Gemma's projector is a parameter and no linear layer; SigLIP 2 embeds patches by a linear layer.
    vision |= {"llava_onevision": 2 * 6 + 2, "gemma3": 2 * 6, "lfm2_vl": 1 + 2 * 6 + 2, "qwen3_5": 3 * 4 + 2}
    # A convolution has two, attention four, and the gated delta rule five, of which two are its gates.
    language = {"lfm2_vl": 5 + 7 + 5, "qwen3_5": 8 + 8 + 7}.get(model.config.model_type, 3 * 7)
    assert len(teacher.weights) == language + vision[model.config.model_type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    teacher.set_ratio(0.3)
    zeros = torch.cat([(weight == 0).flatten() for weight in teacher.weights.values()])
    assert float(zeros.float().mean()) == pytest.approx(0.3, abs=0.01)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in teacher.weights), name
    teacher.set_ratio(0.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "stored"), [("qwen2_5_vl", "model.layers.0."), ("internvl", "language_model.model.")])
def test_the_renamed_layouts_are_the_ones_tested(tiny_of: Maker, name: str, stored: str) -> None:
    from safetensors import safe_open

    with safe_open(str(tiny_of(name) / "model.safetensors"), framework="pt") as tensors:
        assert any(key.startswith(stored) for key in tensors.keys())  # noqa: SIM118 - a file handle


def test_a_flat_configuration_of_the_hubs_first_folders(tiny_of: Maker, tmp_path: Path) -> None:
    """Qwen2.5-VL's own folders have the text settings at the top and the old spelling of M-RoPE."""
    folder = tmp_path / "flat"
    shutil.copytree(tiny_of("qwen2_5_vl"), folder)
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    text.pop("model_type")
    rope = text.pop("rope_parameters")
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}, "rope_theta": 1e6}
    (folder / "config.json").write_text(json.dumps({**text, **config}))
    flat, nested = load_model(folder), load_model(tiny_of("qwen2_5_vl"))
    assert flat.config.text_config.rope_parameters["mrope_section"] == rope["mrope_section"]
    assert MaskedTeacher(flat, folder, qwen2_5_vl.FAMILY).weights.keys() == maskable_names(nested)
    ids = torch.tensor([[50, 60, 70]])
    assert torch.equal(flat(input_ids=ids).logits, nested(input_ids=ids).logits)


def maskable_names(model: Any) -> set[str]:
    return {name for name, _ in maskable(model, qwen2_5_vl.FAMILY)}


# ---------------------------------------------------------------------------------------------- heads of other sizes


@torch.no_grad()
def test_padded_rows_of_a_head_are_never_drawn(tiny_of: Maker, questions: list[Sample]) -> None:
    wide = tiny_of("qwen3_vl", seed=3, vocab_padding=400)
    model, processor = load_model(wide), Processor.load(wide)
    narrow = Processor.load(tiny_of("qwen3_vl"))
    rows = int(model.config.get_text_config().vocab_size)
    assert rows == processor.vocab_size + 400
    assert shared_vocabulary(processor, narrow, rows, narrow.vocab_size) == narrow.vocab_size
    assert shared_vocabulary(narrow, processor, narrow.vocab_size, rows) == narrow.vocab_size
    settings = GenData(max_new_tokens=8, top_k=0, top_p=1.0, temperature=2.0, repetition_penalty=1.0)
    drawn = sample(model, processor, encode_prompts(processor, questions[:2]), 40, settings, 0)
    assert max(token for responses in drawn for row in responses for token in row) < processor.vocab_size
