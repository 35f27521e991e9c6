"""What a bundle is expected to do on a device that is not at hand, from the bundle's bytes and the device's peaks.

Each part of the model takes the longer of two times: its operations at the device's peak rate, or its bytes at the
device's bandwidth, each at the share of that peak that others have reached (`Shares`).

    image        one pass of the vision encoder: 2 x parameters x patches operations
    prefill      2 x parameters of the decoder's layers x tokens, and attention; its weights are read once
    decode       the decoder's weights and the cache are read for each token

and a call of the runtime on top. Parameters come from the bytes of a part and its precision. A bundle whose parts share
one file, as an ExecuTorch program's do, does not tell them apart; of it only the memory is said.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.devices import Address
from edgekit.errors import EdgekitError
from edgekit.prediction import Estimate, Fit, Prediction

CATALOG = Path(__file__).parent / "catalog"
Range = tuple[float, float, float]
"""Low, middle, high."""

QUESTION_TOKENS = 32  # of text around the picture, in the prompt that TTFT is predicted for
WORKING_SHARE = (0.1, 0.25, 0.6)  # working memory as a share of the weights: activations, unpacked weights
RUNTIME_BYTES = (40e6, 100e6, 250e6)  # an app and its runtime
ROOM_TOKENS = 1024  # of cache behind the prompt
CALL_MS = (0.1, 0.5, 3.0)
"""A call of a runtime. An assumption: no published figure was found. It matters below some 10 ms a token."""


@dataclass(frozen=True)
class Figure:
    """One published number."""

    value: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class Phone:
    """A device of the catalogue; None for what was not found published."""

    name: str
    kind: str
    chip: str
    year: int
    memory_gb: Figure | None = None
    app_limit_gb: Figure | None = None
    app_limit_entitled_gb: Figure | None = None
    bandwidth_gb_s: Figure | None = None
    gpu_tflops: Figure | None = None


@dataclass(frozen=True)
class Shares:
    """Which shares of a peak programs reach: low, middle and high."""

    compute: Range
    bandwidth: Range
    call_ms: Range = CALL_MS


PHONE_SHARES = Shares(compute=(0.03, 0.12, 0.45), bandwidth=(0.4, 0.6, 0.8))
"""Bandwidth: what published decoding speeds come to, of iPhone 17 Pro's 75.8 GB/s and iPhone 15 Pro's 51.3: 0.75 for
Qwen3-VL-2B int8 at 33 tokens/s (1.72 GB a token), 0.52 for LFM2.5-VL-450M at 112 (0.35 GB, if int8), about 0.6 for
Gemma-4-E2B at 39 and 27 (1.2 GB, if 4 bits). Compute: a TTFT of 6 s at 211 tokens of that Qwen comes to 0.04 of the
GPU's peak; that good matrix kernels reach 0.45 is an assumption; the middle is their geometric mean."""


@dataclass(frozen=True)
class Load:
    """What one pass of a program costs: operations (a multiply and an add are two), and bytes read."""

    operations: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What a bundle has to do; None where it cannot be told."""

    prompt_tokens: int
    image: Load | None
    prefill: Load | None
    decode: Load | None
    weight_bytes: float
    cache_bytes: float


@cache
def catalog() -> dict[str, Phone]:
    """Every device of the catalogue by its file's name, oldest first."""
    import yaml

    found = {path.stem: read_phone(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in CATALOG.glob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[1].name)))


def read_phone(value: Any) -> Phone:
    """A device from its YAML value.

    Raises:
        EdgekitError: not valid; every number needs the source that it was read from.
    """
    from edgekit import schema

    problems: list[str] = []
    phone = schema.read(Phone, value, problems)
    if phone is None:
        raise EdgekitError("A device of the catalogue is not valid.", why="\n".join(problems))
    figures = {name: item for name, item in vars(phone).items() if isinstance(item, Figure)}
    for name, figure in figures.items():
        if not (math.isfinite(figure.value) and figure.value > 0 and figure.source.startswith("https://")):
            raise EdgekitError(f"{phone.name}: {name} needs a positive value and the https address of its source.")
    return phone


def bytes_per_weight(precision: str) -> float:
    """Bytes that a weight takes, its share of a scale for every 32 included where it has fewer than 8 bits.

    Args:
        precision: A common name with its bits in it, such as fp16, int8-static or int4.
    Raises:
        EdgekitError: no bits in the name.
    """
    found = re.search(r"\d+", precision)
    if found is None:
        raise EdgekitError(f"The precision {precision!r} does not say how many bits a weight has.")
    bits = int(found[0])
    return bits / 8 + (2 / 32 if bits < 8 else 0)


def work_of(bundle: Bundle) -> Work:
    """What a bundle has to do for a prompt of one picture and QUESTION_TOKENS, and for each token after it."""
    manifest = bundle.manifest
    component, grid = next(iter(manifest.encoders().values()))
    bucket = next(iter(manifest.buckets.values()), None)
    image_tokens = bucket.tokens if bucket is not None else int(manifest.preprocessing.get("image_seq_len", 0))
    prompt = image_tokens + QUESTION_TOKENS
    cached = manifest.cache
    each = 2 * cached.layers * cached.kv_heads * cached.head_dim * bytes_per_weight("fp16")
    sizes = part_bytes(bundle)
    weights = float(bundle.size_bytes)
    if sizes is None or not {"text_decoder", "token_embedding", component} <= set(sizes):
        return Work(prompt, None, None, None, weights, each * (prompt + ROOM_TOKENS))
    decoder = sizes["text_decoder"]
    parameters = decoder / bytes_per_weight(_precision(bundle, "text_decoder"))
    width = _width(bundle)
    attention = 2 * cached.layers * width * prompt**2
    return Work(
        prompt,
        _image(bundle, component, sizes[component], grid),
        Load(2 * parameters * prompt + attention, decoder),
        Load(2 * parameters + 4 * cached.layers * width * prompt, decoder + each * prompt),
        weights,
        each * (prompt + ROOM_TOKENS),
    )


def part_bytes(bundle: Bundle) -> dict[str, float] | None:
    """Bytes of each component with what lies beside its file, or None where several share one."""
    components = bundle.manifest.components
    names = [component.file for component in components.values()]
    if len(set(names)) != len(names):
        return None
    found = {}
    for name, component in components.items():
        package, inside, _ = component.file.partition(".mlpackage/")
        prefix = package + inside if inside else component.file  # weights beside a graph: decoder.onnx_data
        found[name] = float(sum(item.bytes for file, item in bundle.manifest.files.items() if file.startswith(prefix)))
    return found


def _precision(bundle: Bundle, component: str) -> str:
    return bundle.manifest.components[component].precision or bundle.manifest.precision.common


def _width(bundle: Bundle) -> int:
    """D of the text decoder's embeddings."""
    last = bundle.manifest.components["token_embedding"].outputs[0].shape[-1]
    return last if isinstance(last, int) else 0


def _image(bundle: Bundle, component: str, size: float, grid: tuple[int, ...] | None) -> Load | None:
    """One picture, or one tile of it."""
    patches = math.prod(grid) if grid is not None else _tile_patches(bundle, component)
    if patches is None:
        return None
    parameters = size / bytes_per_weight(_precision(bundle, component))
    vision = _config(bundle).get("vision_config", {})
    layers, width = vision.get("num_hidden_layers", vision.get("depth", 0)), vision.get("hidden_size", 0)
    return Load(2 * parameters * patches + 4 * layers * width * patches**2, size)


def _tile_patches(bundle: Bundle, component: str) -> int | None:
    """Patches of a tile (..., 3, H, W), where the bundle says how large one is."""
    shape = bundle.manifest.components[component].inputs[0].shape
    patch = _config(bundle).get("vision_config", {}).get("patch_size", bundle.manifest.preprocessing.get("patch_size"))
    if isinstance(patch, list):
        patch = patch[0]
    height, width = shape[-2:]
    if not (isinstance(patch, int) and isinstance(height, int) and isinstance(width, int)):
        return None
    return (height // patch) * (width // patch)


def _config(bundle: Bundle) -> dict[str, Any]:
    if "config.json" not in bundle.manifest.files:
        return {}
    found = json.loads(bundle.path("config.json").read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def milliseconds(load: Load, tflops: float, bandwidth_gb_s: float, shares: Shares) -> Estimate:
    """How long a load takes; the range is from every share at its best to every share at its worst."""

    def at(place: int) -> float:
        compute = load.operations / (tflops * 1e12 * shares.compute[place])
        memory = load.bytes / (bandwidth_gb_s * 1e9 * shares.bandwidth[place])
        return 1000 * max(compute, memory) + shares.call_ms[2 - place]

    return Estimate(value=at(1), low=at(2), high=at(0))


def plus(one: Estimate, other: Estimate) -> Estimate:
    """Of two times, one after the other."""
    return Estimate(one.value + other.value, one.low + other.low, one.high + other.high)


def per_second(count: float, time_ms: Estimate) -> Estimate:
    """A rate from a time; the longest time is the lowest rate."""
    return Estimate(1000 * count / time_ms.value, 1000 * count / time_ms.high, 1000 * count / time_ms.low)


def memory_needed(work: Work) -> Estimate:
    """Bytes that an app with the bundle is expected to hold."""
    low, middle, high = (
        work.weight_bytes * (1 + share) + work.cache_bytes + runtime
        for share, runtime in zip(WORKING_SHARE, RUNTIME_BYTES, strict=True)
    )
    return Estimate(middle, low, high)


def memory_fit(needed: Estimate, phone: Phone) -> tuple[Fit, str]:
    """The verdict, and why."""
    limit, entitled, memory = (
        None if figure is None else figure.value * 1e9
        for figure in (phone.app_limit_gb, phone.app_limit_entitled_gb, phone.memory_gb)
    )
    most = entitled or limit or memory
    if most is not None and needed.low > most:
        return "does not fit", "even the least it may need is above what an app gets"
    if limit is None:
        return "unknown", "what an app gets there was not found published"
    if needed.high <= limit:
        return "fits", "the most it may need is below what an app gets"
    if entitled is not None and needed.high <= entitled:
        return "tight", "fits with the increased-memory-limit entitlement, perhaps not without"
    return "tight", "the most it may need is above what an app gets"


def predict_on(bundle: Bundle, phone: Phone, shares: Shares = PHONE_SHARES) -> Prediction:
    """What a bundle is expected to do on a device of the catalogue."""
    work = work_of(bundle)
    needed = memory_needed(work)
    fit, why = memory_fit(needed, phone)
    notes = [why]
    times: dict[str, Estimate] = {}
    if phone.gpu_tflops is None or phone.bandwidth_gb_s is None:
        missing = "operations per second" if phone.gpu_tflops is None else "memory bandwidth"
        notes.append(f"no times: its {missing} was not found published")
    elif work.decode is None:
        notes.append("no times: the parts of this bundle share one file")
    else:
        loads = {"image": work.image, "prefill": work.prefill, "decode": work.decode}
        peaks = phone.gpu_tflops.value, phone.bandwidth_gb_s.value
        times = {name: milliseconds(load, *peaks, shares) for name, load in loads.items() if load is not None}
        if "image" not in times:
            notes.append("no image time: the bundle does not say how large a patch is")
    sources = {figure.source for figure in vars(phone).values() if isinstance(figure, Figure)}
    return Prediction(
        bundle=bundle.hash,
        name=bundle.manifest.name,
        device=phone.name,
        chip=phone.chip,
        memory_fit=fit,
        memory_bytes=needed,
        memory_limit_bytes=_bytes(phone.app_limit_gb),
        memory_limit_entitled_bytes=_bytes(phone.app_limit_entitled_gb),
        image_encode_ms=times.get("image"),
        prefill_tokens_per_s=per_second(work.prompt_tokens, times["prefill"]) if "prefill" in times else None,
        ttft_ms=plus(times["image"], times["prefill"]) if {"image", "prefill"} <= set(times) else None,
        decode_tokens_per_s=per_second(1, times["decode"]) if "decode" in times else None,
        prompt_tokens=work.prompt_tokens,
        notes=(*notes, f"figures of {phone.name}: {', '.join(sorted(sources))}"),
    )


def _bytes(figure: Figure | None) -> int | None:
    return None if figure is None else round(figure.value * 1e9)


def predict_kind(kind: str, folder: Path, address: Address) -> list[Prediction]:
    """Predictions of a bundle on every device of a kind, or on one model.

    Args:
        kind: iphone, ipad or mac.
        folder: The bundle.
        address: Its place names a file of the catalogue; "" for all of the kind.
    Raises:
        EdgekitError: no such model.
    """
    model = address.place
    models = {name: phone for name, phone in catalog().items() if phone.kind == kind}
    if model and model not in models:
        raise EdgekitError(f"The catalogue has no {kind} {model!r}.", fix=f"There are: {', '.join(models) or 'none'}.")
    bundle = Bundle.load(folder, verify=False)
    return [predict_on(bundle, phone) for name, phone in models.items() if model in ("", name)]
