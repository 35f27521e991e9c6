package edgekit.check

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** SHA-256 as edgekit writes it: 64 hexadecimal digits. */
fun sha256(bytes: ByteArray): String = hex(digest().digest(bytes))

/** Of float32 numbers, little endian. */
fun sha256(values: FloatArray): String {
    val digest = digest()
    val buffer = ByteBuffer.allocate(1 shl 16).order(ByteOrder.LITTLE_ENDIAN)
    for (value in values) {
        buffer.putFloat(value)
        if (!buffer.hasRemaining()) flush(buffer, digest)
    }
    flush(buffer, digest)
    return hex(digest.digest())
}

/** Of int64 numbers, little endian. */
fun sha256(values: LongArray): String {
    val buffer = ByteBuffer.allocate(8 * values.size).order(ByteOrder.LITTLE_ENDIAN)
    values.forEach { buffer.putLong(it) }
    return sha256(buffer.array())
}

fun sha256(file: File): String {
    val digest = digest()
    feed(file, digest)
    return hex(digest.digest())
}

internal fun feed(file: File, digest: MessageDigest) = file.inputStream().use { stream ->
    val part = ByteArray(1 shl 16)
    while (true) {
        val size = stream.read(part)
        if (size < 0) break
        digest.update(part, 0, size)
    }
}

internal fun digest(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun hex(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }

private fun flush(buffer: ByteBuffer, digest: MessageDigest) {
    digest.update(buffer.array(), 0, buffer.position())
    buffer.clear()
}
