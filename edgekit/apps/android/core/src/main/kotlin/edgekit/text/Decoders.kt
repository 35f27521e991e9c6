package edgekit.text

import edgekit.Fields
import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException

private typealias Step = (List<String>) -> List<String>

private val HEX = Regex("<0x([0-9a-fA-F]{2})>")

/** @param part `decoder` of tokenizer.json; null for none. */
internal fun decoder(part: Fields?): (List<String>) -> String {
    if (part == null) return { it.joinToString(" ") }
    val steps = (if (part.text("type") == "Sequence") part.objects("decoders") else listOf(part)).map { step(it) }
    return { tokens -> steps.fold(tokens) { given, step -> step(given) }.joinToString("") }
}

private fun step(part: Fields): Step = when (val type = part.text("type")) {
    "ByteLevel" -> { tokens -> listOf(fromBytes(tokens)) }
    "ByteFallback" -> { tokens -> fromFallback(tokens) }
    "Fuse" -> { tokens -> listOf(tokens.joinToString("")) }
    "Replace" -> {
        val old = part.fields("pattern").textOrNull("String") ?: unsupported("a decoder with a pattern")
        val new = part.text("content");
        { tokens -> tokens.map { it.replace(old, new) } }
    }
    "Strip" -> {
        val content = part.text("content").singleOrNull() ?: unsupported(
            "a decoder that strips '${part.text("content")}'",
        )
        val start = part.whole("start")
        val stop = part.whole("stop");
        { tokens -> tokens.map { stripped(it, content, start, stop) } }
    }
    else -> unsupported("a decoder of type $type")
}

private fun fromBytes(tokens: List<String>): String {
    val bytes = ByteArrayOutputStream()
    for (token in tokens) {
        val own = token.map { if (it.code < CHARACTER_TO_BYTE.size) CHARACTER_TO_BYTE[it.code] else -1 }
        // A token that no bytes made, such as an added one, stands for itself.
        if (own.any { it < 0 }) bytes.write(token.toByteArray()) else own.forEach(bytes::write)
    }
    return decodeUtf8(bytes.toByteArray())
}

/** <0xE2> and the like, one after the other, are bytes of characters. */
private fun fromFallback(tokens: List<String>): List<String> {
    val out = ArrayList<String>()
    val bytes = ByteArrayOutputStream()
    fun flush() {
        if (bytes.size() == 0) return
        val given = bytes.toByteArray()
        bytes.reset()
        try {
            out.add(Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(given)).toString())
        } catch (_: CharacterCodingException) {
            for (byte in given) out.add("\ufffd")
        }
    }
    for (token in tokens) {
        val hex = HEX.matchEntire(token)
        if (hex != null) {
            bytes.write(hex.groupValues[1].toInt(16))
        } else {
            flush()
            out.add(token)
        }
    }
    flush()
    return out
}

private fun stripped(token: String, content: Char, start: Int, stop: Int): String {
    var from = 0
    var to = token.length
    while (from < minOf(start, to) && token[from] == content) from++
    while (token.length - to < stop && to > from && token[to - 1] == content) to--
    return token.substring(from, to)
}
