"""Files of Qualcomm AI Hub Models: figures of mobilenet_v2 and llama_v3_2_3b_instruct as published there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import DataError
from edgekit.external_results import read_results

PERF = """\
supported_devices:
- Samsung Galaxy S24
precisions:
  float:
    components:
      MobileNet-v2:
        universal_assets:
          tflite: {model_id: mmdz3d00q}
        performance_metrics:
          Samsung Galaxy S24:
            tflite:
              job_id: jprejjmk5
              job_status: Passed
              inference_time_milliseconds: 0.556
              estimated_peak_memory_range_mb:
                min: 0
                max: 151
              primary_compute_unit: NPU
              tool_versions:
                qairt: 2.41.0.251128145156_191518
                tflite: 2.17.0
            qnn_dlc:
              job_id: jgo3qqx1g
              job_status: Failed
  w4a16:
    components:
      Llama-v3.2-3B-Instruct:
        performance_metrics:
          Snapdragon 8 Elite QRD:
            genie:
              llm_metrics:
                - context_length: 4096
                  time_to_first_token_range_milliseconds:
                    min: 88.195
                    max: 2822.25
                  tokens_per_second: 23.4718
"""
NUMERICS = """\
metrics:
- dataset_name: imagenet
  metric_name: Classification Accuracy
  metric_unit: '%'
  num_partial_samples: 1000
  partial_torch_metric: 72.4
  device_metric:
    Samsung Galaxy S25:
      w8a16:
        qnn_dlc:
          partial_metric: 70.2
      float:
        onnx:
          partial_metric: 72.4
- dataset_name: ade20k
  metric_name: mIOU
  metric_unit: points
  num_partial_samples: 10
  partial_torch_metric: 0.4
  device_metric: {}
"""


def read(tmp_path: Path, text: str) -> list[object]:
    (tmp_path / "perf.yaml").write_text(text)
    return list(read_results(tmp_path / "perf.yaml"))


def test_times_by_hand(tmp_path: Path) -> None:
    (tmp_path / "perf.yaml").write_text(PERF)
    vision, failed, language = read_results(tmp_path / "perf.yaml")
    assert (vision.name, vision.precision, vision.device) == ("MobileNet-v2", "float", "Samsung Galaxy S24")
    assert vision.runtime == "tflite (NPU)" and vision.peak_memory_bytes == 151_000_000
    assert vision.tests[0].unit == "images/s" and vision.tests[0].mean == pytest.approx(1000 / 0.556)
    assert vision.origin is not None and vision.origin.endswith("qairt 2.41.0.251128145156_191518, tflite 2.17.0")
    assert failed.status == "failed" and failed.reason == "the job's status is Failed"
    assert language.name == "Llama-v3.2-3B-Instruct, context 4096" and language.runtime == "genie"
    assert language.decode_tokens_per_s == 23.4718 and language.ttft_ms is None  # a range over prompts is no median
    assert "88.195 to 2822.25 ms" in str(language.timing_note)
    assert {row.verified_by for row in (vision, failed, language)} == {"imported"}


def test_accuracy_by_hand(tmp_path: Path) -> None:
    (tmp_path / "numerics.yaml").write_text(NUMERICS)
    eight, whole = read_results(tmp_path / "numerics.yaml")
    assert (eight.n, eight.precision, eight.runtime) == (1000, "w8a16", "qnn_dlc")
    assert eight.accuracy == pytest.approx(0.702) and eight.accuracy_delta == pytest.approx(-0.022)
    assert whole.accuracy_delta == 0 and "PyTorch there 72.4 %" in str(whole.origin)
    assert eight.accuracy_ci95 is None  # not known from here: which answers were wrong is not in the file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PERF.replace("0.556", "-1"), "inference_time_milliseconds is -1"),
        (PERF.replace("inference_time_milliseconds: 0.556", "x: 1"), "inference_time_milliseconds is None"),
        (PERF.replace("max: 2822.25", "max: 1"), "is above 1 ms"),
        (PERF.replace("context_length: 4096", "context_length: .nan"), "context_length is nan"),
        (
            PERF.replace("          Samsung Galaxy S24:\n", "          Samsung Galaxy S24: 3\n          B:\n"),
            "is no mapping",
        ),
        (PERF.replace("    components:\n      MobileNet", "    parts:\n      MobileNet"), "has no components"),
        (PERF + "  : : :\n\t- {", "not valid YAML"),
        (NUMERICS.replace("70.2", "170.2"), "partial_metric is 170.2"),
        (NUMERICS.replace("num_partial_samples: 1000", "num_partial_samples: 0"), "num_partial_samples is 0"),
        (NUMERICS.replace("        qnn_dlc:\n          partial_metric: 70.2\n", "        - 3\n"), "not by device"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        read(tmp_path, text)
