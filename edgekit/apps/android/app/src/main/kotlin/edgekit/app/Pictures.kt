package edgekit.app

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ColorSpace
import android.graphics.Matrix
import android.net.Uri
import androidx.exifinterface.media.ExifInterface
import edgekit.EdgekitException
import edgekit.check.PictureDecoder
import edgekit.pixels.Picture

/** The largest file of a picture that is read into memory. */
private const val MOST_BYTES = 64 shl 20

/** A picture's file as this device decodes it: upright, in sRGB, alpha not multiplied in. */
object DevicePictures : PictureDecoder {
    override fun decode(bytes: ByteArray): Picture {
        val bitmap = bitmap(bytes)
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        return Picture.fromArgb(bitmap.width, bitmap.height, pixels)
    }

    /** The same for the screen. */
    fun bitmap(bytes: ByteArray): Bitmap {
        val options = BitmapFactory.Options()
        options.inPreferredConfig = Bitmap.Config.ARGB_8888
        options.inPremultiplied = false // or half-transparent pixels lose bits
        options.inScaled = false
        options.inPreferredColorSpace = ColorSpace.get(ColorSpace.Named.SRGB)
        val bitmap = BitmapFactory.decodeByteArray(bytes, 0, bytes.size, options)
            ?: throw EdgekitException(
                "This file is no picture that the device can read.", fix = "Choose a JPEG or PNG.",
            )
        return upright(bitmap, ExifInterface(bytes.inputStream()).getAttributeInt(
            ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL,
        ))
    }

    private fun upright(bitmap: Bitmap, orientation: Int): Bitmap {
        val matrix = Matrix()
        when (orientation) {
            ExifInterface.ORIENTATION_FLIP_HORIZONTAL -> matrix.postScale(-1f, 1f)
            ExifInterface.ORIENTATION_ROTATE_180 -> matrix.postRotate(180f)
            ExifInterface.ORIENTATION_FLIP_VERTICAL -> matrix.postScale(1f, -1f)
            ExifInterface.ORIENTATION_TRANSPOSE -> matrix.apply { postRotate(90f) }.postScale(-1f, 1f)
            ExifInterface.ORIENTATION_ROTATE_90 -> matrix.postRotate(90f)
            ExifInterface.ORIENTATION_TRANSVERSE -> matrix.apply { postRotate(-90f) }.postScale(-1f, 1f)
            ExifInterface.ORIENTATION_ROTATE_270 -> matrix.postRotate(-90f)
            else -> return bitmap
        }
        return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, matrix, false)
    }
}

/** What stands behind an address that the picture picker or the camera gave. */
fun read(resolver: ContentResolver, address: Uri): ByteArray {
    val stream = resolver.openInputStream(address) ?: throw EdgekitException(
        "The picture is gone.", fix = "Choose it again.",
    )
    return stream.use { it.readBytes() }.also {
        if (it.size > MOST_BYTES) throw EdgekitException("The picture's file is larger than ${MOST_BYTES shr 20} MB.")
    }
}
