package edgekit.families

import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import kotlin.math.abs

/** InternVL3 and 3.5: square tiles of the grid nearest to the picture's shape, then a view of the whole. A grid is (tiles,). */
class InternVl : Family {
    override val place = "<IMG_CONTEXT>"

    override fun preprocess(picture: Picture, settings: Settings): Pixels {
        val parts = tiles(picture, settings)
        return Pixels(settings.tiles(parts), intArrayOf(parts.size), parts)
    }

    private fun tiles(picture: Picture, settings: Settings): List<Picture> {
        val (width, height) = tileOf(settings)
        if (settings.fields.whole("max_tiles") <= 1) {
            return listOf(
                if (settings.fields.flag("do_resize", true)) settings.resized(picture, width, height) else picture,
            )
        }
        val (columns, rows) = canvas(picture, settings)
        val tiles = settings.resized(picture, columns * width, rows * height).tiles(width, height)
        return if (tiles.size > 1) tiles + settings.resized(picture, width, height) else tiles
    }

    override fun filling(grid: IntArray, settings: Settings): String =
        "<img>${place.repeat(settings.fields.whole("image_seq_len") * grid[0])}</img>"
}

/** (columns, rows) nearest to the picture's shape; of two as near, the larger while the picture can fill half. */
private fun canvas(picture: Picture, settings: Settings): Pair<Int, Int> {
    val (width, height) = tileOf(settings)
    val most = settings.fields.whole("max_tiles")
    val limits = settings.fields.whole("min_tiles")..most
    val shapes = (1..most).flatMap { columns -> (1..most).map { rows -> columns to rows } }
        .filter { (columns, rows) -> columns * rows in limits }.sortedBy { (columns, rows) -> columns * rows }
    val ratio = picture.width.toDouble() / picture.height
    val area = picture.width.toDouble() * picture.height
    var best = 1 to 1
    var nearest = Double.POSITIVE_INFINITY
    for ((columns, rows) in shapes) {
        val gap = abs(ratio - columns.toDouble() / rows)
        val fills = area > 0.5 * width * height * columns * rows
        if (gap < nearest || (gap == nearest && fills)) {
            best = columns to rows
            nearest = gap
        }
    }
    return best
}
