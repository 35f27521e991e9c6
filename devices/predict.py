"""What a bundle is expected to do on a device that is not at hand, from the bundle's bytes and the device's peaks.

Each part of the model takes the longer of two times: its operations at the device's peak rate, or its bytes at the
device's bandwidth, each at the share of that peak that others have reached (`Shares`).

    image        one pass of the vision encoder
    prefill      each token of the prompt through the decoder, and attention; its weights are read once
    decode       the decoder's weights and the cache are read for each token

and a call of the runtime on top. Operations and bytes are those that `edgekit inspect` counts in the bundle's own
files; where what reads them is not installed, only the memory is said.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import Bundle
from edgekit.devices import Address
from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.formats.counting import Load, prompt_tokens
from edgekit.formats.inspecting import inspect_bundle
from edgekit.report.prediction import Estimate, Fit, Prediction

if TYPE_CHECKING:
    from edgekit.yaml_text import Document

CATALOG = Path(__file__).parent / "catalog"
Range = tuple[float, float, float]
"""Low, middle, high."""

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
    form: Range = (1.0, 1.0, 1.0)
    """Measured over predicted time, where the shares are right: how far this kind of sum itself is off."""


FORM = (0.63, 1.0, 1.75)
"""On this project's own machine, predicted from its measured peaks and the shares that other models of the same target
and precision reach, eight of ten measured times lie between these multiples of the predicted one; the median error is
15 % (`python benchmarks/predicted.py`, 90 figures of 30 bundles of 5 shapes: docs/prediction.md)."""
PHONE_SHARES = Shares(compute=(0.03, 0.12, 0.45), bandwidth=(0.4, 0.6, 0.8), form=FORM)
"""Bandwidth: what published decoding speeds come to, of iPhone 17 Pro's 75.8 GB/s and iPhone 15 Pro's 51.3: 0.75 for
Qwen3-VL-2B int8 at 33 tokens/s (1.72 GB a token), 0.52 for LFM2.5-VL-450M at 112 (0.35 GB, if int8), about 0.6 for
Gemma-4-E2B at 39 and 27 (1.2 GB, if 4 bits). Compute: a TTFT of 6 s at 211 tokens of that Qwen comes to 0.04 of the
GPU's peak; that good matrix kernels reach 0.45 is an assumption; the middle is their geometric mean."""


@dataclass(frozen=True)
class Work:
    """What a bundle has to do; None where it cannot be told."""

    prompt_tokens: int
    image: Load | None
    prefill: Load | None
    decode: Load | None
    weight_bytes: float
    cache_bytes: float
    missing: str = ""
    """Why it cannot be told."""


@cache
def catalog() -> dict[str, Phone]:
    """Every device of the catalogue by its file's name, oldest first."""
    found = {path.stem: read_phone_file(path) for path in CATALOG.glob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[1].name)))


def read_phone_file(path: Path) -> Phone:
    """A device from its file.

    Raises:
        EdgekitError: as `read_phone`, every problem with its line.
    """
    from edgekit.yaml_text import read_yaml_file

    return _phone(read_yaml_file(path, "the device file", EdgekitError), str(path))


def read_phone(value: Any) -> Phone:
    """A device from its YAML value.

    Raises:
        EdgekitError: not valid; every number needs the source that it was read from.
    """
    from edgekit.yaml_text import Document

    return _phone(Document(value), "A device of the catalogue")


def _phone(document: Document, source: str) -> Phone:
    from edgekit import schema

    problems: list[str] = []
    phone = schema.read(Phone, document.value, problems)
    if phone is not None:
        problems = _phone_problems(phone)
    problems = document.all_problems(problems)
    if phone is None or problems:
        raise EdgekitError(f"{source} is not valid.", why="\n".join(problems))
    return phone


def _phone_problems(phone: Phone) -> list[str]:
    """Numbers that cannot be, or have no source, and limits that are above what they are of."""
    problems = []
    for name, figure in vars(phone).items():
        if not isinstance(figure, Figure):
            continue
        if not (math.isfinite(figure.value) and figure.value > 0 and figure.source.startswith("https://")):
            problems.append(f"{name}: {phone.name} needs a positive value and the https address of its source")
    rising = [
        (name, figure)
        for name in ("app_limit_gb", "app_limit_entitled_gb", "memory_gb")
        if (figure := getattr(phone, name)) is not None
    ]
    for (name, figure), (above, other) in itertools.pairwise(rising):
        if figure.value > other.value:
            problems.append(f"{name}: {figure.value:g} is above {above}, {other.value:g}")
    return problems


def work_of(bundle: Bundle) -> Work:
    """What a bundle has to do for a prompt of one picture and a question, and for each token after it."""
    prompt, weights = prompt_tokens(bundle.manifest), float(bundle.size_bytes)
    try:
        found = inspect_bundle(bundle, tokens=prompt)
    except MissingExtraError as error:
        cached = bundle.manifest.cache
        row = 2 * cached.layers * cached.kv_heads * cached.head_dim * 2  # float16, as most have it
        return Work(prompt, None, None, None, weights, row * (prompt + ROOM_TOKENS), error.what)
    token, image, row = found.per_token, found.per_image, found.cache_bytes_per_token
    products = token.flops - token.attention_flops
    return Work(
        prompt,
        None if image is None else Load(image.flops, image.bytes_moved),
        # Each token of a prompt looks at those before it: half of them on average.
        Load((products + token.attention_flops / 2) * prompt, token.weight_bytes + row * prompt),
        Load(token.flops, token.bytes_moved),
        weights,
        row * (prompt + ROOM_TOKENS),
    )


def milliseconds(load: Load, tflops: float, bandwidth_gb_s: float, shares: Shares) -> Estimate:
    """How long a load takes; the range is from every share at its best to every share at its worst."""

    def at(place: int) -> float:
        compute = load.operations / (tflops * 1e12 * shares.compute[place])
        memory = load.bytes / (bandwidth_gb_s * 1e9 * shares.bandwidth[place])
        return (1000 * max(compute, memory) + shares.call_ms[2 - place]) * shares.form[2 - place]

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
        notes.append(f"no times: {work.missing}")
    else:
        loads = {"image": work.image, "prefill": work.prefill, "decode": work.decode}
        peaks = phone.gpu_tflops.value, phone.bandwidth_gb_s.value
        times = {name: milliseconds(load, *peaks, shares) for name, load in loads.items() if load is not None}
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
