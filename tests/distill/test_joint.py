"""The parts of a teacher stage: batches, the schedule over questions, alignment, sampling."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.checkpoint.folder import load_model
from edgekit.data import ImageRef, Sample
from edgekit.data import samples as read
from edgekit.distill.answered import Answered
from edgekit.distill.batch import embed, encode_prompts, project, response_hidden, token_logp
from edgekit.distill.evaluate import evaluate_model
from edgekit.distill.gen_data import Reference, Writer, write_responses
from edgekit.distill.generators.transformers import Local, greedy, sample
from edgekit.distill.joint import Collator, Item, ScheduledQuestions
from edgekit.distill.judges import rule
from edgekit.distill.order import Order, image_numbers
from edgekit.distill.pairing import shared_vocabulary
from edgekit.distill.questions import write_questions
from edgekit.distill.shards import open_shards
from edgekit.errors import CheckpointError, DataError
from edgekit.inputs.chat import question as ask
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import Data, GenData

SETTINGS = GenData(max_new_tokens=4, batch_questions=4, shard_questions=4)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Processor:
    return Processor.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def questions() -> list[Sample]:
    """Prompts of different lengths; some share an image, one has none, one has two."""
    rows = list(read("easy-vqa:test", limit=12))
    two = Sample("two", (rows[0].images[0], rows[-1].images[0]), ask("which is larger?", 2), "x")
    return [*rows[:3], rows[-1], Sample("none", (), ask("no image?", 0), "x"), two]


def test_batched_log_probabilities_equal_one_by_one(model: Any, processor: Processor, questions: list[Sample]) -> None:
    """Left padding, shared images and packed responses change nothing: against the whole model, one row at a time."""
    responses = [[5, 9], [7], [3 + 30, 40, 41], [8, 8], [6], [9, 10, 11, 12]]
    owners = [0, 1, 2, 3, 4, 5]
    with torch.no_grad():
        prompts = embed(model, processor, encode_prompts(processor, questions), 0)
        hidden = response_hidden(model, prompts, owners, responses, 0)
        got = token_logp(project(model, hidden, model.config.text_config.vocab_size), responses)
        expected = []
        for one, response in zip(questions, responses, strict=True):
            inputs = processor.encode(one.messages, [image.open() for image in one.images])
            ids = torch.cat([torch.from_numpy(inputs.ids), torch.tensor([response])], 1)
            given = {} if inputs.pixels is None else {"pixel_values": torch.from_numpy(inputs.pixels.values)[None]}
            logits = model(input_ids=ids, **given).logits[0].log_softmax(-1)
            start = inputs.ids.shape[1] - 1
            expected += [float(logits[start + k, token]) for k, token in enumerate(response)]
    assert np.abs(got.numpy() - np.array(expected)).max() < 1e-5


def test_greedy_equals_generate(model: Any, processor: Processor, questions: list[Sample]) -> None:
    got = greedy(model, processor, encode_prompts(processor, questions), 5)
    for one, tokens in zip(questions, got, strict=True):
        inputs = processor.encode(one.messages, [image.open() for image in one.images])
        given = {} if inputs.pixels is None else {"pixel_values": torch.from_numpy(inputs.pixels.values)[None]}
        ids = torch.from_numpy(inputs.ids)
        out = model.generate(input_ids=ids, **given, max_new_tokens=5, do_sample=False)
        assert tokens == out[0, ids.shape[1] :].tolist()


def test_sampling_is_seeded_and_follows_the_distribution(
    model: Any, processor: Processor, questions: list[Sample]
) -> None:
    prompts = encode_prompts(processor, questions[:1])
    settings = GenData(max_new_tokens=1, top_k=4, top_p=1.0, repetition_penalty=1.0, temperature=0.5)
    first = sample(model, processor, prompts, 3000, settings, 7)
    assert first == sample(model, processor, prompts, 3000, settings, 7)
    assert first != sample(model, processor, prompts, 3000, settings, 8)
    with torch.no_grad():
        embedded = embed(model, processor, prompts, 0)
        logits = model(inputs_embeds=embedded.embeds, attention_mask=embedded.mask).logits[0, -1] / 0.5
    best = logits.topk(4)
    shares = best.values.softmax(-1).tolist()
    drawn = [row[0] for row in first[0]]
    assert set(drawn) <= set(best.indices.tolist())
    for token, share in zip(best.indices.tolist(), shares, strict=True):
        assert drawn.count(token) / 3000 == pytest.approx(share, abs=0.04)


def test_sampling_keeps_the_nucleus_and_weighs_what_stands_there(
    model: Any, processor: Processor, questions: list[Sample]
) -> None:
    """Of the best tokens those before whom less than top-p lies; the penalty is on the prompt's tokens."""
    prompts = encode_prompts(processor, questions[:1])
    with torch.no_grad():
        embedded = embed(model, processor, prompts, 0)
        logits = model(inputs_embeds=embedded.embeds, attention_mask=embedded.mask).logits[
            0, -1, : processor.vocab_size
        ]
    shares, order = logits.softmax(-1).sort(descending=True)
    nucleus = set(order[shares.cumsum(0) - shares < 0.05].tolist())
    plain = {"max_new_tokens": 1, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    drawn = sample(model, processor, prompts, 500, GenData(**{**plain, "top_p": 0.05}), 7)[0]
    assert {row[0] for row in drawn} == nucleus and 1 < len(nucleus) < 40
    assert len({row[0] for row in sample(model, processor, prompts, 500, GenData(**plain), 7)[0]}) > 100
    seen = embedded.ids[0].unique()
    weighed = logits.clone()
    weighed[seen] = torch.where(logits[seen] < 0, logits[seen] * 1e-3, logits[seen] / 1e-3)
    best = int(weighed.argmax())
    told = sample(model, processor, prompts, 20, GenData(**{**plain, "repetition_penalty": 1e-3, "top_k": 1}), 7)[0]
    assert {row[0] for row in told} == {best} and best != int(logits.argmax())


def test_another_image_gives_other_probabilities(model: Any, processor: Processor, questions: list[Sample]) -> None:
    """The most expensive silent fault: a teacher that never saw the image."""
    one = questions[0]
    other = Sample("other", (questions[3].images[0],), one.messages, one.answer)
    with torch.no_grad():
        prompts = embed(model, processor, encode_prompts(processor, [one, other]), 0)
        hidden = response_hidden(model, prompts, [0, 1], [[5], [5]], 0)
    assert (hidden[0] - hidden[1]).abs().max() > 1e-4


def test_responses_shards_and_schedule(model: Any, processor: Processor, tmp_path: Path) -> None:
    count = write_questions(Data("easy-vqa:train", "easy-vqa:test", train_limit=10), tmp_path / "q", 4, seed=3)
    assert count == 10 and len(list((tmp_path / "q").glob("shard-*"))) == 3
    writer = Writer("teacher", "t", Local(model, processor, SETTINGS), processor, 3, 0.2, "t-0.2")
    reference = Reference(model, processor, 368)
    arguments = (writer, reference, rule.make("exact"), SETTINGS, tmp_path / "q", tmp_path / "r", 0, np.arange(10))
    write_responses(*arguments)
    stored = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    (tmp_path / "r" / "shard-00001.parquet").unlink()
    write_responses(*arguments)
    assert stored == {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}

    table, rows = open_shards(tmp_path / "q", tmp_path / "c"), open_shards(tmp_path / "r", tmp_path / "c")
    assert len(table) == 10 and len(rows) == 30
    answered = Answered.of(rows, 3, table)
    passes = {0.2: [answered], 0.0: [answered, answered]}
    data = ScheduledQuestions(table, passes, lambda s: 0.2 if s < 2 else 0.0, 4, 5, Order(10, 1))
    assert len(data) == 20
    first = [data[k] for k in range(10)]
    assert len({item.sample.id for item in first}) == 10  # each question once before any comes again
    assert [len(data[k].responses) for k in (0, 9, 10, 19)] == [3, 3, 6, 6]
    for item in first:
        assert {row["question_id"] for row in item.responses} == {item.sample.id}
        assert all(len(row["ref_logp"]) == len(row["token_ids"]) for row in item.responses)

    # The stored log-probabilities are the model's own, so at the first step KL is 0 and rho 1.
    batch = Collator(processor, processor)(first[:4])["batch"]
    with torch.no_grad():
        prompts = embed(model, processor, batch.student, 0)
        hidden = response_hidden(model, prompts, batch.group.owners.tolist(), batch.responses, 0)
        logp = token_logp(project(model, hidden, 368), batch.responses)
    assert (logp - batch.group.ref_logp).abs().max() < 1e-5
    slots = batch.group.slots
    assert slots.shape == (4, 3)
    for number, item in enumerate(first[:4]):
        for drawn, row in zip(slots[number].tolist(), item.responses, strict=True):
            assert batch.responses[drawn] == row["token_ids"] and int(batch.group.owners[drawn]) == number

    mixed = Answered.of(rows.select([0, 3, 6, *range(3, 30)]), 3, table)
    with pytest.raises(DataError, match="do not belong to the questions"):
        mixed.to(0, table[0]["id"])
    with pytest.raises(DataError, match="met none"):
        Answered.of(rows.select(range(3)), 3, table).to(4, table[4]["id"])


def test_only_the_questions_asked_for_are_answered(model: Any, processor: Processor, tmp_path: Path) -> None:
    write_questions(Data("easy-vqa:train", "easy-vqa:test", train_limit=10), tmp_path / "q", 4, seed=3)
    writer = Writer("student", "s", Local(model, processor, SETTINGS), processor, 2, 0.0, "student-1")
    first = (writer, Reference(model, processor, 368), rule.make("exact"), SETTINGS, tmp_path / "q", tmp_path / "r", 0)
    write_responses(*first, np.array([9, 1, 1, 2]))
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["shard-00000.parquet", "shard-00002.parquet"]
    stored = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    # Another run that shares the folder adds what it needs beyond, and rewrites nothing.
    write_responses(*first, np.array([0, 2, 9, 5]))
    names = sorted(path.name for path in (tmp_path / "r").iterdir())
    assert names == ["shard-00000-part-1.parquet", "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"]
    assert all((tmp_path / "r" / name).read_bytes() == value for name, value in stored.items())
    table, rows = open_shards(tmp_path / "q", tmp_path / "c"), open_shards(tmp_path / "r", tmp_path / "c")
    assert len(rows) == 2 * 5
    answered = Answered.of(rows, 2, table)
    assert [row for row in range(10) if answered.place[row] >= 0] == [0, 1, 2, 5, 9]
    for row in (0, 1, 2, 5, 9):
        name = table[row]["id"]
        assert [response["question_id"] for response in answered.to(row, name)] == [name, name]


def test_order_visits_each_question_once_a_pass_and_keeps_images_together(tmp_path: Path) -> None:
    order = Order(7, 3)
    assert sorted(order.visits(0, 7)) == list(range(7)) == sorted(order.visits(7, 14))
    assert order.visits(0, 7).tolist() != order.visits(7, 14).tolist()
    whole = order.visits(0, 21).tolist()
    assert [order.visits(k, k + 5).tolist() for k in (0, 4, 16)] == [whole[k : k + 5] for k in (0, 4, 16)]
    assert order.visits(3, 3).tolist() == []

    write_questions(Data("easy-vqa:train", "easy-vqa:test", train_limit=4000), tmp_path / "q", 512, seed=0)
    table = open_shards(tmp_path / "q", tmp_path / "c")
    paths = [row[0]["path"] for row in table["images"]]
    numbers = image_numbers(tmp_path / "q")
    assert len(numbers) == 4000 and len(set(numbers.tolist())) == len(set(paths)) < 4000
    for epoch in (0, 1):
        drawn = Order(4000, 5, numbers).epoch(epoch)
        assert sorted(drawn.tolist()) == list(range(4000))
        seen = [paths[row] for row in drawn]
        changes = 1 + sum(one != other for one, other in itertools.pairwise(seen))
        assert changes == len(set(paths))  # each image's questions stand together
    assert Order(4000, 5, numbers).epoch(0).tolist() != Order(4000, 6, numbers).epoch(0).tolist()


def test_a_response_of_nothing_but_space_is_not_there(processor: Processor) -> None:
    """It has no JSD term and no R_distill; Collator is where that is decided."""
    said = ["red", "", "  ", "\n\t", "."]
    rows = [
        {"token_ids": [k + 5], "r_acc": 0.0, "text": text, "source": "teacher", "ref_logp": [-1.0]}
        for k, text in enumerate(said)
    ]
    batch = Collator(processor, processor)([Item(Sample("a", (), ask("q", 0), "x"), rows)])["batch"]
    assert batch.group.present.tolist() == [True, False, False, False, True]


def test_each_pass_over_the_questions_has_an_order_of_its_own() -> None:
    rows = [
        {"id": str(k), "messages": json.dumps(ask("q", 0)), "answer": "x", "location": "", "images": []}
        for k in range(12)
    ]

    def order(seed: int, places: list[int]) -> list[int]:
        data = ScheduledQuestions(rows, {0.0: []}, lambda _: 0.0, 9, 4, Order(len(rows), seed))
        return [int(data[place].sample.id) for place in places]

    every = order(3, list(range(36)))
    passes = [every[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(one) == list(range(12)) for one in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    # By hand, and from whichever step training goes on.
    assert passes == [np.random.default_rng((3, epoch)).permutation(12).tolist() for epoch in range(3)]
    assert order(3, [30, 5, 13]) == [every[30], every[5], every[13]]
    assert order(4, list(range(36))) != every


def test_evaluation_scores_by_hand(model: Any, processor: Processor, tmp_path: Path) -> None:
    rows = list(read("easy-vqa:test", limit=5))
    said = evaluate_model(model, processor, "easy-vqa:test", scoring="exact", limit=5, max_new_tokens=4)
    assert said.ids == [row.id for row in rows] and said.n == 5
    assert said.scores.tolist() == [float(a == row.answer) for a, row in zip(said.answers, rows, strict=True)]


def test_vocabularies(processor: Processor, checkpoint_maker: Any, tmp_path: Path) -> None:
    size = processor.tokenizer.get_vocab_size()
    assert shared_vocabulary(processor, processor, size + 64, size) == size
    assert shared_vocabulary(processor, processor, size + 64, size + 128) == size + 64
    with pytest.raises(CheckpointError, match="output head has"):
        shared_vocabulary(processor, processor, size, size - 1)
    checkpoint_maker(tmp_path, seed=0, corpus=["other words entirely"] * 30)
    with pytest.raises(CheckpointError, match="different tokenizers"):
        shared_vocabulary(processor, Processor.load(tmp_path), size, size)


def test_prompts_of_models_with_other_image_sizes_are_their_own(
    tiny_checkpoint: Path, processor: Processor, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_checkpoint, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.4, 0.4, 0.4]}))
    other = Processor.load(folder)
    image = ImageRef(path=next(iter(read("easy-vqa:test", limit=1))).images[0].path)
    rows = [{"token_ids": [5], "r_acc": 0.0, "text": "x", "source": "teacher", "ref_logp": [-1.0]}]
    item = Item(Sample("a", (image,), ask("q"), "x"), rows)
    batch = Collator(processor, other)([item])["batch"]
    assert batch.student.pixels is not None and batch.teacher.pixels is not None
    assert not torch.equal(batch.student.pixels, batch.teacher.pixels)
    same = Collator(processor, processor)([item])["batch"]
    assert same.teacher is same.student
