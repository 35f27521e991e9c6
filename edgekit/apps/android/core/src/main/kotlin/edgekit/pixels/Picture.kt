package edgekit.pixels

/**
 * A picture of 8-bit RGB.
 *
 * @property rgb height * width * 3 bytes, row by row.
 */
class Picture(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        require(width > 0 && height > 0 && rgb.size.toLong() == 3L * width * height) { "$width x $height has not ${rgb.size} bytes" }
    }

    /** A part of it; what lies beyond its edges is black. */
    fun crop(left: Int, top: Int, width: Int, height: Int): Picture {
        val part = ByteArray(3 * width * height)
        val columns = minOf(width, this.width - left)
        for (row in 0 until minOf(height, this.height - top)) {
            System.arraycopy(rgb, 3 * ((top + row) * this.width + left), part, 3 * row * width, 3 * columns)
        }
        return Picture(width, height, part)
    }

    /** A larger black picture with this one in it. */
    fun onBlack(width: Int, height: Int, left: Int, top: Int): Picture {
        val canvas = ByteArray(3 * width * height)
        for (row in 0 until this.height) {
            System.arraycopy(rgb, 3 * row * this.width, canvas, 3 * ((top + row) * width + left), 3 * this.width)
        }
        return Picture(width, height, canvas)
    }

    /** Its tiles, row by row; it is of whole tiles. */
    fun tiles(width: Int, height: Int): List<Picture> {
        val corners = (0 until this.height step height).flatMap { y -> (0 until this.width step width).map { x -> x to y } }
        return corners.map { (x, y) -> crop(x, y, width, height) }
    }

    companion object {
        /**
         * A picture from pixels as Android's Bitmap.getPixels and Java's BufferedImage.getRGB give them; what is
         * transparent is laid over white.
         *
         * Source: Pillow 12, libImaging/AlphaComposite.c, for an opaque white ground.
         *
         * @param argb height * width, not premultiplied.
         */
        fun fromArgb(width: Int, height: Int, argb: IntArray): Picture {
            val rgb = ByteArray(3 * width * height)
            for (place in 0 until width * height) {
                val pixel = argb[place]
                val alpha = pixel ushr 24
                for (channel in 0..2) {
                    val value = pixel ushr (16 - 8 * channel) and 255
                    rgb[3 * place + channel] = overWhite(value, alpha).toByte()
                }
            }
            return Picture(width, height, rgb)
        }

        private fun overWhite(value: Int, alpha: Int): Int {
            if (alpha == 0) return 255
            val own = alpha shl 7 // Pillow's share of the upper picture: 7 bits beside the 8
            val sum = value * own + 255 * ((255 shl 7) - own) + (0x80 shl 7)
            return ((sum ushr 8) + sum ushr 8) ushr 7
        }
    }
}
