"""Eq. 1-3: thresholds, schedule, masks in place."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from edgekit.checkpoint.folder import load_model
from edgekit.distill import masking
from edgekit.distill.masking import (
    MaskedTeacher,
    check_mask,
    magnitude_threshold,
    mask_into,
    mask_ratio,
    maskable,
    stage_ratios,
    write_masked,
)
from edgekit.distill.masters import Pipeline
from edgekit.distill.teacher_stages import Checkpoint
from edgekit.errors import CheckpointError, RecipeError, StorageError
from edgekit.families import idefics3
from edgekit.recipe.reading import ablation_recipe_path, load_recipe


def test_threshold_of_a_hand_made_matrix() -> None:
    weight = torch.tensor([[0.1, -0.4], [0.3, -0.2]])
    assert magnitude_threshold(weight, 0.5) == pytest.approx(0.3)  # 0.1 and 0.2 fall below
    assert magnitude_threshold(weight, 0.25) == pytest.approx(0.2)
    assert magnitude_threshold(weight, 0.0) == 0.0
    assert magnitude_threshold(weight, 0.2) == 0.0  # a fifth of four entries is none


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_threshold_refuses_a_ratio_outside(ratio: float) -> None:
    with pytest.raises(RecipeError, match=r"not in \[0, 1\)"):
        magnitude_threshold(torch.ones(4), ratio)


@given(st.integers(1, 200), st.floats(0, 0.99), st.integers(0, 10_000))
def test_exactly_the_asked_share_falls_below(count: int, ratio: float, seed: int) -> None:
    weight = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).float() + 1  # no ties
    below = int((weight.abs() < magnitude_threshold(weight, ratio)).sum())
    assert below == int(ratio * count)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@given(st.integers(1, 3000), st.floats(0, 0.999), st.integers(0, 10_000), st.booleans())
def test_the_threshold_is_the_value_of_a_sort(
    kind: torch.dtype, count: int, ratio: float, seed: int, spread: bool
) -> None:
    """Ties, zeros, subnormals and values of very different size included; chunks change nothing."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, generator=draw)
    if spread:
        weight = (weight * 10 ** torch.randint(-42, 4, (count,), generator=draw)).where(weight > -1, 0.5)
    weight = weight.to(kind)
    below = int(ratio * count)
    expected = float(weight.abs().float().sort().values[below]) if below else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "CHUNK", 64)
        assert magnitude_threshold(weight.view(1, -1), ratio) == expected
        result = torch.empty_like(weight)
        assert mask_into(result, weight, ratio) == expected
    assert torch.equal(result, weight.where(weight.abs().float() >= expected, 0))


def test_schedule_of_the_paper() -> None:
    ratios = [mask_ratio(step, 100, 0.2, 0.05) for step in range(100)]
    assert [ratios[step] for step in (0, 19, 20, 39, 40, 59, 60, 79, 80, 99)] == [
        0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0,
    ]  # fmt: skip
    assert mask_ratio(100, 100, 0.2, 0.05) == 0.0  # the printed formula gives -0.05 here
    assert stage_ratios(100, 0.2, 0.05) == [0.2, 0.15, 0.1, 0.05, 0.0]


def test_a_ratio_that_is_no_multiple_of_its_fall_still_ends_at_zero() -> None:
    assert stage_ratios(1000, 0.5, 0.2) == [0.5, 0.3, 0.1, 0.0]
    assert stage_ratios(1000, 0.0, 0.05) == [0.0]
    assert stage_ratios(7, 0.3, 0.1) == [0.3, 0.2, 0.1, 0.0]


@given(st.integers(1, 500), st.floats(0, 0.95), st.floats(0.01, 0.5))
def test_schedule_never_rises_nor_leaves_its_range(steps: int, r_max: float, fall: float) -> None:
    ratios = [mask_ratio(step, steps, r_max, fall) for step in range(steps + 1)]
    assert ratios[0] == pytest.approx(r_max, abs=1e-9)
    assert all(0 <= later <= earlier for earlier, later in itertools.pairwise(ratios))


@pytest.fixture
def teacher(tiny_checkpoint: Path) -> MaskedTeacher:
    from edgekit.checkpoint.folder import load_model

    return MaskedTeacher(load_model(tiny_checkpoint), tiny_checkpoint, idefics3.FAMILY)


def test_only_linear_layers_are_masked(teacher: MaskedTeacher) -> None:
    assert teacher.weights
    for forbidden in ("embed", "norm", "bias", "lm_head"):
        assert not [name for name in teacher.weights if forbidden in name]
    expected = {name for name, module in teacher.model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.removesuffix(".weight") for name in teacher.weights} == expected - {"lm_head"}


def test_the_output_head_is_spared_wherever_it_lies() -> None:
    """Of most families it lies outside the parts, of some among the language layers."""

    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 4)})

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.text["head"]

    family = replace(idefics3.FAMILY, prefixes={"vision": ("vision.",), "language": ("text.",)})
    assert [name for name, _ in maskable(Toy(), family)] == ["text.layer.weight"]


def test_scope_and_exclude(teacher: MaskedTeacher) -> None:
    def names(**chosen: object) -> set[str]:
        return {name for name, _ in maskable(teacher.model, idefics3.FAMILY, **chosen)}  # type: ignore[arg-type]

    vision, language = names(scope="vision"), names(scope="language")
    assert vision and language and not vision & language
    assert vision | language == names()
    assert not [name for name in names(exclude=("*.q_proj.*",)) if "q_proj" in name]


def test_masks_are_per_layer_and_undone(teacher: MaskedTeacher) -> None:
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    assert teacher.ratio == 0
    thresholds = teacher.set_ratio(0.5)
    assert teacher.ratio == 0.5 and list(thresholds) == list(teacher.weights)
    assert len(set(thresholds.values())) > 1
    for name, weight in teacher.weights.items():
        assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01), name
    teacher.set_ratio(0.1)  # from the dense weights, not from the masked ones
    zeros = torch.cat([(weight == 0).flatten() for weight in teacher.weights.values()])
    assert float(zeros.float().mean()) == pytest.approx(0.1, abs=0.01)
    teacher.set_ratio(0.0)
    after = teacher.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_tensors_of_another_name_are_a_clear_error(teacher: MaskedTeacher, tmp_path: Path) -> None:
    save_file({"of.another.name": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the tensor"):
        MaskedTeacher(teacher.model, tmp_path, idefics3.FAMILY)


def test_a_written_mask_is_the_mask_in_memory(tmp_path: Path) -> None:
    """The demo teacher is stored in bfloat16, as real ones are."""
    from edgekit.checkpoint.folder import resolve_checkpoint

    folder = resolve_checkpoint("demo:teacher")
    record = write_masked(folder, 0.6, tmp_path / "m", "language", ("*down_proj*",))
    model = load_model(folder)
    teacher = MaskedTeacher(model, folder, idefics3.FAMILY, "language", ("*down_proj*",))
    assert teacher.set_ratio(0.6) == record["thresholds"] == json.loads((tmp_path / "m/edgekit-mask.json").read_text())[
        "thresholds"
    ]  # fmt: skip
    written, memory = load_model(tmp_path / "m").state_dict(), model.state_dict()
    assert set(written) == set(memory)
    assert all(torch.equal(written[name], memory[name]) for name in memory)
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "m")]
    assert sizes[0] == sizes[1] and not (tmp_path / "m" / "card.json").exists()


def test_a_written_mask_of_a_checkpoint_in_shards(tiny_teacher: Path, tmp_path: Path) -> None:
    load_model(tiny_teacher).save_pretrained(tmp_path / "s", max_shard_size="100KB")
    assert len(list((tmp_path / "s").glob("*.safetensors"))) > 2
    for source, out in ((tmp_path / "s", "a"), (tiny_teacher, "b")):
        write_masked(source, 0.3, tmp_path / out)
    one, two = load_model(tmp_path / "a").state_dict(), load_model(tmp_path / "b").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert not all(torch.equal(one[name], value) for name, value in load_model(tiny_teacher).state_dict().items())


def test_a_written_mask_of_shards_in_folders(tiny_teacher: Path, tmp_path: Path) -> None:
    load_model(tiny_teacher).save_pretrained(tmp_path / "s", max_shard_size="100KB")
    index = tmp_path / "s" / "model.safetensors.index.json"
    kept = json.loads(index.read_text())
    (tmp_path / "s/deep/er").mkdir(parents=True)
    for name in set(kept["weight_map"].values()):
        (tmp_path / "s" / name).rename(tmp_path / "s/deep/er" / name)
    kept["weight_map"] = {key: f"deep/er/{name}" for key, name in kept["weight_map"].items()}
    index.write_text(json.dumps(kept))
    record = write_masked(tmp_path / "s", 0.3, tmp_path / "m")
    there, here = (sorted(path.name for path in (tmp_path / k / "deep/er").iterdir()) for k in ("s", "m"))
    assert there == here and record["thresholds"] == write_masked(tiny_teacher, 0.3, tmp_path / "w")["thresholds"]


def test_what_goes_along_with_a_written_mask(tiny_teacher: Path, tmp_path: Path) -> None:
    """Files beside the weights, as they are; not the card, nor weights that are none of the model's, nor folders."""
    source = Path(shutil.copytree(tiny_teacher, tmp_path / "t"))
    (source / "notes.txt").write_text("mine")
    (source / "card.json").write_text("{}")
    (source / "runs").mkdir()
    shutil.copyfile(source / "model.safetensors", source / "model_old.safetensors")
    record = write_masked(source, 0.25, tmp_path / "m", "vision")
    there, here = ({path.name for path in folder.iterdir()} for folder in (source, tmp_path / "m"))
    assert here == there - {"card.json", "runs", "model_old.safetensors"} | {"edgekit-mask.json"}
    assert (tmp_path / "m/notes.txt").read_text() == "mine"
    kept = json.loads((tmp_path / "m/edgekit-mask.json").read_text())
    assert kept == record and (kept["ratio"], kept["scope"], kept["exclude"]) == (0.25, "vision", [])
    assert set(kept) == {"source_sha256", "ratio", "scope", "exclude", "thresholds"}


def test_a_mask_has_something_to_mask_and_each_pattern_fits(tiny_teacher: Path) -> None:
    check_mask(tiny_teacher, idefics3.FAMILY, "all", ())
    check_mask(tiny_teacher, idefics3.FAMILY, "language", ("*.down_proj.weight", "*.q_proj.weight"))
    with pytest.raises(RecipeError, match=r"pattern 'q_proj' fits none of the \d+ weights"):
        check_mask(tiny_teacher, idefics3.FAMILY, "all", ("*.down_proj.weight", "q_proj"))
    with pytest.raises(RecipeError, match="'\\*vision_model\\*' fits none"):
        check_mask(tiny_teacher, idefics3.FAMILY, "language", ("*vision_model*",))
    with pytest.raises(RecipeError, match=r"leaves none of the \d+ weights of scope 'language'") as caught:
        check_mask(tiny_teacher, idefics3.FAMILY, "language", ("*.self_attn.*", "*.mlp.*"))
    names = [name for name, _ in maskable(load_model(tiny_teacher), idefics3.FAMILY, "language")]
    assert f"for example:\n  {names[0]}\n  {names[-1]}" in str(caught.value)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_run_masks_what_its_recipe_says(tiny_teacher: Path, attention: str) -> None:
    recipe = load_recipe(ablation_recipe_path(), {
        "masters.mask.scope": "language", "masters.mask.exclude": "['*.down_proj.weight']",
        "trainer.attention": attention,
    })  # fmt: skip
    pipeline: Any = SimpleNamespace(recipe=recipe)
    made = Pipeline._masked(pipeline, Checkpoint.of(str(tiny_teacher), Path()))
    names = [name for name, _ in maskable(load_model(tiny_teacher), idefics3.FAMILY, "language")]
    assert list(made.weights) == [name for name in names if "down_proj" not in name] != names
    assert not any(weight.requires_grad for weight in made.model.parameters())
    model: Any = made.model
    assert model.config._attn_implementation == model.config.get_text_config()._attn_implementation == attention


def test_what_may_not_be_written_over(tiny_teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "photo.jpg").touch()
    with pytest.raises(StorageError, match="exists already"):
        write_masked(tiny_teacher, 0.3, tmp_path / "own")
    with pytest.raises(RecipeError, match=r"not in \[0, 1\)"):
        write_masked(tiny_teacher, 1.0, tmp_path / "m")
    write_masked(tiny_teacher, 0.3, tmp_path / "m")
    write_masked(tiny_teacher, 0.2, tmp_path / "m")
    assert json.loads((tmp_path / "m/edgekit-mask.json").read_text())["ratio"] == 0.2
    with pytest.raises(StorageError, match="exists already"):
        write_masked(tmp_path / "m", 0.3, tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "own"]


def test_the_verb_writes_one_folder_per_ratio(tiny_teacher: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from edgekit.cli import build

    run, teacher = CliRunner().invoke, str(tiny_teacher)
    out = str(tmp_path / "t-{ratio}")
    done = run(build(), ["mask", teacher, "--ratio", "0.4", "--ratio", "0", "--out", out, "--json"])
    assert [row["ratio"] for row in json.loads(done.stdout)] == [0.4, 0.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t-0", "t-0.4"]
    for options in (
        ["--out", "x", "--ratio", "0.4", "--ratio", "0"],
        ["--out", "x", "--ratio", "0", "--scope", "eyes"],
    ):
        assert run(build(), ["mask", teacher, *options]).exit_code == 1


def test_a_masked_copy_of_a_sealed_checkpoint_bears_no_seal_of_another(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from edgekit.seal import FOLDER_SEAL, seal_folder

    sealed = Path(shutil.copytree(tiny_checkpoint, tmp_path / "sealed"))
    seal_folder(sealed)
    write_masked(sealed, 0.5, tmp_path / "masked")
    assert (sealed / FOLDER_SEAL).exists() and not (tmp_path / "masked" / FOLDER_SEAL).exists()
    load_model(tmp_path / "masked")
