package edgekit.executorch

import edgekit.Bundle
import edgekit.EdgekitException
import edgekit.damaged
import edgekit.families.Positions
import edgekit.loop.Runtime
import edgekit.pixels.Tensor
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module

/**
 * ExecuTorch by its Android library: one program whose cache is its own. It stands at a position, and a reset goes back
 * to the first.
 *
 * @param threads Of the runtime's thread pool.
 * @param context The most tokens of a prompt and its answer, where the program's cache takes more.
 */
class ExecutorchAdapter(bundle: Bundle, threads: Int, context: Int = Int.MAX_VALUE) : Runtime {
    private val manifest = bundle.manifest
    private val module: Module
    private var length = 0

    override val room: Int

    init {
        if (manifest.target != "executorch") {
            throw EdgekitException(
                "A bundle of target ${manifest.target} is none for ExecuTorch.",
                fix = "Export to executorch.",
                code = "unsupported",
            )
        }
        module = Module.load(bundle.file(manifest.component("text_decoder").file).path, Module.LOAD_MODE_MMAP, threads)
        for (name in manifest.components.keys) {
            val error = module.loadMethod(name)
            if (error != 0) damaged("ExecuTorch does not load the method '$name'.", "Its error is $error.")
        }
        room = minOf(context, execute("get_max_context_len")[0].toInt().toInt())
    }

    override fun encode(component: String, values: Tensor, grid: IntArray?): List<Tensor> {
        if (grid != null) return execute(component, given(values.values, values.shape)).map { tensor(it) }
        val (tiles, size) = values.shape[0] to values.values.size / values.shape[0]
        val each = (0 until tiles).map { tile ->
            val own = values.values.copyOfRange(tile * size, (tile + 1) * size)
            tensor(execute(component, given(own, intArrayOf(1) + values.shape.drop(1)))[0])
        }
        val all = FloatArray(each.sumOf { it.values.size })
        each.fold(0) { at, part ->
            part.values.copyInto(all, at)
            at + part.values.size
        }
        return listOf(Tensor(intArrayOf(tiles) + each[0].shape.drop(1), all))
    }

    override fun embed(ids: IntArray): Tensor {
        val given = longs(LongArray(ids.size) { ids[it].toLong() }, intArrayOf(1, ids.size))
        val found = tensor(execute("token_embedding", given)[0])
        return Tensor(found.shape.copyOfRange(1, 3), found.values)
    }

    override fun decode(embeds: Tensor, positions: Positions, deepstack: Tensor?): FloatArray {
        val tokens = embeds.shape[0]
        if (length + tokens > room) {
            throw EdgekitException(
                "The prompt and its answer take more than $room tokens.",
                "So many the cache of this bundle holds.",
                code = "long",
            )
        }
        val given = arrayListOf(
            given(embeds.values, intArrayOf(1) + embeds.shape), longs(longArrayOf(length.toLong()), intArrayOf(1)),
        )
        if (positions.axes > 1) given.add(longs(positions.values, intArrayOf(positions.axes, 1, tokens)))
        if (deepstack != null) given.add(
            given(deepstack.values, intArrayOf(deepstack.shape[0], 1) + deepstack.shape.drop(1)),
        )
        val logits = tensor(execute("text_decoder", *given.toTypedArray())[0])
        length += tokens
        return logits.values.copyOfRange(logits.values.size - logits.shape.last(), logits.values.size)
    }

    private fun execute(method: String, vararg inputs: EValue): Array<EValue> {
        val found = try {
            module.execute(method, *inputs)
        } catch (error: RuntimeException) { // the library's own has no narrower base
            throw EdgekitException(
                "ExecuTorch does not run the method '$method'.",
                error.message.orEmpty().take(500),
                code = "damaged",
                cause = error,
            )
        }
        return if (found.isNotEmpty()) found else damaged("ExecuTorch's method '$method' gave nothing.")
    }

    override fun reset() {
        length = 0 // what lies behind the position is never read
    }

    override fun rewind(length: Int): Int {
        this.length = length
        return length
    }

    override fun close() = module.destroy()

    private fun given(values: FloatArray, shape: IntArray) =
        EValue.from(org.pytorch.executorch.Tensor.fromBlob(values, LongArray(shape.size) { shape[it].toLong() }))

    private fun longs(values: LongArray, shape: IntArray) =
        EValue.from(org.pytorch.executorch.Tensor.fromBlob(values, LongArray(shape.size) { shape[it].toLong() }))

    private fun tensor(value: EValue): Tensor {
        val given = value.toTensor()
        return Tensor(given.shape().map { it.toInt() }.toIntArray(), given.dataAsFloatArray)
    }
}
