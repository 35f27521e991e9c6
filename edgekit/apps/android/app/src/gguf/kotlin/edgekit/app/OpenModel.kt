package edgekit.app

import edgekit.Bundle
import edgekit.VisionModel
import edgekit.gguf.LlamaSession

/** As edgekit's reports name it. */
const val RUNTIME = "llamacpp"

/** @param room Tokens that a prompt and its answer may have together. */
suspend fun openModel(bundle: Bundle, threads: Int, room: Int): VisionModel =
    VisionModel.openSession(bundle) { LlamaSession(bundle, it, threads, room) }
