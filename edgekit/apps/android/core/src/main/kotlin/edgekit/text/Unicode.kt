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

/** Bytes that are UTF-8, broken ones as Python's "replace" and the tokenizers library write them. */
fun decodeUtf8(bytes: ByteArray): String = String(bytes, Charsets.UTF_8)

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
