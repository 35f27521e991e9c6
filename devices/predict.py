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

from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import Bundle
from edgekit.devices import Address
from edgekit.devices._catalogue import Figure, Phone, catalog
from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.formats.coreml.programs import DECODE
from edgekit.formats.counting import Load, prompt_tokens
from edgekit.formats.inspecting import inspect_bundle
from edgekit.manifest import Manifest
from edgekit.report.prediction import Estimate, Fit, Prediction

Range = tuple[float, float, float]
"""Low, middle, high."""

WORKING_SHARE = (0.1, 0.25, 0.6)  # working memory as a share of the weights: activations, unpacked weights
RUNTIME_BYTES = (40e6, 100e6, 250e6)  # an app and its runtime
ROOM_TOKENS = 1024  # of cache behind the prompt
CALL_MS = (0.1, 0.5, 3.0)
"""A call of a runtime. An assumption: no published figure was found. It matters below some 10 ms a token."""


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

CYCLE_OPERATIONS = 64
"""Of a core in a cycle, the unit that shares of a CPU are told in: one SMMLA of Arm, 2 x 8 by 8 x 2 int8. Cores with
several such units could do more, so a share may be above 1; none that was published is."""
CPU_SHARES = Shares(compute=(0.504, 0.504, 0.504), bandwidth=(0.641, 0.641, 0.641), form=FORM)
"""What llama.cpp reached on a Galaxy S25 with SmolVLM2-2.2B q8_0 and Qwen3-VL-2B q4_0 (`_published.fit`). The range is
FORM's; docs/prediction.md shows it against the published rows that were held out."""
CPU_CHECKED = ("Snapdragon 8 Elite", "Snapdragon 8 Elite Gen 5")
"""Chips with published rows."""
CPU_SHARES_ELSEWHERE = Shares(compute=(0.25, 0.504, 0.8), bandwidth=(0.4, 0.641, 0.8), form=FORM)
"""On other chips' cores the same middle; how far they are from these is an assumption, as no row was found."""
INTEGER_BITS = 9.0
"""Weights of so few bits are multiplied as int8, which is what CYCLE_OPERATIONS counts."""


@dataclass(frozen=True)
class Work:
    """What a bundle has to do; None where it cannot be told."""

    prompt_tokens: int
    image: Load | None
    prefill: Load | None
    decode: Load | None
    weight_bytes: float
    cache_bytes: float
    bits: float | None = None
    """Of a weight of the decoder."""
    missing: str = ""
    """Why it cannot be told."""


def work_of(bundle: Bundle) -> Work:
    """What a bundle has to do for a prompt of one image and a question, and for each token after it."""
    prompt, weights = prompt_tokens(bundle.manifest), float(bundle.size_bytes)
    try:
        found = inspect_bundle(bundle, tokens=prompt)
    except MissingExtraError as error:
        cached = bundle.manifest.cache
        row = 2 * cached.layers * cached.kv_heads * cached.head_dim * 2  # float16, as most have it
        return Work(prompt, None, None, None, weights, row * (prompt + ROOM_TOKENS), missing=error.what)
    token, image, row = found.per_token, found.per_image, found.cache_bytes_per_token
    products, head = token.flops - token.attention_flops, head_operations(bundle.manifest)
    decoder = found.components.get("text_decoder") or found.components[DECODE]
    return Work(
        prompt,
        None if image is None else Load(image.flops, image.bytes_moved),
        # Each token of a prompt looks at those before it: half of them on average.
        Load((products - head + token.attention_flops / 2) * prompt + head, token.weight_bytes + row * prompt),
        Load(token.flops, token.bytes_moved),
        weights,
        row * (prompt + ROOM_TOKENS),
        decoder.bits_per_weight,
    )


def head_operations(manifest: Manifest) -> float:
    """Of the decoder's head on one token, where only the last token of a prompt goes through it; 0 elsewhere."""
    decoder = manifest.components["text_decoder"]
    logits = next((spec.shape for spec in decoder.outputs if spec.name == "logits"), ())
    width = next((spec.shape[-1] for spec in decoder.inputs if spec.name == "inputs_embeds"), None)
    if len(logits) != 3 or logits[1] != 1 or not isinstance(width, int) or not isinstance(logits[2], int):
        return 0.0
    return 2.0 * width * logits[2]


def cpu_tops(ghz: Figure) -> float:
    """Peak of a phone's cores, one SMMLA in each cycle of each."""
    return ghz.value * CYCLE_OPERATIONS / 1000


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


def predicted_times(work: Work, phone: Phone, shares: Shares | None) -> tuple[dict[str, Estimate], list[str]]:
    """Milliseconds of image, prefill and decode, as far as they can be told, and why the rest cannot."""
    if phone.bandwidth_gb_s is None:
        return {}, ["no times: its memory bandwidth was not found published"]
    if phone.gpu_tflops is None and phone.cpu_ghz is None:
        return {}, ["no times: its operations per second were not found published"]
    if work.decode is None:
        return {}, [f"no times: {work.missing}"]
    loads, notes = {"image": work.image, "prefill": work.prefill, "decode": work.decode}, []
    if phone.gpu_tflops is not None:
        tops, shares = phone.gpu_tflops.value, shares or PHONE_SHARES
    else:
        assert phone.cpu_ghz is not None
        checked = phone.chip in CPU_CHECKED
        tops, shares = cpu_tops(phone.cpu_ghz), shares or (CPU_SHARES if checked else CPU_SHARES_ELSEWHERE)
        notes.append("on its CPU: the shares are llama.cpp's with q8_0 and q4_0, other runtimes were not checked")
        if not checked:
            notes.append(f"of the {phone.chip} no published row was found, so the range is an assumption")
        loads["image"] = None
        notes.append("no time of an image: no published row tells one of a phone's CPU")
        if work.bits is None or work.bits > INTEGER_BITS:
            loads["prefill"] = None
            notes.append("no time of a prompt: no published row tells how fast floats are multiplied there")
    peaks = tops, phone.bandwidth_gb_s.value
    return {name: milliseconds(load, *peaks, shares) for name, load in loads.items() if load is not None}, notes


def predict_on(bundle: Bundle, phone: Phone, shares: Shares | None = None) -> Prediction:
    """What a bundle is expected to do on a device of the catalogue."""
    work = work_of(bundle)
    needed = memory_needed(work)
    fit, why = memory_fit(needed, phone)
    times, notes = predicted_times(work, phone, shares)
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
        notes=(why, *notes, f"figures of {phone.name}: {', '.join(sorted(sources))}"),
    )


def _bytes(figure: Figure | None) -> int | None:
    return None if figure is None else round(figure.value * 1e9)


def models_of(kind: str) -> dict[str, Phone]:
    """Those of the catalogue, by the name of their file."""
    return {name: phone for name, phone in catalog().items() if phone.kind == kind}


def predict_kind(kind: str, folder: Path, address: Address) -> list[Prediction]:
    """Predictions of a bundle on every device of a kind, or on one model.

    Args:
        kind: iphone, ipad, mac or android.
        folder: The bundle.
        address: Its place names a file of the catalogue; "" for all of the kind.

    Raises:
        EdgekitError: no such model.
    """
    model, models = address.place, models_of(kind)
    if model and model not in models:
        raise EdgekitError(f"The catalogue has no {kind} {model!r}.", fix=f"There are: {', '.join(models) or 'none'}.")
    bundle = Bundle.load(folder, verify=False)
    return [predict_on(bundle, phone) for name, phone in models.items() if model in ("", name)]
