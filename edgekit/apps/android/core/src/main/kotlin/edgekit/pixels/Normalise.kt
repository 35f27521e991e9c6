package edgekit.pixels

import edgekit.Fields

/** Numbers in C order, and their shape. */
class Tensor(val shape: IntArray, val values: FloatArray)

/**
 * What a vision encoder sees of one picture.
 *
 * @property values float32, its parts: tiles (M, 3, H, W), or flattened patches (P, patch).
 * @property grid How its parts lie, as the family counts it.
 * @property parts The same before they were normalised, for a runtime that does so itself: tiles, or the one whole view.
 */
class Pixels(val values: Tensor, val grid: IntArray, val parts: List<Picture>)

/** The image parameters of a bundle: `preprocessing` of app/model.json. */
class Settings(val fields: Fields) {
    val resample = fields.wholeOrNull("resample") ?: 0
    val order = PassOrder.of(fields.textOrNull("resize_order"))

    /** (width, height) of the only pictures that an export takes; empty where any goes. */
    val sizes: List<IntArray> = fields.listOrEmpty("sizes").map { size -> pair(size) }

    private val table: Array<FloatArray>

    init {
        val factor = fields.number("rescale_factor")
        val (mean, std) = listOf("mean", "std").map { name -> fields.list(name).map { (it as Number).toDouble().toFloat() } }
        // Rescaled in double precision first, as the reference does; each of the 256 values once.
        table = Array(3) { channel ->
            FloatArray(256) { ((it * factor).toFloat() - mean[channel]) / std[channel] }
        }
    }

    private fun pair(size: Any?): IntArray {
        val numbers = (size as? List<*>)?.mapNotNull { edgekit.asWhole(it) }.orEmpty()
        return if (numbers.size == 2) numbers.toIntArray() else fields.refuse("sizes", "a list of [width, height]")
    }

    fun resized(picture: Picture, width: Int, height: Int) = resize(picture, width, height, resample, order)

    /** Pixel values as numbers, by channel. */
    fun number(channel: Int, value: Byte): Float = table[channel][value.toInt() and 255]

    /** Pictures of one size -> (M, 3, H, W). */
    fun tiles(parts: List<Picture>): Tensor {
        val (width, height) = parts[0].width to parts[0].height
        val values = FloatArray(parts.size * 3 * width * height)
        parts.forEachIndexed { part, picture ->
            for (channel in 0..2) {
                val start = (3 * part + channel) * width * height
                for (place in 0 until width * height) values[start + place] = number(
                    channel, picture.rgb[3 * place + channel],
                )
            }
        }
        return Tensor(intArrayOf(parts.size, 3, height, width), values)
    }
}
