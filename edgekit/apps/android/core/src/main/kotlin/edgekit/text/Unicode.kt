package edgekit.text

/** Unicode's White_Space as the inside of a class: `\s` is not the same in Java, in ICU (Android), in Rust and in Python. */
const val WHITE_SPACE = "\\u0009-\\u000d\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"

/** Whether a character is of Unicode's White_Space. */
fun isWhiteSpace(character: Char): Boolean = when (character) {
    in '\u0009'..'\u000d', ' ', '\u0085', '\u00a0', '\u1680', in '\u2000'..'\u200a' -> true
    '\u2028', '\u2029', '\u202f', '\u205f', '\u3000' -> true
    else -> false
}

/** Python's str.isspace: White_Space and the four separators of ASCII. */
fun isPythonSpace(character: Char): Boolean = isWhiteSpace(character) || character in '\u001c'..'\u001f'

/** As Python's str.strip. */
fun strip(text: String): String = text.trim(::isPythonSpace)

/** As Python's str.lstrip. */
fun stripStart(text: String): String = text.trimStart(::isPythonSpace)

/** Half surrogate pairs become U+FFFD; Java's own UTF-8 writes a question mark for them. */
fun wellFormed(text: String): String {
    if (text.none { it.isSurrogate() }) return text
    val found = StringBuilder(text)
    var at = 0
    while (at < found.length) {
        val paired = found[at].isHighSurrogate() && at + 1 < found.length && found[at + 1].isLowSurrogate()
        if (paired) at++ else if (found[at].isSurrogate()) found[at] = '\ufffd'
        at++
    }
    return found.toString()
}

/**
 * Bytes that are UTF-8, broken ones as Python's "replace" and the tokenizers library write them: one U+FFFD for each
 * longest start of a character. Java's own decoder, and Android's, count otherwise.
 *
 * Source: The Unicode Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts".
 */
fun decodeUtf8(bytes: ByteArray): String {
    val out = StringBuilder(bytes.size)
    var at = 0
    while (at < bytes.size) {
        val first = bytes[at++].toInt() and 255
        val more = when (first) {
            in 0..0x7f -> 0
            in 0xc2..0xdf -> 1
            in 0xe0..0xef -> 2
            in 0xf0..0xf4 -> 3
            else -> -1
        }
        var point = if (more > 0) first and (0x3f shr more) else first
        var missing = more
        while (missing > 0 && at < bytes.size && (bytes[at].toInt() and 255) in following(first, missing == more)) {
            point = point shl 6 or (bytes[at++].toInt() and 0x3f)
            missing--
        }
        out.appendCodePoint(if (missing == 0) point else 0xfffd)
    }
    return out.toString()
}

/** The bytes that may stand behind the first of a character: not those of longer spellings, surrogates, and beyond Unicode. */
private fun following(first: Int, second: Boolean): IntRange = when {
    second && first == 0xe0 -> 0xa0..0xbf
    second && first == 0xed -> 0x80..0x9f
    second && first == 0xf0 -> 0x90..0xbf
    second && first == 0xf4 -> 0x80..0x8f
    else -> 0x80..0xbf
}

/** Each code point of a text. */
fun codePoints(text: String): IntArray {
    val found = IntArray(text.codePointCount(0, text.length))
    var at = 0
    for (place in found.indices) {
        found[place] = text.codePointAt(at)
        at += Character.charCount(found[place])
    }
    return found
}
