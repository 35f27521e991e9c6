"""`edgekit demo train scenes:...`: the cell loss, the measure, snapshots, and a training that goes on."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.data import samples
from edgekit.data.scenes import HELD_OUT, questions, scene
from edgekit.demo import architecture
from edgekit.distill import demo_models, scene_models
from edgekit.distill.evaluate import evaluate_model
from edgekit.distill.from_scratch import Schedule, answer_logits, collate_questions, image_features, normalised
from edgekit.distill.scene_models import (
    CellClassifier,
    CellHeads,
    DrawnCells,
    Encoder,
    SceneQuestions,
    collate_scenes,
    scene_logits,
    share_right,
)
from edgekit.errors import CheckpointError, EdgekitError, RecipeError
from edgekit.inputs.processor import Processor

TINY = architecture.Shape(32, 1, head_dim=16, text_mlp=32, patch=4, image_size=32)
PLAN = demo_models.Plan(
    shape=TINY,
    tower=Schedule(steps=4, batch=4, peak_lr=1e-3),
    answers=Schedule(steps=4, batch=2, peak_lr=1e-3),
    snapshots=(0.0, 0.99),
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a few steps, a small corpus, and little to measure."""
    monkeypatch.setitem(demo_models.PLANS, "scenes:teacher", PLAN)
    monkeypatch.setattr(scene_models, "CORPUS", "scenes:train:pictures=30")
    monkeypatch.setattr(scene_models, "HELD_BACK", 4)
    monkeypatch.setattr(demo_models, "SCENES_MEASURED", 14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Processor files and configuration of the tiny shape."""
    path = tmp_path_factory.mktemp("scenes")
    texts = [text for row in samples("scenes:train:pictures=30") for text in (f" {row.text}", f" {row.answer}")]
    tokenizer = architecture.build_tokenizer([*texts, *["User:", "Assistant:", "\n"] * 100])
    torch.manual_seed(0)
    model = architecture.build_model(TINY, tokenizer)
    model.save_pretrained(path)
    architecture.write_processor(tokenizer, path, TINY)
    return path


def load(folder: Path) -> Any:  # the attributes of its class are no fields of nn.Module
    from edgekit.checkpoint.folder import load_model

    return load_model(folder)


def test_cell_loss_by_hand() -> None:
    heads = CellHeads(2)
    with torch.no_grad():
        for head in (heads.shape_head, heads.color_head, heads.row_head, heads.column_head):
            head.weight.zero_()
            head.bias.zero_()
    cells = torch.zeros(1, 16, 2, dtype=torch.long)
    chance = math.log(5) + math.log(9)
    places = 2 * math.log(4)
    features = torch.randn(1, 16, 2)
    assert heads.loss(features, cells).item() == pytest.approx(chance + places)
    with torch.no_grad():
        heads.shape_head.bias[0] = 50.0
        heads.color_head.bias[0] = 50.0
    assert heads.loss(features, cells).item() == pytest.approx(places, abs=1e-5)
    cells[0, 3, 0] = 2  # one cell of 16 whose shape is 50 nats away
    assert heads.loss(features, cells).item() == pytest.approx(50 / 16 + places, rel=1e-5)
    with torch.no_grad():  # features that tell each cell's row: the sign of the first for the upper, the lower half
        features = torch.zeros(1, 16, 2)
        features[0, :8, 0], features[0, 8:, 0] = 50.0, -50.0
        heads.row_head.weight[:, 0] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert heads.loss(features, cells).item() == pytest.approx(50 / 16 + math.log(2) + math.log(4), rel=1e-5)


def test_a_cells_feature_is_its_own(folder: Path) -> None:
    """What the connector gives as token k is made of cell k's patches: without attention only that token changes."""
    model = load(folder)
    classifier = CellClassifier(model)
    for layer in model.model.vision_model.encoder.layers:
        torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
    pixels = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    other = pixels.clone()
    other[0, 8:16, 24:32] = 0  # row 1, column 3
    with torch.no_grad():
        changed = (classifier.features(normalised(pixels)) - classifier.features(normalised(other))).abs().sum(-1)[0]
    assert changed.nonzero().flatten().tolist() == [7]


def test_the_cell_loss_falls(folder: Path) -> None:
    torch.manual_seed(0)
    classifier = CellClassifier(load(folder))
    batch = scene_models._collate_cells([DrawnCells("train", 5, 8)[index] for index in range(8)])
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = classifier(**batch)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_the_auxiliary_loss_moves_the_connector_and_not_its_heads(folder: Path, tmp_path: Path) -> None:
    model, heads = load(folder), CellHeads(32)
    before = heads.shape_head.weight.clone()
    settings = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True}
    from transformers import TrainingArguments

    trainer = scene_models.SceneTrainer(heads, model=model, args=TrainingArguments(**settings))
    encoder = Encoder(Processor.load(folder))
    items = [SceneQuestions(encoder, "train", 5, 2)[index] for index in range(2)]
    batch = collate_scenes(items, model.config.image_token_id)
    model.zero_grad()
    features = scene_models.image_features(model, batch["pixel_values"])
    loss = trainer.auxiliary_loss(features, batch)
    assert loss.item() == pytest.approx(0.5 * heads.loss(features, batch["cells"]).item())
    loss.backward()
    assert model.model.connector.modality_projection.proj.weight.grad.abs().sum() > 0
    assert heads.shape_head.weight.grad is None and torch.equal(heads.shape_head.weight, before)
    whole = trainer.compute_loss(model, batch)
    trainer.auxiliary_loss = lambda *_: 0.0
    assert whole.item() == pytest.approx(trainer.compute_loss(model, batch).item() + loss.item(), rel=1e-5)


def test_rows_are_what_the_data_source_asks(folder: Path) -> None:
    processor = Processor.load(folder)
    item = SceneQuestions(Encoder(processor), "train", 0, 1)[0]
    wanted = list(samples("scenes:train:pictures=1"))
    assert len(item["rows"]) == len(wanted)
    for (prompt, answer), row in zip(item["rows"], wanted, strict=True):
        assert processor.tokenizer.decode(answer, skip_special_tokens=False) == f" {row.answer}{architecture.END}"
        text = processor.tokenizer.decode(prompt, skip_special_tokens=False)
        assert text.count("<image>") == 16 and row.text in text


def test_an_image_once_for_all_its_questions_gives_what_each_alone_does(folder: Path) -> None:
    model, data = load(folder), SceneQuestions(Encoder(Processor.load(folder)), "train", 7, 3)
    items = [data[index] for index in range(3)]
    assert len({len(item["rows"]) for item in items}) == 1  # answer_logits needs as many of each image
    batch = collate_scenes(items, model.config.image_token_id)
    pad = int(model.generation_config.pad_token_id)
    with torch.no_grad():
        features = image_features(model, batch["pixel_values"])
        logits, wanted = scene_logits(model, features, batch)
        alone, ids = answer_logits(model, features, collate_questions(items, pad))
    assert torch.equal(wanted, ids)
    assert torch.allclose(logits, alone, atol=2e-5) and logits.std() > 0.01


def test_one_forward_measures_what_greedy_decoding_does(folder: Path) -> None:
    """A model trained on a few answers for a moment, so that it is right about some and wrong about others."""
    torch.manual_seed(0)
    model, processor = load(folder), Processor.load(folder)
    data = SceneQuestions(Encoder(processor), "test", 0, 6)
    items = [data[index] for index in range(6)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs = [collate_scenes([item], model.config.image_token_id) for item in items]
    for _ in range(12):
        for batch in inputs:
            logits, wanted = scene_logits(model, scene_models.image_features(model, batch["pixel_values"]), batch)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, wanted).backward()
            optimizer.step()
    greedy = evaluate_model(model, processor, "scenes:test:pictures=6", scoring="exact").accuracy
    assert 0 < greedy < 1
    model.train()
    assert share_right(model, items) == pytest.approx(greedy) and model.training
    assert share_right(model.eval(), items) == pytest.approx(greedy) and not model.training


def test_snapshots_are_kept_at_their_levels() -> None:
    """Every third step, and no more once each level is kept."""
    shares, kept = iter([0.1, 0.5, 0.4, 0.95]), list[tuple[float, float, int]]()
    snapshots = scene_models.Snapshots(
        (0.2, 0.5, 0.9), lambda *one: kept.append(one), lambda level: level in (0.2, *(one[0] for one in kept)), 3
    )
    callback = scene_models.KeepAtLevels(snapshots, lambda: next(shares))
    for step in range(1, 19):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert kept == [(0.5, 0.5, 6), (0.9, 0.95, 12)] and not list(shares)


def test_kinds_of_questions_are_chosen(folder: Path) -> None:
    encoder = Encoder(Processor.load(folder))
    every, lists = (SceneQuestions(encoder, "train", 3, 9, *kinds) for kinds in ((), (("list",),)))
    assert len(every) == len(lists) == 9
    for index in range(9):
        shown = scene("train", 3, index)
        names = [name for name, _, _ in questions(shown)]
        rows = every[index]["rows"]
        assert len(rows) == len(names)
        assert lists[index]["rows"] == [row for row, name in zip(rows, names, strict=True) if name.startswith("list")]


@pytest.mark.parametrize("seed", [0, 3])
def test_the_warm_up_is_measured_on_images_it_never_saw(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    drawn: list[tuple[str, int, int]] = []

    class Noted(DrawnCells):
        def __init__(self, *given: Any) -> None:
            drawn.append(given)
            super().__init__(*given)

    def squares_everywhere(trainer: Any, *_: Any) -> None:
        torch.nn.init.zeros_(trainer.model.heads.shape_head.weight)
        trainer.model.heads.shape_head.bias.data = torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0])

    monkeypatch.setattr(scene_models, "DrawnCells", Noted)
    monkeypatch.setattr(scene_models, "run_trainer", squares_everywhere)
    monkeypatch.setattr(scene_models, "Trainer", lambda model, **_: SimpleNamespace(model=model))
    heads, share = scene_models.warm_up_on_cells(load(folder), PLAN.tower, tmp_path, seed=seed, bf16=False)
    assert drawn == [("train", 1_000_000 + seed, 16), ("train", 999_999, 200)] and heads.shape_head.out_features == 5
    shapes = [one.shape for index in range(200) for one in scene("train", 999_999, index).placed]
    assert share == pytest.approx(shapes.count("square") / len(shapes))


def test_answers_are_measured_on_the_test_splits_manner(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of seeds that no data spec has by default; every second one shows a composition held out of train."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(scene_models, "run_trainer", lambda *given: made.update(ran=given[2]))
    monkeypatch.setattr(scene_models, "SceneTrainer", lambda heads, **given: made.update(given))
    monkeypatch.setattr(scene_models, "share_right", lambda model, items: made.update(items=items) or 0.625)
    share = scene_models.train_scene_answers(
        load(folder), CellHeads(32), Processor.load(folder), PLAN.answers, tmp_path, seed=4, bf16=False,
        snapshots=scene_models.Snapshots((0.5,), lambda *_: None, lambda _: False, 1),
    )  # fmt: skip
    assert share == 0.625 and made["ran"] == "answers"
    asked = made["train_dataset"]
    assert (asked.split, asked.seed, asked.count, asked.kinds) == ("train", 1_000_004, 8, scene_models.TAUGHT)
    assert len(made["items"]) == scene_models.HELD_BACK == 150
    for index, item in enumerate(made["items"]):
        shown = scene("test", 1_000_000, index)
        assert torch.equal(item["cells"], torch.tensor(shown.cells()))
        assert len(item["rows"]) == len([*questions(shown, ["list"])])
        assert any((one.color, one.shape) in HELD_OUT for one in shown.placed) == (index % 2 == 1)
    callback = made["callbacks"][0]
    assert callback.measure() == 0.625 and callback.snapshots.levels == (0.5,)


def test_a_training_stops_and_goes_on(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, out = tmp_path / "work", tmp_path / "out"

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(scene_models.SceneTrainer, "auxiliary_loss", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo_models.train("scenes:teacher", out, work, bf16=False)
    assert not out.exists()
    tower = work / "scenes-teacher" / "tower" / "checkpoint-4"
    written = (tower / "model.safetensors").stat().st_mtime_ns
    card = demo_models.train("scenes:teacher", out, work, bf16=False)
    assert (tower / "model.safetensors").stat().st_mtime_ns == written  # the warm-up was not done again
    straight = demo_models.train("scenes:teacher", tmp_path / "two", tmp_path / "other", bf16=False)
    assert card["weights_sha256"] == straight["weights_sha256"]
    assert card["role"] == "scenes:teacher" and card["test_questions"] == 14
    assert 0 <= card["tower_shape_accuracy"] <= 1
    assert list(card["snapshots"]) == ["0%"]  # 99 % is out of reach in four steps
    kept = Path(card["snapshots"]["0%"])
    assert kept == work / "scenes-teacher" / "snapshots" / "0"
    Processor.load(kept)
    assert load(kept).config.vision_config.image_size == 32


def test_the_three_share_a_tokenizer_and_have_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_models, "CORPUS", "scenes:train:pictures=100")
    texts = demo_models.tokenizer_corpus("scenes:student")
    assert texts == demo_models.tokenizer_corpus("scenes:teacher")
    tokenizer = architecture.build_tokenizer(texts)
    sizes = []
    for role in ("teacher", "mid", "student"):
        shape = demo_models.PLANS[f"scenes:{role}"].shape
        assert (shape.image_size // shape.patch // shape.scale_factor) ** 2 == 16
        sizes.append(architecture.build_model(shape, tokenizer).num_parameters())
    assert [1.0e6 < sizes[0] < 1.3e6, 0.5e6 < sizes[1] < 0.7e6, 0.2e6 < sizes[2] < 0.28e6] == [True] * 3


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match=r"Unknown demo model 'scenes:giant'"):
        demo_models.train("scenes:giant", tmp_path / "out", tmp_path / "work")


def test_what_is_shipped() -> None:
    """Below 6 MB together, of one tokenizer, and each card tells of the very weights beside it."""
    from edgekit.demo import cards
    from edgekit.files import sha256_tree

    shipped = {name: card for name, card in cards().items() if name.startswith("scenes-")}
    assert list(shipped) == ["scenes-student", "scenes-teacher", "scenes-teacher-80"]
    folders = {name: resolve_checkpoint(f"demo:{name}") for name in shipped}
    assert sum(path.stat().st_size for folder in folders.values() for path in folder.iterdir()) < 6e6
    assert len({(folder / "tokenizer.json").read_text() for folder in folders.values()}) == 1
    for name, card in shipped.items():
        assert sha256_tree(folders[name], names=["model.safetensors"]) == card["weights_sha256"]
        assert sum(kind["questions"] for kind in card["test_by_kind"].values()) == card["test_questions"] == 4000
    order = [shipped[name]["test_by_kind"]["list"]["accuracy"] for name in shipped]
    assert order[0] < order[2] < order[1]


def test_the_shipped_models_answer_as_their_cards_say() -> None:
    from edgekit.demo import cards
    from edgekit.distill.evaluate import evaluate_checkpoint

    folder = resolve_checkpoint("demo:scenes-teacher-80")
    answered = evaluate_checkpoint(folder, "scenes:test:list:pictures=60", scoring="exact")
    low, high = answered.ci95
    assert low < cards()["scenes-teacher-80"]["test_by_kind"]["list"]["accuracy"] < high


def test_a_role_is_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="is what `edgekit demo train` makes") as caught:
        resolve_checkpoint("scenes:teacher")
    assert "edgekit demo train scenes:teacher" in caught.value.fix
    assert "demo:scenes-teacher-80" in caught.value.fix and "demo:mid" not in caught.value.fix


def test_the_recipe_of_the_experiment(tmp_path: Path) -> None:
    from edgekit.demo import recipe_named
    from edgekit.recipe.reading import load_recipe

    path = recipe_named("demo:scenes")
    assert path is not None
    recipe = load_recipe(path, base=tmp_path)  # its models are there
    assert recipe.data.train_limit == recipe.trainer.steps * recipe.trainer.batch_questions  # one pass
    assert recipe_named("own.yaml") is None
    with pytest.raises(RecipeError, match="no built-in recipe 'demo:scene'"):
        recipe_named("demo:scene")
