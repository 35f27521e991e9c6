package edgekit.families

import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import kotlin.math.ceil

private const val MAX_EDGE = 4096

/** Idefics3 and SmolVLM: whole tiles and a view of the whole. A grid is (rows, columns) of tiles, (0, 0) without any. */
class Idefics3 : Family {
    override val place = "<image>"

    override fun preprocess(picture: Picture, settings: Settings): Pixels {
        val (parts, grid) = tiles(picture, settings)
        return Pixels(settings.tiles(parts), grid, parts)
    }

    private fun tiles(picture: Picture, settings: Settings): Pair<List<Picture>, IntArray> {
        val tile = settings.fields.whole("tile")
        var image = picture
        if (settings.fields.flag("do_resize", true)) {
            val (width, height) = if ("resized" in settings.fields) {
                settings.fields.wholes("resized").let { it[0] to it[1] }
            } else {
                longestEdge(image.width, image.height, settings.fields.whole("longest_edge"))
            }
            image = settings.resized(image, width, height)
        }
        if (!settings.fields.flag("split", true)) return listOf(settings.resized(image, tile, tile)) to intArrayOf(0, 0)
        val (width, height) = wholeTiles(image.width, image.height, tile)
        image = settings.resized(image, width, height)
        if (width <= tile && height <= tile) return listOf(image) to intArrayOf(0, 0)
        return image.tiles(tile, tile) + settings.resized(image, tile, tile) to intArrayOf(height / tile, width / tile)
    }

    override fun filling(grid: IntArray, settings: Settings): String {
        val fake = "<fake_token_around_image>"
        val slots = place.repeat(settings.fields.whole("image_seq_len"))
        val whole = "$fake<global-img>$slots$fake"
        if (grid[0] == 0) return whole
        val lines = (1..grid[0]).joinToString("") { row ->
            (1..grid[1]).joinToString("") { column -> "$fake<row_${row}_col_$column>$slots" } + "\n"
        }
        return "$lines\n$whole"
    }
}

/** (width, height) with the longer edge at `longest` and the shorter made even, never above MAX_EDGE. */
private fun longestEdge(oldWidth: Int, oldHeight: Int, longest: Int): Pair<Int, Int> {
    var width = oldWidth
    var height = oldHeight
    var ratio = width.toDouble() / height
    if (width >= height) {
        width = longest
        height = (longest / ratio).toInt().let { it + it % 2 }
    } else {
        height = longest
        width = (longest * ratio).toInt().let { it + it % 2 }
    }
    width = maxOf(width, 1)
    height = maxOf(height, 1)
    ratio = width.toDouble() / height
    if (width >= height && width > MAX_EDGE) {
        width = MAX_EDGE
        height = (MAX_EDGE / ratio).toInt()
    } else if (height > width && height > MAX_EDGE) {
        width = (MAX_EDGE * ratio).toInt()
        height = MAX_EDGE
    }
    return maxOf(width, 1) to maxOf(height, 1)
}

/** (width, height) rounded up to whole tiles, the longer edge first. */
private fun wholeTiles(width: Int, height: Int, tile: Int): Pair<Int, Int> {
    val ratio = width.toDouble() / height
    fun up(edge: Int) = ceil(edge.toDouble() / tile).toInt() * tile
    if (width >= height) {
        val wide = up(width)
        return wide to up((wide / ratio).toInt())
    }
    val tall = up(height)
    return up((tall * ratio).toInt()) to tall
}
