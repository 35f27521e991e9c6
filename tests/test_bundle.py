"""Bundles: sealed, moved, damaged, and what may lie in one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import schema
from edgekit.bundle import MOST_MANIFEST_BYTES, SCHEMA_VERSION, Bundle, hashing_once, read_manifest, seal, sealed
from edgekit.errors import BundleError
from edgekit.files import sha256_json
from edgekit.manifest import Bucket, Cache, Component, FileEntry, Manifest, Precision, TensorSpec, Text


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


def test_the_seal_is_the_hash_of_the_file_with_64_zeros_in_its_place(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "b").manifest
    data = (tmp_path / "b" / "manifest.json").read_bytes()
    empty = data.replace(made.seal.encode(), b"0" * 64)
    assert made.schema_version == SCHEMA_VERSION
    assert hashlib.sha256(empty).hexdigest() == made.seal and len(empty) == len(data) and data != empty
    assert json.loads(data)["seal"] == made.seal and data.endswith(b"\n}\n") and b'\n  "name": "b"' in data
    # An older seal in the value does not count, and what looks like one is left alone.
    value = json.loads(data)
    assert sealed({**value, "seal": "1" * 64}) == data
    (tmp_path / "b" / "manifest.json").write_bytes(sealed({**value, "details": {"seal": "0" * 64}}))
    assert Bundle.load(tmp_path / "b").manifest.details == {"seal": "0" * 64}
    with pytest.raises(ValueError, match="not JSON compliant"):
        sealed({**value, "details": {"a": math.nan}})


def test_a_manifest_of_8_mib_at_most_is_read(tmp_path: Path) -> None:
    assert MOST_MANIFEST_BYTES == 8 * 1024 * 1024 == 8_388_608
    make_bundle(tmp_path / "b")
    (tmp_path / "b" / "manifest.json").write_bytes(b" " * (8_388_608 + 1))
    with pytest.raises(BundleError, match="no more than 8,388,608 are read"):
        Bundle.load(tmp_path / "b")
    (tmp_path / "b" / "manifest.json").write_text('{"schema_version": 3, "schema_version": 3}')
    with pytest.raises(BundleError, match="stands twice"):
        Bundle.load(tmp_path / "b")


def test_hashes_are_looked_at_unless_told_otherwise(tmp_path: Path) -> None:
    whole = make_bundle(tmp_path / "b")
    (tmp_path / "b" / "onnx" / "a.onnx").write_bytes(b"grapH")
    assert Bundle.load(tmp_path / "b", verify=False).hash == whole.hash
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Bundle.load(tmp_path / "b")


def test_where_files_are_hashed_once_a_changed_one_is_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit import bundle as bundles

    hashed: list[str] = []
    real = bundles.sha256_file
    make_bundle(tmp_path / "b")
    monkeypatch.setattr(bundles, "sha256_file", lambda path: (hashed.append(path.name), real(path))[1])
    graph = tmp_path / "b" / "onnx" / "a.onnx"
    with hashing_once():
        for _ in range(3):
            Bundle.load(tmp_path / "b")
        assert sorted(hashed) == ["a.onnx", "tokenizer.json"]
        before = graph.stat()
        time.sleep(0.02)  # the clock of a file system ticks a few milliseconds apart
        graph.write_bytes(b"grapH")
        os.utime(graph, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(BundleError, match="SHA-256 differs"):
            Bundle.load(tmp_path / "b")
        graph.write_bytes(b"graph")
    hashed.clear()
    for _ in range(2):
        Bundle.load(tmp_path / "b")
    assert len(hashed) == 4


def test_the_hash_is_over_names_and_contents(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    digests = {"onnx/a.onnx": hashlib.sha256(b"graph").hexdigest(), "tokenizer.json": hashlib.sha256(b"{}").hexdigest()}
    assert {name: entry.sha256 for name, entry in bundle.manifest.files.items()} == digests
    assert bundle.hash == sha256_json(digests) and bundle.path("onnx/a.onnx") == tmp_path / "b/onnx/a.onnx"
    backwards = dict(reversed(bundle.manifest.files.items()))
    assert Bundle(bundle.folder, dataclasses.replace(bundle.manifest, files=backwards)).hash == bundle.hash
    with pytest.raises(BundleError):
        bundle.path("../secret")


def test_parts_of_a_student_are_all_there(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    part = bundle.manifest.components["vision_encoder"]
    whole = dict.fromkeys(("vision_encoder", "token_embedding", "text_decoder"), part)
    buckets = {"a": Bucket("vision_encoder", (1, 2), 3), "b": Bucket("vision_encoder_b", (1, 3), 3)}

    def parts(components: dict[str, Component], **more: Any) -> Bundle:
        return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, components=components, **more))

    parts(whole).check_parts()
    parts({**whole, "vision_encoder_b": part}, buckets=buckets).check_parts()
    for name in whole:
        with pytest.raises(BundleError, match=f"has no component '{name}'"):
            parts({key: part for key in whole if key != name}).check_parts()
    with pytest.raises(BundleError, match="has no component 'vision_encoder_b'"):
        parts(whole, buckets=buckets).check_parts()


def test_only_files_lie_in_a_bundle(tmp_path: Path) -> None:
    """What verify writes may lie there too; empty folders do no harm."""
    folder = tmp_path / "b"
    make_bundle(folder)
    (folder / "parity.json").write_text("{}")
    (folder / "empty").mkdir()
    Bundle.load(folder)
    (folder / "parity.json").unlink()
    os.mkfifo(folder / "parity.json")
    with pytest.raises(BundleError, match=r"holds 'parity\.json'"):
        Bundle.load(folder)
    (folder / "parity.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    (folder / "onnx" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="holds 'onnx/link'"):
        Bundle.load(folder)


def test_schema_1_had_one_encoder_for_tiles(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    make_bundle(folder)
    value = json.loads((folder / "manifest.json").read_text())
    for added in ("buckets", "position_axes", "deepstack", "seal"):
        del value[added]
    del value["cache"]["in_place"]
    (folder / "manifest.json").write_text(json.dumps({**value, "schema_version": 1}))
    manifest = Bundle.load(folder).manifest
    assert manifest.encoders() == {"": ("vision_encoder", None)}
    assert (manifest.position_axes, manifest.deepstack, manifest.cache.in_place) == (1, 0, False)


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
    with pytest.raises(BundleError, match=r"manifest\.json is damaged\."):
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
    with pytest.raises(BundleError, match=r"may not hold 'extra\.pt': loading a pickle"):
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
