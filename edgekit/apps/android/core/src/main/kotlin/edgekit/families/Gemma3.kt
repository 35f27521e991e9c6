package edgekit.families

import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings

/** Gemma 3: one square for each picture, whose tokens see each other in both directions. Every grid is (1,). */
class Gemma3 : Family {
    override val place = "<start_of_image>"

    override fun preprocess(picture: Picture, settings: Settings): Pixels {
        val (width, height) = tileOf(settings)
        val view = if (settings.fields.flag("do_resize", true)) settings.resized(picture, width, height) else picture
        return Pixels(settings.tiles(listOf(view)), intArrayOf(1), listOf(view))
    }

    override fun filling(grid: IntArray, settings: Settings): String =
        "\n\n$place${"<image_soft_token>".repeat(settings.fields.whole("image_seq_len"))}<end_of_image>\n\n"

    /** Two rows: positions, and for a picture's tokens the position of its first, for each other token its own. */
    override fun positions(ids: IntArray, grids: List<IntArray>, settings: Settings): Positions {
        val token = settings.fields.whole("image_token_id")
        val blocks = LongArray(ids.size)
        for (place in ids.indices) {
            val goesOn = place > 0 && ids[place] == token && ids[place - 1] == token
            blocks[place] = if (goesOn) blocks[place - 1] else place.toLong()
        }
        return Positions(2, LongArray(ids.size) { it.toLong() } + blocks)
    }
}
