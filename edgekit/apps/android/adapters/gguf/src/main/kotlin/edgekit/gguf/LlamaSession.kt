package edgekit.gguf

import edgekit.Bundle
import edgekit.EdgekitException
import edgekit.damaged
import edgekit.families.Positions
import edgekit.loop.Features
import edgekit.loop.Prepared
import edgekit.loop.Preparing
import edgekit.loop.Session
import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Tensor
import edgekit.text.Turn

/**
 * llama.cpp on the CPU. Words go in as ids, pictures as embeddings that llama.cpp's clip gives for the tiles that this
 * library cuts: so a prompt is the one that the student was trained on, tile for tile.
 *
 * @param room The most tokens of a prompt and its answer, where the bundle's own context has more.
 */
class LlamaSession(bundle: Bundle, private val preparing: Preparing, threads: Int, room: Int = Int.MAX_VALUE) : Session {
    private val manifest = bundle.manifest
    private val model: Llama
    private val places = ArrayList<Int>() // the position of each token in the cache
    private var next = 0

    override val imageToken = manifest.imageToken
    override val ends = manifest.ends
    override val tokens = manifest.tokens
    override val room: Int

    init {
        if (manifest.target != "gguf") {
            throw EdgekitException(
                "A bundle of target ${manifest.target} is none for llama.cpp.",
                fix = "Export to gguf.",
                code = "unsupported",
            )
        }
        val details = manifest.details ?: damaged("The bundle lacks its GGUF details.")
        val sizes = details.fields("mmproj").let { if ("image_tokens" in it) it.wholes("image_tokens") else null }
        val own = details.fields("text").whole("context")
        this.room = minOf(room, own)
        val text = bundle.file(manifest.component("text_decoder").file).path
        val vision = bundle.file(manifest.component(manifest.components.keys.first { it.startsWith("vision") }).file).path
        model = llama { Llama(text, vision, threads, own, manifest.precision == "fp32", sizes) }
    }

    override fun look(picture: Picture) = preparing.look(picture)

    override fun prepare(turns: List<Turn>, system: String?, pixels: List<Pixels>) =
        preparing.prepare(turns, system, pixels)

    override fun decode(ids: List<Int>) = preparing.decode(ids)

    override fun encode(pixels: List<Pixels>): Features {
        val parts = pixels.flatMap { it.parts }.map { part -> llama { model.encode(part.rgb, part.width, part.height) } }
        val all = FloatArray(parts.sumOf { it.size })
        parts.fold(0) { at, part ->
            part.copyInto(all, at)
            at + part.size
        }
        return Features(Tensor(intArrayOf(all.size / model.width, model.width), all), null)
    }

    override fun prefill(prepared: Prepared, features: Features?): FloatArray {
        val ids = prepared.ids
        var place = 0
        var image = 0
        while (place < ids.size) {
            val isImage = features != null && ids[place] == imageToken
            val end = (place until ids.size).firstOrNull { (features != null && ids[it] == imageToken) != isImage } ?: ids.size
            if (isImage) {
                embeddings(features, image, prepared.positions, place, end)
                image += end - place
            } else {
                val own = IntArray(end - place) { prepared.positions.values[place + it].toInt() } // a word's axes are equal
                feed(own) { model.tokens(ids.copyOfRange(place, end), own) }
            }
            place = end
        }
        next = prepared.positions.next.toInt()
        return llama { model.logits() }
    }

    private fun embeddings(features: Features, first: Int, positions: Positions, place: Int, end: Int) {
        val count = end - place
        val length = positions.values.size / positions.axes
        if (features.embeds.shape[0] < first + count) damaged("The prompt has more image tokens than its pictures.")
        val rows = features.embeds.values.copyOfRange(first * model.width, (first + count) * model.width)
        // llama.cpp's fourth axis is for others.
        val axes = if (positions.axes == 3) 4 else 1
        val own = IntArray(axes * count) { at ->
            if (at >= 3 * count) 0 else positions.values[at / count * length + place + at % count].toInt()
        }
        feed(own.copyOf(count)) { model.embeddings(rows, own) }
    }

    override fun step(token: Int): FloatArray {
        val own = intArrayOf(next++)
        feed(own) { model.tokens(intArrayOf(token), own) }
        return llama { model.logits() }
    }

    private fun feed(own: IntArray, work: () -> Unit) {
        llama(work)
        places.addAll(own.asList())
    }

    override fun reset() {
        places.clear()
        next = 0
        llama { model.cut(0) }
    }

    override fun rewind(length: Int): Int {
        if (length >= places.size) return length
        if (length == 0 || !llama { model.cut(places[length]) }) {
            reset()
            return 0
        }
        places.subList(length, places.size).clear()
        return length
    }

    override fun close() = model.close()
}
