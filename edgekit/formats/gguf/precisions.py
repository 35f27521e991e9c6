"""What the weights of a GGUF file can be: llama.cpp's own types, named by it where no common name fits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.precision import BF16, FP16, FP32, INT4, INT8, CommonPrecision, TargetPrecision, Tolerances, by_name


@dataclass(frozen=True)
class LlamaPrecision(TargetPrecision):
    """A precision of the target gguf.

    Attributes:
        type_name: llama.cpp's name of such a file.
        file_type: Its number there.
        table: The type of single tensors that an embedding of it is given.
    """

    type_name: str = ""
    file_type: int = 0
    table: str = ""


# llama.cpp cuts patches by a float16 convolution and reads GELU from a table of float16 values, also in a float32
# model. Random weights bring best tokens nearer to each other than that, so there the distributions are held to it.
FLOAT = Tolerances(
    {"greedy_identical": 1.0, "logits_max_abs": 1e-2},
    {"logits_max_abs": 1e-2, "mean_kl": 1e-6},
    snr_db=40.0,
    measured="mean KL at most 1.8e-7 on four tiny random families",
)
Q6_K = CommonPrecision("q6_k", Tolerances({"top1_agreement": 0.99}, {"mean_kl": 2e-2}, snr_db=15.0))
Q5_K_M = CommonPrecision("q5_k_m", Tolerances({"top1_agreement": 0.97}, {"mean_kl": 0.1}, snr_db=12.0))
Q4_K_M = CommonPrecision("q4_k_m", Tolerances({"top1_agreement": 0.95}, {"mean_kl": 0.4}, snr_db=8.0))
IQ4_NL = Q4_K_M.named("iq4_nl")
PLAIN = (
    LlamaPrecision(FP32, "F32", held_to=FLOAT, type_name="F32", file_type=0, table="F32"),
    LlamaPrecision(FP16, "F16", type_name="F16", file_type=1, table="F16"),
    LlamaPrecision(BF16, "BF16", type_name="BF16", file_type=32, table="BF16"),
    LlamaPrecision(INT8, "Q8_0", type_name="Q8_0", file_type=7, table="Q8_0"),
    LlamaPrecision(Q6_K, "Q6_K", type_name="Q6_K", file_type=18, table="Q6_K"),
    LlamaPrecision(Q5_K_M, "Q5_K_M", type_name="Q5_K_M", file_type=17, table="Q5_K"),
    LlamaPrecision(Q4_K_M, "Q4_K_M", type_name="Q4_K_M", file_type=15, table="Q4_K"),
    LlamaPrecision(INT4, "Q4_0", type_name="Q4_0", file_type=2, table="Q4_0"),
    LlamaPrecision(IQ4_NL, "IQ4_NL", type_name="IQ4_NL", file_type=25, table="IQ4_NL"),
)
FOUR_BITS = (Q4_K_M, INT4, IQ4_NL)


def _weighed(one: LlamaPrecision) -> LlamaPrecision:
    """The same types, chosen by an importance matrix; the embedding's table is of them too."""
    # Measured on tiny random models of two families: the decoder 8.9 and 9.2 dB with Q4_0, 14.8 and 14.0 with Q4_K_M.
    common = replace(one.common.named(f"{one.name}-imatrix"), linear=False)
    return replace(one, common=common, native=f"{one.native}, weighed by an importance matrix", calibrated=True)


PRECISIONS = by_name(*PLAIN, *(_weighed(one) for one in PLAIN if one.common in FOUR_BITS))
PARTS = {
    "vision": by_name(
        *(replace(one, native=f"mmproj {one.type_name}") for one in PLAIN if one.common in (FP32, FP16, INT8))
    ),
    "embedding": by_name(*(replace(one, native=f"embeddings and output {one.table}") for one in PLAIN)),
    "text": PRECISIONS,
}
