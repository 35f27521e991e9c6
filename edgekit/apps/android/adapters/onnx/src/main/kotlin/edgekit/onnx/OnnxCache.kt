package edgekit.onnx

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OnnxValue
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import edgekit.Component
import edgekit.TensorSpec
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer

/** Tokens of the first buffers; they double from there. */
private const val FIRST = 256

/** A place of the cache: its buffer, and the tensor over it. */
private class Slot(val buffer: FloatBuffer, val tensor: OnnxTensor)

/**
 * The key-value cache of a decoder graph: buffers that it appends to in place, or tensors handed on.
 *
 * Where the bundle says that the graph appends in place, keys and values stand in buffers with room to grow, given as
 * past and as present alike (pinned outputs): a step then writes one row for each layer instead of copying all rows
 * before it. States of convolutions have one size always, and are handed on.
 */
internal class OnnxCache(private val environment: OrtEnvironment, decoder: Component, private val inPlace: Boolean) {
    private val past: List<TensorSpec> = decoder.inputs.filter { it.name.startsWith("past_") }
    private val present: List<String> = decoder.outputs.map { it.name }.filter { it.startsWith("present") }
    private val states: List<Boolean> = past.map { spec -> spec.shape.drop(1).none { it < 0 } }
    private val slots = ArrayList<Slot>()
    private var room = 0

    /** Tokens in it. */
    var length = 0
        private set

    init {
        check(past.size == present.size) { "${past.size} past and ${present.size} present tensors" }
        clear()
    }

    /** Forget all tokens. */
    fun clear() {
        length = 0
        if (inPlace && slots.isNotEmpty()) {
            past.indices.filter { states[it] }.forEach { replace(it, slot(past[it], 0)) }
        } else {
            slots.forEach { it.tensor.close() }
            slots.clear()
            room = 0
            past.forEach { slots.add(slot(it, 0)) }
        }
    }

    /** Forget the tokens from `kept` on; 0 where states cannot go back, and nothing is forgotten. */
    fun cut(kept: Int): Int {
        if (states.any { it }) return 0
        if (!inPlace) past.indices.forEach { replace(it, rows(slots[it].buffer, past[it], length, kept, kept)) }
        length = kept
        return kept
    }

    /** Append tokens; the logits (V,) of the last. */
    fun run(graph: OrtSession, given: Map<String, OnnxTensor>, tokens: Int): FloatArray {
        if (inPlace) grow(length + tokens)
        val feeds = given + past.indices.associate { past[it].name to slots[it].tensor }
        val pinned = if (inPlace) past.indices.filter { !states[it] } else emptyList()
        val outputs = pinned.associate { present[it] to slots[it].tensor as OnnxValue }
        val free = present.indices.filter { it !in pinned }
        graph.run(feeds, free.map { present[it] }.toSet() + "logits", outputs).use { result ->
            for (number in free) replace(number, handed(result.get(present[number]).get() as OnnxTensor))
            length += tokens
            return last(result.get("logits").get() as OnnxTensor)
        }
    }

    /** The logits of the last of (1, T, V). */
    private fun last(logits: OnnxTensor): FloatArray {
        val size = logits.info.shape.last().toInt()
        val values = logits.floatBuffer
        values.position(values.limit() - size)
        return FloatArray(size).also { values.get(it) }
    }

    private fun replace(number: Int, slot: Slot) {
        slots[number].tensor.close()
        slots[number] = slot
    }

    /** Make room for all tokens, keeping what is there. */
    private fun grow(needed: Int) {
        if (needed <= room) return
        val before = room
        room = maxOf(FIRST, 2 * room, needed)
        past.indices.filter { !states[it] }.forEach { replace(it, rows(slots[it].buffer, past[it], before, length, room)) }
    }

    /** A tensor of `room` rows for each head, the first `kept` of them from one of `before` rows. */
    private fun rows(old: FloatBuffer, spec: TensorSpec, before: Int, kept: Int, room: Int): Slot {
        val (heads, width) = spec.shape[1] to spec.shape[3]
        val slot = slot(spec, room)
        for (head in 0 until heads) {
            val source = old.duplicate().apply {
                limit(head * before * width + kept * width)
                position(head * before * width)
            }
            slot.buffer.duplicate().apply { position(head * room * width) }.put(source)
        }
        return slot
    }

    private fun handed(tensor: OnnxTensor): Slot {
        val values = tensor.floatBuffer
        val slot = slot(tensor.info.shape, values.remaining())
        slot.buffer.duplicate().put(values)
        return slot
    }

    private fun slot(spec: TensorSpec, room: Int): Slot {
        val shape = longArrayOf(1) + spec.shape.drop(1).map { (if (it < 0) room else it).toLong() }
        return slot(shape, shape.fold(1L) { product, size -> product * size }.toInt())
    }

    private fun slot(shape: LongArray, size: Int): Slot {
        // ONNX Runtime refuses a buffer of no bytes, and takes one that is longer than its tensor.
        val buffer = ByteBuffer.allocateDirect(4 * maxOf(size, 1)).order(ByteOrder.nativeOrder()).asFloatBuffer()
        val own = buffer.duplicate().apply { limit(size) }
        return Slot(buffer, OnnxTensor.createTensor(environment, own, shape))
    }
}
