package edgekit.onnx

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import edgekit.Bundle
import edgekit.EdgekitException
import edgekit.families.Positions
import edgekit.loop.Runtime
import edgekit.pixels.Tensor
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer

/**
 * ONNX Runtime on the CPU, by its Java API: the graphs of a bundle of target onnx, and a cache.
 *
 * @param threads Of each graph; as many as the device has fast cores is a good choice, all cores seldom are.
 * @param room The most tokens of a prompt and its answer.
 */
class OnnxAdapter(bundle: Bundle, threads: Int, override val room: Int = 4096) : Runtime {
    private val manifest = bundle.manifest
    private val environment = OrtEnvironment.getEnvironment()
    private val graphs = LinkedHashMap<String, OrtSession>()
    private val decoder = manifest.component("text_decoder")
    private val inputs = decoder.inputs.map { it.name }.toSet()
    private val cache: OnnxCache

    init {
        if (manifest.target != "onnx") {
            throw EdgekitException(
                "A bundle of target ${manifest.target} is none for ONNX Runtime.",
                fix = "Export to onnx.",
                code = "unsupported",
            )
        }
        try {
            OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(threads)
                options.setInterOpNumThreads(1)
                for ((name, part) in manifest.components) {
                    graphs[name] = running(name) { environment.createSession(bundle.file(part.file).path, options) }
                }
            }
        } catch (error: EdgekitException) {
            close()
            throw error
        }
        cache = OnnxCache(environment, decoder, manifest.cache.flag("in_place", false))
    }

    override fun encode(component: String, values: Tensor, grid: IntArray?): List<Tensor> {
        val shape = if (grid == null) intArrayOf(1) + values.shape else values.shape // tiles stand in a batch of prompts
        val outputs = manifest.component(component).outputs.map { it.name }
        return run(component, mapOf("pixel_values" to floats(values.values, shape)), outputs)
    }

    override fun embed(ids: IntArray): Tensor {
        val given = longs(LongArray(ids.size) { ids[it].toLong() }, intArrayOf(1, ids.size))
        val found = run("token_embedding", mapOf("input_ids" to given), manifest.component("token_embedding").outputs.map { it.name })[0]
        return Tensor(found.shape.copyOfRange(1, 3), found.values)
    }

    private fun run(component: String, given: Map<String, OnnxTensor>, outputs: List<String>): List<Tensor> = running(component) {
        try {
            graphs.getValue(component).run(given, outputs.toSet()).use { result -> outputs.map { tensor(result.get(it).get() as OnnxTensor) } }
        } finally {
            given.values.forEach { it.close() }
        }
    }

    override fun decode(embeds: Tensor, positions: Positions, deepstack: Tensor?): FloatArray {
        val tokens = embeds.shape[0]
        val given = LinkedHashMap<String, OnnxTensor>()
        try {
            given["inputs_embeds"] = floats(embeds.values, intArrayOf(1) + embeds.shape)
            if ("attention_mask" in inputs) given["attention_mask"] = longs(
                LongArray(cache.length + tokens) { 1 }, intArrayOf(1, cache.length + tokens),
            )
            if ("position_ids" in inputs) given["position_ids"] = places(positions, tokens)
            if (deepstack != null) given["deepstack_embeds"] = floats(
                deepstack.values, intArrayOf(deepstack.shape[0], 1) + deepstack.shape.drop(1),
            )
            return running("text_decoder") { cache.run(graphs.getValue("text_decoder"), given, tokens) }
        } finally {
            given.values.forEach { it.close() }
        }
    }

    private fun places(positions: Positions, tokens: Int): OnnxTensor {
        val shape = if (positions.axes == 1) intArrayOf(1, tokens) else intArrayOf(positions.axes, 1, tokens)
        return longs(positions.values, shape)
    }

    override fun reset() = cache.clear()

    override fun rewind(length: Int): Int = cache.cut(length)

    override fun close() {
        graphs.values.forEach { it.close() }
        graphs.clear()
    }

    private fun floats(values: FloatArray, shape: IntArray): OnnxTensor =
        OnnxTensor.createTensor(environment, direct(values), dimensions(shape))

    private fun longs(values: LongArray, shape: IntArray): OnnxTensor {
        val buffer = ByteBuffer.allocateDirect(8 * values.size).order(ByteOrder.nativeOrder()).asLongBuffer()
        buffer.put(values).rewind()
        return OnnxTensor.createTensor(environment, buffer as LongBuffer, dimensions(shape))
    }

    /** What ONNX Runtime throws, as an error that says which part it was. */
    private fun <T> running(component: String, work: () -> T): T = try {
        work()
    } catch (error: OrtException) {
        val memory = listOf("allocate", "bad_alloc", "memory").any { it in error.message.orEmpty().lowercase() }
        throw EdgekitException(
            "ONNX Runtime does not run the component '$component'.",
            error.message.orEmpty().take(500),
            if (memory) "Close other apps, or take a smaller picture or model." else "Download or export the bundle again.",
            if (memory) "memory" else "damaged",
            error,
        )
    }
}

internal fun dimensions(shape: IntArray) = LongArray(shape.size) { shape[it].toLong() }

internal fun direct(values: FloatArray): FloatBuffer {
    val buffer = ByteBuffer.allocateDirect(4 * values.size).order(ByteOrder.nativeOrder()).asFloatBuffer()
    buffer.put(values)
    buffer.rewind()
    return buffer
}

/** Its numbers, copied: the tensor ends with the result that it is of. */
internal fun tensor(given: OnnxTensor): Tensor {
    val values = given.floatBuffer
    return Tensor(
        given.info.shape.map { it.toInt() }.toIntArray(),
        FloatArray(values.remaining()).also { values.get(it) },
    )
}
