package edgekit.pixels

import kotlin.math.ceil

private const val BITS = 22 // 32 less 8 for the pixel and 2 for sums beyond it

/** Which of the two passes of a resize comes first: Pillow's rule up to 12.1, in 12.2 and 12.3, and from 13 on. */
enum class PassOrder(val word: String) {
    COLUMNS_FIRST("columns_first"),
    NARROW_ROWS_FIRST("narrow_rows_first"),
    TALL_ROWS_FIRST("tall_rows_first"),
    ;

    /** Whether rows are resized before columns: only of a picture that loses height. */
    fun rowsFirst(picture: Picture, width: Int, height: Int): Boolean {
        val gone = picture.height - height
        return gone > 0 && when (this) {
            COLUMNS_FIRST -> false
            NARROW_ROWS_FIRST -> picture.height > 100 * picture.width
            TALL_ROWS_FIRST -> gone > 2 * (picture.width - width)
        }
    }

    companion object {
        /** @param name `resize_order` of a bundle; bundles before schema 4 have none. */
        fun of(name: String?): PassOrder =
            if (name == null) COLUMNS_FIRST
            else requireNotNull(entries.find { it.word == name }) { "resize_order: $name is not known." }
    }
}

/**
 * The picture resized as Pillow does it, bit for bit: fixed-point weights, rounded to 8 bits after each of two passes.
 *
 * Source: Pillow 12, libImaging/Resample.c; order of passes: python-pillow/Pillow#9549.
 *
 * @param resample Pillow's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
 */
fun resize(picture: Picture, width: Int, height: Int, resample: Int, order: PassOrder): Picture {
    if (picture.width == width && picture.height == height) return picture
    if (resample == 0) return nearest(picture, width, height)
    val filter = filterOf(resample)
    return if (order.rowsFirst(picture, width, height)) columns(rows(picture, height, filter), width, filter) else rows(
        columns(picture, width, filter), height, filter,
    )
}

/** For each new place: the first old one, how many, and their weights; `stride` weights apart. */
private class Weights(val first: IntArray, val count: IntArray, val values: IntArray, val stride: Int)

private fun weights(old: Int, new: Int, filter: Filter): Weights {
    val scale = old.toDouble() / new
    val stretch = maxOf(scale, 1.0)
    val support = filter.support * stretch
    val stride = ceil(support).toInt() * 2 + 1
    val found = Weights(IntArray(new), IntArray(new), IntArray(new * stride), stride)
    val own = DoubleArray(stride)
    for (place in 0 until new) {
        val centre = (place + 0.5) * scale
        val first = maxOf((centre - support + 0.5).toInt(), 0)
        val count = minOf((centre + support + 0.5).toInt(), old) - first
        var sum = 0.0
        for (tap in 0 until count) {
            own[tap] = filter.weight((tap + first - centre + 0.5) * (1.0 / stretch))
            sum += own[tap]
        }
        found.first[place] = first
        found.count[place] = count
        for (tap in 0 until count) found.values[place * stride + tap] = fixed(
            if (sum != 0.0) own[tap] / sum else own[tap],
        )
    }
    return found
}

private fun fixed(weight: Double): Int = (weight * (1 shl BITS) + if (weight < 0) -0.5 else 0.5).toInt()

private fun rounded(sum: Int): Byte = (sum shr BITS).coerceIn(0, 255).toByte()

private fun columns(picture: Picture, width: Int, filter: Filter): Picture {
    if (picture.width == width) return picture
    val weights = weights(picture.width, width, filter)
    val (old, new) = picture.rgb to ByteArray(3 * width * picture.height)
    for (row in 0 until picture.height) {
        val start = 3 * row * picture.width
        for (column in 0 until width) {
            val from = start + 3 * weights.first[column]
            weigh(old, from, 3, weights, column, new, 3 * (row * width + column))
        }
    }
    return Picture(width, picture.height, new)
}

private fun rows(picture: Picture, height: Int, filter: Filter): Picture {
    if (picture.height == height) return picture
    val weights = weights(picture.height, height, filter)
    val (old, new) = picture.rgb to ByteArray(3 * picture.width * height)
    for (row in 0 until height) {
        for (column in 0 until picture.width) {
            val from = 3 * (weights.first[row] * picture.width + column)
            weigh(old, from, 3 * picture.width, weights, row, new, 3 * (row * picture.width + column))
        }
    }
    return Picture(picture.width, height, new)
}

/** One new pixel: the weighted sum of old ones that lie `step` bytes apart. */
private fun weigh(old: ByteArray, from: Int, step: Int, weights: Weights, place: Int, new: ByteArray, to: Int) {
    val half = 1 shl (BITS - 1)
    var red = half
    var green = half
    var blue = half
    var at = from
    val own = place * weights.stride
    for (tap in own until own + weights.count[place]) {
        val weight = weights.values[tap]
        red += weight * (old[at].toInt() and 255)
        green += weight * (old[at + 1].toInt() and 255)
        blue += weight * (old[at + 2].toInt() and 255)
        at += step
    }
    new[to] = rounded(red)
    new[to + 1] = rounded(green)
    new[to + 2] = rounded(blue)
}

private fun nearest(picture: Picture, width: Int, height: Int): Picture {
    val columns = places(picture.width, width)
    val rows = places(picture.height, height)
    val rgb = ByteArray(3 * width * height)
    for (row in 0 until height) {
        for (column in 0 until width) {
            System.arraycopy(
                picture.rgb, 3 * (rows[row] * picture.width + columns[column]), rgb, 3 * (row * width + column), 3,
            )
        }
    }
    return Picture(width, height, rgb)
}

/** The old place of each new one; added up step by step, as ImagingScaleAffine does. */
private fun places(old: Int, new: Int): IntArray {
    val step = old.toDouble() / new
    var place = step * 0.5
    return IntArray(new) {
        val found = minOf(place.toInt(), old - 1)
        place += step
        found
    }
}
