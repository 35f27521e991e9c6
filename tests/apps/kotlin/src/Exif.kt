import java.awt.image.BufferedImage
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** A JPEG's orientation, for tests on the JVM; Android has androidx.exifinterface for it. */
object Exif {
    fun upright(bytes: ByteArray, image: BufferedImage): BufferedImage {
        val turn = orientation(bytes)
        if (turn == 1) return image
        val (width, height) = image.width to image.height
        val turned = if (turn >= 5) BufferedImage(height, width, BufferedImage.TYPE_INT_ARGB) else BufferedImage(
            width, height, BufferedImage.TYPE_INT_ARGB,
        )
        for (y in 0 until turned.height) for (x in 0 until turned.width) {
            val (fromX, fromY) = when (turn) {
                2 -> width - 1 - x to y
                3 -> width - 1 - x to height - 1 - y
                4 -> x to height - 1 - y
                5 -> y to x
                6 -> y to height - 1 - x
                7 -> width - 1 - y to height - 1 - x
                else -> width - 1 - y to x
            }
            turned.setRGB(x, y, image.getRGB(fromX, fromY))
        }
        return turned
    }

    private fun orientation(bytes: ByteArray): Int {
        var at = 2
        while (at + 10 < bytes.size && bytes[0] == 0xff.toByte() && bytes[1] == 0xd8.toByte()) {
            val marker = bytes[at + 1].toInt() and 255
            val length = ((bytes[at + 2].toInt() and 255) shl 8) or (bytes[at + 3].toInt() and 255)
            if (marker == 0xe1 && String(bytes, at + 4, 4, Charsets.ISO_8859_1) == "Exif") return tag(bytes, at + 10)
            if (marker == 0xda) break
            at += 2 + length
        }
        return 1
    }

    private fun tag(bytes: ByteArray, start: Int): Int {
        val order = if (bytes[start] == 'I'.code.toByte()) ByteOrder.LITTLE_ENDIAN else ByteOrder.BIG_ENDIAN
        val data = ByteBuffer.wrap(bytes, start, bytes.size - start).slice().order(order)
        val directory = data.getInt(4)
        for (entry in 0 until data.getShort(directory)) {
            val place = directory + 2 + 12 * entry
            if (data.getShort(place).toInt() == 0x112) return data.getShort(place + 8).toInt()
        }
        return 1
    }
}
