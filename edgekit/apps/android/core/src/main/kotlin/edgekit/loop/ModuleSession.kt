package edgekit.loop

import edgekit.EdgekitException
import edgekit.Manifest
import edgekit.damaged
import edgekit.families.Family
import edgekit.families.Positions
import edgekit.families.familyOf
import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import edgekit.pixels.Tensor
import edgekit.text.Prompt
import edgekit.text.Tokenizer
import edgekit.text.Turn
import edgekit.text.fillPlaces
import edgekit.text.stripStart

/** What prepares a bundle's prompts, whatever runs it: tokenizer, prompt pieces, pixels of its family. */
class Preparing(val manifest: Manifest, val tokenizer: Tokenizer, private val prompt: Prompt) {
    val family: Family = familyOf(manifest.family)
    val settings = Settings(manifest.preprocessing)

    fun look(picture: Picture): Pixels = family.preprocess(picture, settings)

    /** The rendered conversation. */
    fun render(turns: List<Turn>, system: String?): String = prompt.render(turns, system)

    /** A rendered prompt with each picture's place filled. */
    fun expand(rendered: String, grids: List<IntArray>): String =
        fillPlaces(rendered, family.place, grids.map { family.filling(it, settings) })

    fun prepare(turns: List<Turn>, system: String?, pixels: List<Pixels>): Prepared {
        val grids = pixels.map { it.grid }
        val ids = prompt.tokenise(expand(render(turns, system), grids), tokenizer)
        return Prepared(ids, pixels, family.positions(ids, grids, settings))
    }

    fun decode(ids: List<Int>): String = stripStart(tokenizer.decode(ids))
}

/** A session over a bundle's components. */
class ModuleSession(private val preparing: Preparing, private val runtime: Runtime) : Session {
    private val manifest = preparing.manifest
    private var next = 0L

    override val imageToken = manifest.imageToken
    override val ends = manifest.ends
    override val tokens = manifest.tokens
    override val room get() = runtime.room

    override fun look(picture: Picture) = preparing.look(picture)

    override fun prepare(turns: List<Turn>, system: String?, pixels: List<Pixels>) =
        preparing.prepare(turns, system, pixels)

    override fun decode(ids: List<Int>) = preparing.decode(ids)

    override fun encode(pixels: List<Pixels>): Features {
        val tiles = manifest.buckets.singleOrNull { it.grid == null }
        val outputs = if (tiles != null) {
            listOf(runtime.encode(tiles.component, joined(pixels.map { it.values }), null))
        } else {
            pixels.map { encodeOne(it) }
        }
        val features = joined(outputs.map { it[0] })
        val embeds = preparing.family.pack(features, pixels.map { it.grid }, preparing.settings)
        return Features(embeds, if (outputs[0].size > 1) besides(outputs.map { it[1] }) else null)
    }

    private fun encodeOne(picture: Pixels): List<Tensor> {
        val bucket = manifest.buckets.find { it.grid.contentEquals(picture.grid) }
            ?: damaged("A picture of ${picture.grid.joinToString(" x ")} patches has no vision encoder here.")
        return runtime.encode(bucket.component, picture.values, bucket.grid)
    }

    override fun prefill(prepared: Prepared, features: Features?): FloatArray {
        val embeds = runtime.embed(prepared.ids)
        val places = prepared.ids.indices.filter { features != null && prepared.ids[it] == imageToken }
        if (features != null) put(features.embeds.values, embeds.values, 0, places, features.embeds.shape.last())
        return append(embeds, prepared.positions, places, features?.deepstack)
    }

    override fun step(token: Int): FloatArray {
        val axes = manifest.positionAxes
        return append(runtime.embed(intArrayOf(token)), Positions(axes, LongArray(axes) { next }), emptyList(), null)
    }

    private fun append(embeds: Tensor, positions: Positions, places: List<Int>, features: Tensor?): FloatArray {
        next = positions.next
        return runtime.decode(embeds, positions, spread(embeds, places, features))
    }

    /** Deepstack features at the image tokens, zero elsewhere. */
    private fun spread(embeds: Tensor, places: List<Int>, features: Tensor?): Tensor? {
        if (manifest.deepstack == 0) return null
        val (tokens, width) = embeds.shape[0] to embeds.shape[1]
        val values = FloatArray(manifest.deepstack * tokens * width)
        if (features != null) {
            val layer = features.values.size / manifest.deepstack
            for (number in 0 until manifest.deepstack) {
                val own = features.values.copyOfRange(number * layer, (number + 1) * layer)
                put(own, values, number * tokens * width, places, width)
            }
        }
        return Tensor(intArrayOf(manifest.deepstack, tokens, width), values)
    }

    private fun put(features: FloatArray, into: FloatArray, start: Int, places: List<Int>, width: Int) {
        if (features.size != places.size * width) {
            throw EdgekitException(
                "The prompt has ${places.size} image tokens but the vision encoder gave ${features.size / width} embeddings.",
                "A literal image token stands in the question, or the prompt and the pictures do not belong together.",
            )
        }
        places.forEachIndexed { number, place -> features.copyInto(into, start + place * width, number * width, (number + 1) * width) }
    }

    override fun reset() {
        next = 0
        runtime.reset()
    }

    override fun rewind(length: Int) = if (manifest.cache.flag("rewinds", true)) runtime.rewind(length) else 0

    override fun close() = runtime.close()
}

/** Tensors one after the other along their first axis. */
internal fun joined(parts: List<Tensor>): Tensor {
    if (parts.size == 1) return parts[0]
    val values = FloatArray(parts.sumOf { it.values.size })
    parts.fold(0) { at, part ->
        part.values.copyInto(values, at)
        at + part.values.size
    }
    return Tensor(intArrayOf(parts.sumOf { it.shape[0] }) + parts[0].shape.drop(1), values)
}

/** Tensors (L, N, D) one after the other along their second axis. */
private fun besides(parts: List<Tensor>): Tensor {
    val layers = parts[0].shape[0]
    val rows = (0 until layers).flatMap { layer ->
        parts.map { part ->
            val size = part.values.size / layers
            Tensor(intArrayOf(part.shape[1], part.shape[2]), part.values.copyOfRange(layer * size, (layer + 1) * size))
        }
    }
    val whole = joined(rows)
    return Tensor(intArrayOf(layers, parts.sumOf { it.shape[1] }, parts[0].shape[2]), whole.values)
}
