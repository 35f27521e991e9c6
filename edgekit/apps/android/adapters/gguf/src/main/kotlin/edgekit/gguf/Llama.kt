package edgekit.gguf

import edgekit.EdgekitException
import java.io.Closeable

/**
 * One context of llama.cpp, through llama_jni.cpp. Not for two threads at once.
 *
 * @param exact Keep the cache in float32 and attention plain; llama.cpp's own choice is halves, and its fused attention.
 * @param imageTokens The fewest and the most tokens of a picture; null for what the file says.
 */
internal class Llama(text: String, vision: String, threads: Int, context: Int, exact: Boolean, imageTokens: IntArray?) : Closeable {
    private var handle = open(text, vision, threads, context, exact, imageTokens?.get(0) ?: 0, imageTokens?.get(1) ?: 0)

    /** Numbers of an image token: the model's width, several times with deepstack. */
    val width = width(handle)

    /** Embeddings (N, width) of a picture that is one tile, or one view. */
    fun encode(rgb: ByteArray, width: Int, height: Int): FloatArray = encode(handle, rgb, width, height)

    /** Append tokens, each at its position. */
    fun tokens(ids: IntArray, positions: IntArray) = feed(handle, ids, null, positions)

    /** Append embeddings (T, width) at positions (T,), or (4, T) with M-RoPE. */
    fun embeddings(rows: FloatArray, positions: IntArray) = feed(handle, null, rows, positions)

    /** Logits (V,) that follow what was fed last. */
    fun logits(): FloatArray = logits(handle)

    /** Forget what stands at a position and behind it; whether that could be done. 0 forgets all. */
    fun cut(position: Int): Boolean = cut(handle, position)

    override fun close() {
        if (handle != 0L) free(handle)
        handle = 0
    }

    private companion object {
        init {
            System.loadLibrary("edgekit_llama")
        }

        @JvmStatic external fun open(text: String, vision: String, threads: Int, context: Int, exact: Boolean, fewest: Int, most: Int): Long

        @JvmStatic external fun width(handle: Long): Int

        @JvmStatic external fun encode(handle: Long, rgb: ByteArray, width: Int, height: Int): FloatArray

        @JvmStatic external fun feed(handle: Long, ids: IntArray?, rows: FloatArray?, positions: IntArray)

        @JvmStatic external fun logits(handle: Long): FloatArray

        @JvmStatic external fun cut(handle: Long, position: Int): Boolean

        @JvmStatic external fun free(handle: Long)
    }
}

/** What the C++ side throws, as IllegalStateException, as an error of this library. */
internal fun <T> llama(work: () -> T): T = try {
    work()
} catch (error: IllegalStateException) {
    throw EdgekitException(
        "llama.cpp does not do this.",
        error.message.orEmpty(),
        "Download or export the bundle again.",
        "damaged",
        error,
    )
}
