package edgekit.families

import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import edgekit.pixels.Tensor
import kotlin.math.ceil
import kotlin.math.sqrt

/** LLaVA-OneVision: a view of the whole, then tiles of a padded canvas. A grid is the picture's own (height, width). */
class LlavaOnevision : Family {
    override val place = "<image>"

    override fun preprocess(picture: Picture, settings: Settings): Pixels {
        val tile = settings.fields.whole("tile")
        val (height, width) = canvas(picture.height, picture.width, settings)
        val (across, down) = width.toDouble() / picture.width to height.toDouble() / picture.height
        val (newWidth, newHeight) = if (across < down) {
            width to minOf(ceil(picture.height * across).toInt(), height)
        } else {
            minOf(ceil(picture.width * down).toInt(), width) to height
        }
        val fitted = settings.resized(picture, newWidth, newHeight)
        val canvas = fitted.onBlack(width, height, (width - newWidth) / 2, (height - newHeight) / 2)
        val parts = listOf(settings.resized(picture, tile, tile)) + canvas.tiles(tile, tile)
        return Pixels(settings.tiles(parts), intArrayOf(picture.height, picture.width), parts)
    }

    override fun filling(grid: IntArray, settings: Settings): String {
        val layout = Layout(grid, settings)
        val side = settings.fields.whole("per_side")
        return place.repeat(side * side + layout.outRows * (layout.outColumns + 1))
    }

    override fun pack(features: Tensor, grids: List<IntArray>, settings: Settings): Tensor {
        val (tokens, width) = features.shape[features.shape.size - 2] to features.shape.last()
        val side = settings.fields.whole("per_side")
        val packed = ArrayList<FloatArray>()
        var tile = 0
        for (grid in grids) {
            val layout = Layout(grid, settings)
            val start = tile * tokens * width
            packed.add(features.values.copyOfRange(start, start + (tokens - 1) * width)) // the last is the newline
            val newline = features.values.copyOfRange(start + (tokens - 1) * width, start + tokens * width)
            val laid = laid(features.values, tile + 1, layout, side, tokens, width)
            packed.addAll(lines(scaledBoth(laid, layout), layout.outRows, newline))
            tile += 1 + layout.rows * layout.columns
        }
        val values = FloatArray(packed.sumOf { it.size })
        packed.fold(0) { at, part ->
            part.copyInto(values, at)
            at + part.size
        }
        return Tensor(intArrayOf(values.size / width, width), values)
    }
}

/** Of a picture's tiles: rows and columns of tiles, of tokens without the padding, and of tokens in the end. */
private class Layout(grid: IntArray, settings: Settings) {
    val rows: Int
    val columns: Int
    val keptRows: Int
    val keptColumns: Int
    val outRows: Int
    val outColumns: Int

    init {
        val side = settings.fields.whole("per_side")
        val (height, width) = canvas(grid[0], grid[1], settings)
        rows = height / settings.fields.whole("tile")
        columns = width / settings.fields.whole("tile")
        var down = rows * side
        var across = columns * side
        if (grid[1].toDouble() / grid[0] > across.toDouble() / down) {
            down -= (down - rounded(grid[0] * (across.toDouble() / grid[1]), 7).toInt()) / 2 * 2
        } else {
            across -= (across - rounded(grid[1] * (down.toDouble() / grid[0]), 7).toInt()) / 2 * 2
        }
        keptRows = down
        keptColumns = across
        val shrink = sqrt(down.toDouble() * across / (settings.fields.whole("max_tiles").toDouble() * side * side))
        outRows = if (shrink > 1.1) (down / shrink).toInt() else down
        outColumns = if (shrink > 1.1) (across / shrink).toInt() else across
    }
}

/** (height, width) of the canvas that keeps most of a picture's pixels; of two as good, the one with less waste. */
private fun canvas(oldHeight: Int, oldWidth: Int, settings: Settings): Pair<Int, Int> {
    var best = 0 to 0
    var most = 0L
    var least = Long.MAX_VALUE
    for (one in settings.fields.list("canvases")) {
        val (height, width) = (one as List<*>).map { (it as Long).toInt() }
        val scale = minOf(width.toDouble() / oldWidth, height.toDouble() / oldHeight)
        val kept = minOf(
            (oldWidth * scale).toInt().toLong() * (oldHeight * scale).toInt(), oldWidth.toLong() * oldHeight,
        )
        val waste = height.toLong() * width - kept
        if (kept > most || (kept == most && waste < least)) {
            best = height to width
            most = kept
            least = waste
        }
    }
    return best
}

/** A field of tokens (rows, columns, D) as rows of their numbers. */
private class Field(val rows: Array<FloatArray>, val width: Int)

/** The tiles' tokens as one field, the padding cut off. */
private fun laid(features: FloatArray, first: Int, layout: Layout, side: Int, tokens: Int, width: Int): Field {
    val top = (layout.rows * side - layout.keptRows) / 2
    val left = (layout.columns * side - layout.keptColumns) / 2
    val rows = Array(layout.keptRows) { FloatArray(layout.keptColumns * width) }
    for ((number, row) in rows.withIndex()) {
        val y = top + number
        for (column in 0 until layout.keptColumns) {
            val x = left + column
            val tile = first + y / side * layout.columns + x / side
            val token = tile * tokens + y % side * side + x % side
            System.arraycopy(features, token * width, row, column * width, width)
        }
    }
    return Field(rows, width)
}

private fun scaledBoth(field: Field, layout: Layout): Field {
    val down = scaled(field, layout.outRows)
    return transposed(scaled(transposed(down), layout.outColumns))
}

private fun transposed(field: Field): Field {
    val (rows, width) = field.rows to field.width
    val columns = rows[0].size / width
    return Field(
        Array(columns) { column ->
            FloatArray(rows.size * width).also { for (row in rows.indices) rows[row].copyInto(it, row * width, column * width, (column + 1) * width) }
        },
        width,
    )
}

/** Linear interpolation down the rows, as torch's interpolate without aligned corners. */
private fun scaled(field: Field, count: Int): Field {
    val old = field.rows
    if (count == old.size) return field
    val step = (old.size.toDouble() / count).toFloat()
    val rows = Array(count) { number ->
        val place = maxOf((number + 0.5f) * step - 0.5f, 0f)
        val low = place.toInt()
        val share = place - low
        val (above, below) = old[low] to old[minOf(low + 1, old.size - 1)]
        FloatArray(above.size) { above[it] * (1 - share) + below[it] * share }
    }
    return Field(rows, field.width)
}

/** Each row of tokens with a newline behind it. */
private fun lines(field: Field, count: Int, newline: FloatArray): List<FloatArray> =
    field.rows.take(count).map { it + newline }
