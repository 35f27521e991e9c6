"""The order of the questions, the teacher stages that share it, and the layout of packed rows, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from edgekit.distill.clock import PhaseClock
from edgekit.distill.embedded import Embedded
from edgekit.distill.ladder import Ladder
from edgekit.distill.order import Order, image_numbers
from edgekit.distill.packing import Layout, _block_mask, can_pack, packed_hidden, takes_pairs, worth_packing
from edgekit.distill.questions import write_questions
from edgekit.recipe.model import Data
from edgekit.recipe.reading import ablation_recipe_path, load_recipe
from edgekit.workspace import Run


def test_visits_go_through_the_passes() -> None:
    passes = [np.random.default_rng((3, number)).permutation(4).tolist() for number in range(3)]
    whole = passes[0] + passes[1] + passes[2]
    order = Order(4, 3)
    for start in range(12):
        for stop in range(start, 13):
            assert order.visits(start, stop).tolist() == whole[start:stop]


def test_questions_of_an_image_stand_together_as_they_were_drawn() -> None:
    images = np.array([0, 1, 0, 2, 1, 0, 3, 3])
    rng = np.random.default_rng((7, 2))
    drawn, place = rng.permutation(8).tolist(), rng.permutation(4).tolist()
    expected = sorted(drawn, key=lambda row: place[images[row]])
    assert Order(8, 7, images).epoch(2).tolist() == expected
    assert Order(0, 7, images[:0]).epoch(0).tolist() == []


def test_a_number_for_each_set_of_images(tmp_path: Path) -> None:
    """By path or by bytes; questions without images are alone; numbers go on from shard to shard."""
    a, b = ({"path": name, "bytes": None} for name in "ab")
    x, y = ({"path": None, "bytes": drawn} for drawn in (b"x", b"y"))
    shards: list[list[Any]] = [[[a], [b], [a], []], [[], [a, b], [x], [x], [y], [b], [b, a]]]
    kind = pa.list_(pa.struct([("path", pa.string()), ("bytes", pa.binary())]))
    for number, rows in enumerate(shards):
        pq.write_table(pa.table({"images": pa.array(rows, kind)}), tmp_path / f"shard-{number:05d}.parquet")
    assert image_numbers(tmp_path).tolist() == [0, 1, 0, 2, 3, 4, 5, 5, 6, 1, 7]


@pytest.mark.parametrize("kind", ["questions", "pictures"])
def test_the_legs_of_a_ladder_share_one_order(tmp_path: Path, kind: str) -> None:
    """Two teachers, 4 and 2 steps of 3 x 2 questions of 20; what the second visits begins where the first ended."""
    teachers = "[{checkpoint: a, steps: 4, r_max: 0.4, r_step: 0.2}, {checkpoint: b, steps: 2}]"
    settings = {"teachers": teachers, "masters.mask.r_max": "0.3", "masters.mask.step": "0.3", "trainer.seed": "5"}
    settings |= {"trainer.batch_questions": "3", "trainer.gradient_accumulation": "2", "trainer.order": kind,
                 "trainer.warmup_steps": "0"}  # fmt: skip
    recipe, run = load_recipe(ablation_recipe_path(), settings), Run(tmp_path / "run")
    count = write_questions(Data("scenes:train:count+list:pictures=8", "none", train_limit=20), run.questions, 8, 0)
    masked: Any = None  # no teacher is loaded where nothing is probed
    teacher_stages = Ladder(recipe, run, masked, PhaseClock(tmp_path / "seconds.json")).teacher_stages(
        [SimpleNamespace()] * 2
    )  # type: ignore[list-item]
    assert [
        (teacher_stage.number, teacher_stage.steps, teacher_stage.first, teacher_stage.per_step)
        for teacher_stage in teacher_stages
    ] == [(0, 4, 0, 6), (1, 2, 24, 6)]
    assert [teacher_stage.ratios for teacher_stage in teacher_stages] == [[0.4, 0.2, 0.0], [0.3, 0.0]]
    images = image_numbers(run.questions) if kind == "pictures" else None
    whole = Order(count, 5, images).visits(0, 36).tolist()
    assert teacher_stages[0].all_rows().tolist() == sorted(set(whole[:24]))
    assert teacher_stages[1].all_rows().tolist() == sorted(set(whole[24:]))
    # Three stages in four steps: floor(i 3 / 4) is 0, 0, 1, 2.
    rows = [sorted(set(whole[start:stop])) for start, stop in ((0, 12), (12, 18), (18, 24))]
    assert [teacher_stages[0].rows(ratio).tolist() for ratio in (0.4, 0.2, 0.0)] == rows


def _model(**text: Any) -> Any:
    config = SimpleNamespace(
        model_type=text.pop("model_type", "idefics3"), get_text_config=lambda: SimpleNamespace(**text)
    )
    return SimpleNamespace(config=config)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ({}, True), ({"layer_types": None}, True), ({"layer_types": ["full_attention"] * 2}, True),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False), ({"layer_types": ["conv"]}, False),
        ({"model_type": "qwen2_5_vl"}, True),
    ],
)  # fmt: skip
def test_who_takes_a_mask_of_pairs(text: dict[str, Any], pairs: bool) -> None:
    assert takes_pairs(_model(**text).config) is pairs
    for attn, takes in (("eager", True), ("sdpa", True), ("flash_attention_2", False)):
        assert can_pack(_model(**text, _attn_implementation=attn)) is (pairs and takes)


def test_the_work_of_packing_by_hand() -> None:
    """D = 1, P = 4, two responses of 8 tokens: 18 (6 + 18) = 432 packed, twice 12 (6 + 12) = 432 alone."""
    model = _model(hidden_size=1)
    assert not worth_packing(model, 4, [0, 0], [8, 8])
    assert worth_packing(model, 4, [0, 0], [7, 7])  # 16 * 22 = 352, twice 11 * 17 = 374
    assert not worth_packing(model, 4, [0, 1], [7, 7])  # nothing is shared
    assert not worth_packing(model, 4, [0, 0, 1], [7, 7, 7])  # 2 * 352, as long as the longest row, and 3 * 187 = 561
    assert worth_packing(model, 4, [0, 0], [8, 2])  # 12 * 18 = 216; alone both rows are as long as the longest, 432
    assert worth_packing(_model(hidden_size=2), 4, [0, 0], [8, 8])  # 18 * 30 = 540, twice 12 * 24 = 576


def test_the_layout_by_hand() -> None:
    layout = Layout.of(2, [0, 1, 0], [[5, 6, 7], [8], [9, 10]])
    assert layout.ids.tolist() == [[5, 6, 9], [0, 0, 0]]
    assert layout.owner.tolist() == [[0, 0, 2], [-1, -1, -1]]
    assert layout.step.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert layout.row.tolist() == [0, 0, 0, 1, 0, 0] and layout.column.tolist() == [0, 1, 2, 0, 0, 3]
    assert layout.to(torch.device("cpu")).column.tolist() == [0, 1, 2, 0, 0, 3]


def test_who_sees_whom_by_hand() -> None:
    """A prompt of one token behind padding, then two tokens of one response and one of another; a prompt alone."""
    prompt, owner = torch.tensor([[False, True], [True, True]]), torch.tensor([[0, 0, 2], [-1, -1, -1]])
    seen = [
        [{0}, {1}, {1, 2}, {1, 2, 3}, {1, 4}],
        [{0}, {0, 1}, {0, 1, 2}, {0, 1, 3}, {0, 1, 4}],
    ]
    expected = torch.tensor([[[[column in row for column in range(5)] for row in rows]] for rows in seen])
    mask = _block_mask(_model(_attn_implementation="sdpa"), prompt, owner, torch.float32)
    assert mask.dtype == torch.bool and torch.equal(mask, expected)
    added = _block_mask(_model(_attn_implementation="eager"), prompt, owner, torch.float16)
    assert added.dtype == torch.float16 and torch.equal(added == 0, expected)
    assert set(added.unique().tolist()) == {0.0, -65504.0}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("responses", [[[5, 6, 7], [8], [9, 10], [11, 12, 13, 14]], [[5], [6], [7], [8]]])
def test_packed_states_are_those_of_rows_of_their_own(attention: str, responses: list[list[int]]) -> None:
    """A decoder with random weights; the first prompt is shorter, and pads to the left."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=20, **sizes, attn_implementation=attention)
    model = LlamaForCausalLM(config).eval()
    prompts, owners = [[1, 2], [3, 4, 1]], [1, 0, 1, 0]
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    ids, positions = torch.tensor([[0, 1, 2], [3, 4, 1]]), torch.tensor([[0, 0, 1], [0, 1, 2]])
    table = model.get_input_embeddings()
    embedded = Embedded(table(ids), mask, ids, positions, torch.zeros_like(mask).bool())
    with torch.no_grad():
        got = packed_hidden(model, embedded, owners, responses)
        wanted = []
        for owner, response in zip(owners, responses, strict=True):
            row = torch.tensor([[*prompts[owner], *response]])
            wanted.append(model.model(row).last_hidden_state[0, len(prompts[owner]) - 1 : -1])
    torch.testing.assert_close(got, torch.cat(wanted), atol=2e-6, rtol=1e-5)
