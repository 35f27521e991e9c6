package edgekit

/** The most levels that a document may have. */
private const val DEPTH = 64

/**
 * One JSON document: maps, lists, strings, booleans, null, Long for whole numbers and Double for others.
 *
 * Strict as RFC 8259 is: nothing behind it, no NaN, no name twice in one object.
 *
 * @param source Where it stands, for messages.
 * @throws EdgekitException It is none.
 */
fun parseJson(text: String, source: String): Any? = JsonReader(text, source).document()

private class JsonReader(private val text: String, private val source: String) {
    private var at = 0

    fun document(): Any? {
        val value = value(0)
        blanks()
        if (at < text.length) refuse("something stands behind its end")
        return value
    }

    private fun refuse(why: String): Nothing = damaged("$source is not valid JSON.", "At character $at: $why.")

    private fun blanks() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun value(depth: Int): Any? {
        if (depth > DEPTH) refuse("more than $DEPTH levels")
        blanks()
        if (at >= text.length) refuse("it ends too early")
        return when (text[at]) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        each('}') {
            if (at >= text.length || text[at] != '"') refuse("a name was expected")
            val name = string()
            blanks()
            if (at >= text.length || text[at++] != ':') refuse("a colon was expected")
            if (name in found) refuse("the name \"$name\" stands there twice")
            found[name] = value(depth + 1)
        }
        return found
    }

    private fun items(depth: Int): List<Any?> {
        val found = ArrayList<Any?>()
        each(']') { found.add(value(depth + 1)) }
        return found
    }

    /** What stands between brackets, with commas between. */
    private inline fun each(end: Char, one: () -> Unit) {
        at++
        blanks()
        if (at < text.length && text[at] == end) {
            at++
            return
        }
        while (true) {
            blanks()
            one()
            blanks()
            val next = if (at < text.length) text[at++] else refuse("it ends too early")
            if (next == end) return
            if (next != ',') refuse("a comma was expected")
        }
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) refuse("no value starts so")
        at += word.length
        return value
    }

    private fun number(): Any {
        val start = at
        if (peek('-')) at++
        if (peek('0')) at++ else digits()
        var whole = true
        if (peek('.')) {
            at++
            digits()
            whole = false
        }
        if (peek('e') || peek('E')) {
            at++
            if (peek('+') || peek('-')) at++
            digits()
            whole = false
        }
        val found = text.substring(start, at)
        if (whole) return found.toLongOrNull() ?: refuse("the number $found is too large")
        val number = found.toDouble()
        if (number.isInfinite()) refuse("the number $found is too large")
        return number
    }

    private fun peek(character: Char) = at < text.length && text[at] == character

    private fun digits() {
        val start = at
        while (at < text.length && text[at] in '0'..'9') at++
        if (at == start) refuse("a digit was expected")
    }

    private fun string(): String {
        val start = ++at
        while (at < text.length && text[at] != '"' && text[at] != '\\') plain()
        if (peek('"')) return text.substring(start, at++)
        val found = StringBuilder(text.substring(start, at))
        while (at < text.length) {
            when (text[at]) {
                '"' -> {
                    at++
                    return found.toString()
                }
                '\\' -> found.append(escape())
                else -> found.append(plain())
            }
        }
        refuse("a string has no end")
    }

    private fun plain(): Char {
        if (text[at] < ' ') refuse("a control character stands in a string")
        return text[at++]
    }

    private fun escape(): Char {
        at++
        val place = if (at < text.length) "\"\\/bfnrtu".indexOf(text[at++]) else -1
        if (place < 0) refuse("there is no such escape")
        if (place < 8) return "\"\\/\b\u000c\n\r\t"[place]
        val code = if (at + 4 <= text.length) text.substring(at, at + 4) else ""
        if (code.length < 4 || !code.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) {
            refuse("\\u without 4 digits")
        }
        at += 4
        return code.toInt(16).toChar()
    }
}
