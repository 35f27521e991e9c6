package edgekit.families

import edgekit.EdgekitException
import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import edgekit.pixels.Tensor

/** Qwen2.5-VL and Qwen3-VL: flattened patches, those of one token together. A grid is (frames, rows, columns) of patches. */
class QwenVl : Family {
    override val place = "<|image_pad|>"

    override fun preprocess(picture: Picture, settings: Settings): Pixels {
        val image = fitted(picture, settings)
        val patch = settings.fields.whole("patch")
        val merge = settings.fields.whole("merge")
        val frames = settings.fields.whole("temporal_patch")
        val (rows, columns) = image.height / patch to image.width / patch
        if (image.width % (patch * merge) != 0 || image.height % (patch * merge) != 0) {
            throw EdgekitException(
                "A picture of ${image.width} x ${image.height} pixels does not divide into blocks of ${patch * merge}.",
                code = "damaged",
            )
        }
        val values = FloatArray(rows * columns * 3 * frames * patch * patch)
        var at = 0
        for (block in 0 until rows / merge) for (beside in 0 until columns / merge) {
            for (down in 0 until merge) for (across in 0 until merge) {
                at = flatten(
                    image, settings, (beside * merge + across) * patch, (block * merge + down) * patch, values, at,
                )
            }
        }
        val patches = Tensor(intArrayOf(rows * columns, values.size / (rows * columns)), values)
        return Pixels(patches, intArrayOf(1, rows, columns), listOf(image))
    }

    /** One patch at (left, top): channels, then frames that are all alike, then rows; where the next one goes. */
    private fun flatten(image: Picture, settings: Settings, left: Int, top: Int, values: FloatArray, start: Int): Int {
        val patch = settings.fields.whole("patch")
        var at = start
        for (channel in 0..2) for (frame in 0 until settings.fields.whole("temporal_patch")) {
            for (row in top until top + patch) for (column in left until left + patch) {
                values[at++] = settings.number(channel, image.rgb[3 * (row * image.width + column) + channel])
            }
        }
        return at
    }

    override fun filling(grid: IntArray, settings: Settings): String {
        val merge = settings.fields.whole("merge")
        return place.repeat(grid[0] * grid[1] * grid[2] / (merge * merge))
    }

    /**
     * M-RoPE positions: frame, row and column. A text token has the same on all three; a picture's tokens start where
     * the text before stopped, and the text after goes on behind the picture's largest position.
     *
     * Source: Qwen2-VL, arXiv:2409.12191, section 2.1; transformers' get_rope_index.
     */
    override fun positions(ids: IntArray, grids: List<IntArray>, settings: Settings): Positions {
        val found = Array(3) { LongArray(ids.size) }
        val merge = settings.fields.whole("merge")
        val token = settings.fields.whole("image_token_id")
        val images = grids.iterator()
        var place = 0
        var start = 0L
        while (place < ids.size) {
            if (ids[place] != token) {
                for (axis in found) axis[place] = start
                place++
                start++
                continue
            }
            val (frames, rows, columns) = images.next().let { Triple(it[0], it[1] / merge, it[2] / merge) }
            for (number in 0 until frames * rows * columns) {
                found[0][place] = start + number / (rows * columns)
                found[1][place] = start + number / columns % rows
                found[2][place++] = start + number % columns
            }
            start += maxOf(rows, columns)
        }
        return Positions(3, found[0] + found[1] + found[2])
    }
}
