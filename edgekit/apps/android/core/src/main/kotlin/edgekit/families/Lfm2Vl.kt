package edgekit.families

import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import edgekit.pixels.Tensor

/**
 * LFM2-VL: patches of one view; an export cuts no tiles. A grid is (1, 1), then (rows, columns) of patches.
 */
class Lfm2Vl : Family {
    override val place = "<image>"

    override fun preprocess(picture: Picture, settings: Settings): Pixels {
        val view = fitted(picture, settings)
        val patch = settings.fields.whole("encoder_patch_size")
        val (rows, columns) = view.height / patch to view.width / patch
        val values = FloatArray(rows * columns * patch * patch * 3)
        var at = 0
        for (top in 0 until rows * patch step patch) for (left in 0 until columns * patch step patch) {
            for (row in top until top + patch) for (column in left until left + patch) for (channel in 0..2) {
                values[at++] = settings.number(channel, view.rgb[3 * (row * view.width + column) + channel])
            }
        }
        val patches = Tensor(intArrayOf(rows * columns, patch * patch * 3), values)
        return Pixels(patches, intArrayOf(1, 1, rows, columns), listOf(view))
    }

    override fun filling(grid: IntArray, settings: Settings): String {
        val factor = settings.fields.whole("downsample_factor")
        return "<|image_start|>${place.repeat(grid[2] * grid[3] / (factor * factor))}<|image_end|>"
    }
}
