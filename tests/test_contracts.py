"""Recipe, workspace, bundle and report: read, refused, and round trips."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgekit import schema
from edgekit.bundle import (
    SCHEMA_VERSION,
    Bundle,
    Cache,
    Component,
    FileEntry,
    Manifest,
    Precision,
    TensorSpec,
    Text,
    read_manifest,
    seal,
    sealed,
)
from edgekit.checkpoint import resolve_checkpoint
from edgekit.errors import BundleError, CheckpointError, EdgekitError, RecipeError, StorageError
from edgekit.files import inside, new_folder, write_text
from edgekit.recipe import Recipe, demo_recipe_path, dump_recipe, load_recipe, read_recipe
from edgekit.report import Report, Row, read_report
from edgekit.report_text import escape, markdown, to_csv
from edgekit.workspace import Workspace

MINIMAL = {
    "teachers": [{"checkpoint": "t"}],
    "student": {"checkpoint": "s"},
    "data": {"train": "a.jsonl", "test": "b.jsonl"},
}


# -------------------------------------------------------------------------------------------------------------- recipe


def test_defaults_are_the_papers() -> None:
    recipe = read_recipe(MINIMAL)
    mask, gen = recipe.masters.mask, recipe.masters.gen_data
    assert (mask.r_max, mask.step, recipe.masters.kl_beta, recipe.objective) == (0.2, 0.05, 0.1, {"jsd": 1.0})
    assert (gen.teacher_responses, gen.student_responses) == (4, 4)
    assert (gen.temperature, gen.top_p, gen.top_k, gen.repetition_penalty) == (1.0, 0.9, 50, 1.05)
    assert (recipe.trainer.learning_rate, recipe.trainer.schedule) == (1e-6, "constant")


def test_every_problem_at_once_with_did_you_mean() -> None:
    wrong: dict[str, Any] = {
        **MINIMAL,
        "masters": {"mask": {"rmax": 0.2, "scope": "visio"}, "kl_beta": "high"},
        "trainer": {"step": 10, "steps": True},
        "exports": [{"precision": "fp32"}],
    }
    with pytest.raises(RecipeError) as caught:
        read_recipe(wrong, "my.yaml")
    text = str(caught.value)
    assert "my.yaml has 6 problems" in text
    for part in (
        "masters.mask.rmax: unknown key, did you mean 'r_max'?",
        "masters.mask.scope: 'visio' is not one of 'all', 'language', 'vision'. Did you mean 'vision'?",
        "masters.kl_beta: expected a number, found text 'high'",
        "trainer.step: unknown key, did you mean 'steps'?",
        "trainer.steps: expected a whole number, found true/false True",
        "exports[0].target: missing",
    ):
        assert part in text


def test_ranges_and_names_are_checked() -> None:
    wrong: dict[str, Any] = {
        **MINIMAL,
        "teachers": [{"checkpoint": "t", "r_max": 1.0}],
        "name": "../up",
        "objective": {"jds": 1.0},
        "masters": {"gen_data": {"temperature": 0, "teacher_responses": 0, "student_responses": 0}},
        "data": {**MINIMAL["data"], "scoring": "exct"},  # type: ignore[dict-item]
    }
    with pytest.raises(RecipeError) as caught:
        read_recipe(wrong)
    for part in (
        "teachers[0].r_max: 1.0 is not in [0, 1)",
        "'../up' is no plain folder name",
        "Unknown objective 'jds'. Did you mean 'jsd'?",
        "masters.gen_data.temperature: 0.0 is not above 0",
        "are both 0",
        "Unknown metric 'exct'. Did you mean 'exact'?",
    ):
        assert part in str(caught.value)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    recipe = load_recipe(path, {"trainer.learning_rate": "1e-6", "teachers.0.r_max": "0.4", "masters.mask.step": "0.1"})
    assert (recipe.trainer.learning_rate, recipe.r_max(0), recipe.masters.mask.step) == (1e-6, 0.4, 0.1)
    with pytest.raises(RecipeError, match="there is no '3'"):
        load_recipe(path, {"teachers.3.r_max": "0.4"})


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "\x00"])
def test_what_is_no_recipe(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="Cannot read"):
        load_recipe(tmp_path / "none.yaml")


def test_round_trip_and_hash() -> None:
    recipe = load_recipe(demo_recipe_path())
    again = read_recipe(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe and again.hash == recipe.hash
    value = schema.to_json(recipe)
    value["bench"]["limit"] = 7
    assert read_recipe(value).hash == recipe.hash  # says nothing of the student
    value["trainer"]["seed"] = 7
    assert read_recipe(value).hash != recipe.hash


def test_schema_describes_every_key() -> None:
    described = schema.json_schema(Recipe)
    assert described["properties"]["masters"]["properties"]["mask"]["properties"]["scope"]["enum"] == [
        "all", "language", "vision",
    ]  # fmt: skip
    assert described["required"] == ["teachers", "student", "data"]
    assert "mid teachers first" in described["properties"]["teachers"]["description"]


def test_checkpoints_that_are_not_there() -> None:
    with pytest.raises(CheckpointError, match="no demo model 'demo:big'"):
        resolve_checkpoint("demo:big")
    with pytest.raises(CheckpointError, match="No model at 'some/where/else'"):
        resolve_checkpoint("some/where/else")
    assert (resolve_checkpoint("demo:student") / "model.safetensors").exists()


# ----------------------------------------------------------------------------------------------------------- workspace


def test_runs_resume_by_recipe(tmp_path: Path) -> None:
    place = Workspace.find(tmp_path)
    recipe = read_recipe(MINIMAL)
    run = place.open_run(recipe)
    assert place.open_run(recipe) == run
    other = read_recipe({**MINIMAL, "objective_settings": {"jsd": {"beta": 0.3}}})
    assert place.open_run(other).name == "masters-2"
    assert place.open_run(other).name == "masters-2"
    assert place.open_run(recipe, fresh=True).name == "masters-3"
    with pytest.raises(EdgekitError, match="another recipe"):
        place.open_run(other, name="masters")
    with pytest.raises(EdgekitError, match="No run in"):
        place.latest_run()
    place.name_latest(run)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert Workspace.find(tmp_path / "deep" / "er").latest_run() == run
    with run.lock(), pytest.raises(EdgekitError, match="Another process"), run.lock():
        pass
    with pytest.raises(EdgekitError, match="There are: masters, masters-2, masters-3"):
        place.run("none")


# -------------------------------------------------------------------------------------------------------------- bundle


def make_bundle(folder: Path) -> Bundle:
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "a.onnx").write_bytes(b"graph")
    (folder / "tokenizer.json").write_text("{}")
    spec = TensorSpec("x", "float32", ("batch", 3))
    seal(
        folder, name="b", target="onnx", precision=Precision("fp32", "float32"), family="idefics3",
        components={"vision_encoder": Component("onnx/a.onnx", (spec,), (spec,))}, preprocessing={"tile": 64},
        text=Text("tokenizer.json", "tokenizer.json", 3, (1,)), cache=Cache(2, 1, 16), vocab_size=9,
        student_sha256="0" * 64,
    )  # fmt: skip
    return Bundle.load(folder)


def files_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["files"])


def edit(folder: Path, **changes: Any) -> None:
    """A manifest changed and sealed again; what is right about it otherwise stays so."""
    value = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_bytes(sealed({**value, **changes}))


def test_a_bundle_may_be_moved_and_keeps_its_hash(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    moved = Bundle.load(tmp_path / "elsewhere")
    assert moved.hash == bundle.hash and moved.size_bytes == 7
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "manifest.json").read_text()


def test_every_changed_byte_of_the_manifest_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    unseen = []
    for place in range(len(whole)):
        other = whole[place] ^ (1, 2, 32, 128)[place % 4]
        path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
        try:
            Bundle.load(folder, verify=False)
        except BundleError:
            continue
        unseen.append((place, other))
    assert unseen == []
    for changed in (whole + b"\n", whole[:-1], whole.replace(b"\n", b"\r\n"), whole.replace(b'"seal"', b'"seal" ')):
        path.write_bytes(changed)
        with pytest.raises(BundleError, match="not the manifest that was exported"):
            Bundle.load(folder)


def test_schema_2_had_no_seal_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    bundle = make_bundle(folder)
    assert bundle.unsealed == ""
    value = schema.to_json(bundle.manifest)
    del value["seal"]
    (folder / "manifest.json").write_text(json.dumps({**value, "schema_version": 2}))
    older = Bundle.load(folder)
    assert "schema 2, which had no seal" in older.unsealed and older.hash == bundle.hash
    for wrong in ({"schema_version": 3}, {"schema_version": 2, "seal": bundle.manifest.seal}):
        (folder / "manifest.json").write_text(json.dumps({**value, **wrong}))
        with pytest.raises(BundleError, match="Its seal does not fit"):
            Bundle.load(folder)


def test_truncated_tampered_missing_added(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    graph = folder / "onnx" / "a.onnx"
    graph.write_bytes(b"grap")
    with pytest.raises(BundleError, match=r"a\.onnx has 4 bytes, its manifest says 5"):
        Bundle.load(folder)
    graph.write_bytes(b"grapH")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Bundle.load(folder)
    graph.unlink()
    with pytest.raises(BundleError, match=r"lacks onnx/a\.onnx"):
        Bundle.load(folder)
    graph.write_bytes(b"graph")
    (folder / "run.me").write_text("x")
    with pytest.raises(BundleError, match=r"'run\.me', which its manifest does not list"):
        Bundle.load(folder)


def test_schema_1_had_one_encoder_for_tiles(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    value = json.loads((folder / "manifest.json").read_text())
    for added in ("buckets", "position_axes", "deepstack", "seal"):
        del value[added]
    (folder / "manifest.json").write_text(json.dumps({**value, "schema_version": 1}))
    manifest = Bundle.load(folder).manifest
    assert manifest.encoders() == {"": ("vision_encoder", None)}
    assert (manifest.position_axes, manifest.deepstack) == (1, 0)


def test_buckets_survive_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    edit(folder, buckets={"84x56": {"component": "vision_encoder", "grid": [1, 4, 6], "tokens": 6}})
    assert Bundle.load(folder).manifest.encoders() == {"84x56": ("vision_encoder", (1, 4, 6))}


def test_newer_and_damaged_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    edit(folder, schema_version=SCHEMA_VERSION + 1, surprise=1)
    newer = f"schema {SCHEMA_VERSION + 1}; this edgekit reads up to {SCHEMA_VERSION}"
    with pytest.raises(BundleError, match=newer):
        Bundle.load(folder)
    edit(folder, schema_version=SCHEMA_VERSION)
    with pytest.raises(BundleError, match="surprise: unknown key"):
        Bundle.load(folder)
    (folder / "manifest.json").write_text('{"schema_version"')
    with pytest.raises(BundleError, match="damaged"):
        Bundle.load(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", "..\\out"])
def test_names_may_not_escape(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    edit(folder, files={**files_of(folder), name: {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match=r"leads out of|no relative file name"):
        Bundle.load(folder)


def test_links_out_of_a_bundle_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    (tmp_path / "secret").write_bytes(b"graph")
    (folder / "onnx" / "a.onnx").unlink()
    (folder / "onnx" / "a.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="leads out of"):
        Bundle.load(folder)


def test_no_pickles(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    (folder / "extra.pt").write_bytes(b"x")
    edit(folder, files={**files_of(folder), "extra.pt": {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="pickle"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["a.pkl", "sub/A.PT", "weights.ckpt", "b.pth", "c.pickle", "d.joblib"])
def test_sealing_refuses_a_pickle_and_writes_no_manifest(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "b"
    whole = make_bundle(folder).manifest
    (folder / "manifest.json").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    fields = {item.name: getattr(whole, item.name) for item in dataclasses.fields(whole)}
    for made in ("schema_version", "files", "seal"):
        del fields[made]
    with pytest.raises(BundleError, match=r"may not hold .*: loading a pickle can run any code"):
        seal(folder, **fields)
    assert not (folder / "manifest.json").exists()
    (folder / name).unlink()
    assert seal(folder, **fields) == whole


words = st.text(min_size=1, max_size=8)
names = st.text("abcXYZ019_-.é", min_size=1, max_size=8).filter(lambda name: name.strip("."))
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
sizes = st.integers(1, 9)
dtypes = st.sampled_from(["float32", "float16", "int64", "int8"])
specs = st.builds(TensorSpec, words, dtypes, st.lists(st.one_of(st.integers(0, 9), words), max_size=4).map(tuple))
tensors = st.lists(specs, max_size=2, unique_by=lambda spec: spec.name).map(tuple)
ids = st.integers(0, 1 << 20)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest that is valid."""
    entries = st.builds(FileEntry, st.integers(0, 1 << 40), digests)
    listed = draw(st.lists(names, min_size=1, max_size=3, unique_by=str.casefold))
    one = st.sampled_from(listed)
    parts = st.dictionaries(words, st.builds(Component, one, tensors, tensors), min_size=1, max_size=2)
    return draw(
        st.builds(
            Manifest,
            schema_version=st.just(1),
            name=words,
            target=words,
            precision=st.builds(Precision, words, words),
            family=words,
            files=st.just({name: draw(entries) for name in listed}),
            components=parts,
            preprocessing=st.dictionaries(words.filter(lambda key: key != "sizes"), st.floats(allow_nan=False)),
            text=st.builds(Text, one, one, ids, st.lists(ids, max_size=3).map(tuple)),
            cache=st.builds(Cache, sizes, sizes, sizes),
            vocab_size=sizes,
            student_sha256=digests,
            teacher_sha256=st.none() | words,
            run=st.none() | words,
            tools=st.dictionaries(words, words, max_size=2),
            parity=st.none() | st.dictionaries(words, st.booleans(), max_size=2),
        )
    )


@given(manifests())
def test_manifest_round_trip(manifest: Manifest) -> None:
    assert read_manifest(json.loads(json.dumps(schema.to_json(manifest))), "m") == manifest


# -------------------------------------------------------------------------------------------------------------- report

floats = st.none() | st.floats(0, 1e6)
intervals = st.none() | st.tuples(st.floats(-1, 1), st.floats(-1, 1))
rows = st.builds(
    Row, bundle=words, name=st.text(), runtime=words, target=words, precision=words, device=words,
    status=st.sampled_from(["ok", "failed"]), reason=st.none() | st.text(), n=st.none() | st.integers(0, 9999),
    accuracy=floats, accuracy_ci95=intervals, accuracy_delta=floats, accuracy_delta_ci95=intervals, ttft_ms=floats,
    itl_ms_p95=floats, size_bytes=st.none() | st.integers(0),
)  # fmt: skip
reports = st.builds(
    Report, schema_version=st.just(1), data=words, scoring=words, threads=st.integers(1, 9),
    machine=st.dictionaries(words, words, max_size=2), rows=st.lists(rows, max_size=3).map(tuple),
)  # fmt: skip


@given(reports)
def test_report_round_trip_and_table_shape(report: Report) -> None:
    assert read_report(json.loads(json.dumps(schema.to_json(report)))) == report
    lines = [line for line in markdown(report).splitlines() if line.startswith("|")]
    well = sum(row.status == "ok" for row in report.rows)
    assert len(lines) == 2 + len(report.rows) + (2 + well if well else 0)
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
    both = bars[: 2 + len(report.rows)], bars[2 + len(report.rows) :]
    assert len(set(both[0])) == 1 and len(set(both[1])) <= 1  # no cell can add a column or a row
    assert to_csv(report).startswith("bundle,") or not report.rows


def test_hostile_text_stays_text() -> None:
    assert escape("<script>alert(1)</script> | **x**\n# y") == (
        "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\*\\*x\\*\\* \\# y"
    )


def test_newer_report() -> None:
    with pytest.raises(EdgekitError, match="report schema 9"):
        read_report({"schema_version": 9})


# --------------------------------------------------------------------------------------------------------------- files


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    class Boom(Exception):
        pass

    with pytest.raises(Boom), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise Boom
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
    with pytest.raises(StorageError, match="exists already"), new_folder(tmp_path / "out"):
        pass
    with new_folder(tmp_path / "out", replace=True) as folder:
        (folder / "other").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_inside(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b") == tmp_path / "a/b"
    with pytest.raises(BundleError):
        inside(tmp_path, "../b")


def test_nan_is_never_written(tmp_path: Path) -> None:
    from edgekit.files import write_json

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"v": math.nan})
