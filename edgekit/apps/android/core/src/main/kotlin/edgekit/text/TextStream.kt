package edgekit.text

/** What a tokenizer writes for bytes that are no whole character yet. */
private const val UNFINISHED = '\ufffd'

/**
 * Turns tokens into text piece by piece.
 *
 * A piece is held back while it ends in an unfinished character or in what may become a stop string, so that the
 * pieces joined are the answer's text and nothing ever has to be taken back.
 *
 * @param decode Tokens to text, trailing white space kept.
 * @param stops Texts that end the answer and are no part of it.
 */
class TextStream(private val decode: (List<Int>) -> String, stops: List<String> = emptyList()) {
    private val stops = stops.filter { it.isNotEmpty() }
    private val ids = ArrayList<Int>()
    private var shown = 0

    var text = ""
        private set
    var stopped = false
        private set

    /** Add a token; the text that is certain now and was not before, often empty. */
    fun push(token: Int): String {
        ids.add(token)
        text = decode(ids)
        val found = stops.map { text.indexOf(it) }.filter { it >= 0 }
        if (found.isNotEmpty()) {
            stopped = true
            text = text.substring(0, found.min())
            return upTo(text.length)
        }
        val certain = text.trimEnd(UNFINISHED)
        return upTo(certain.length - maybeStop(certain))
    }

    /** What was held back, now that no token follows. */
    fun finish(): String = upTo(text.length)

    private fun upTo(end: Int): String {
        val piece = if (end > shown) text.substring(shown, end) else ""
        shown = maxOf(shown, end)
        return piece
    }

    /** Length of the longest end of a text that a stop string begins with. */
    private fun maybeStop(text: String): Int {
        val longest = (stops.maxOfOrNull { it.length } ?: 0) - 1
        for (size in minOf(longest, text.length) downTo 1) {
            if (stops.any { it.startsWith(text.substring(text.length - size)) }) return size
        }
        return 0
    }
}
