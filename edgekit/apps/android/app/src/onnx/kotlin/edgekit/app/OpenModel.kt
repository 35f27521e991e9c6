package edgekit.app

import edgekit.Bundle
import edgekit.VisionModel
import edgekit.onnx.OnnxAdapter

/** As edgekit's reports name it. */
const val RUNTIME = "onnxruntime"

/** @param room Tokens that a prompt and its answer may have together. */
suspend fun openModel(bundle: Bundle, threads: Int, room: Int): VisionModel =
    VisionModel.open(bundle) { OnnxAdapter(it, threads, room) }
