package edgekit.text

import edgekit.Fields

/** A token that is cut out of a text before anything else, as tokenizer.json has it. */
internal class AddedToken(fields: Fields) {
    val id = fields.whole("id")
    val content = fields.text("content")
    val isWord = fields.flag("single_word", false)
    val stripsLeft = fields.flag("lstrip", false)
    val stripsRight = fields.flag("rstrip", false)
    val isNormalised = fields.flag("normalized", false)
    val isSpecial = fields.flag("special", false)
}

/** A token's id, or -1 for text that none was found in. */
internal class Span(val text: String, val id: Int)

/** Finds the longest token at the leftmost place, then goes on behind it, as an Aho-Corasick automaton does. */
internal class AddedTokens(tokens: List<AddedToken>, normalise: Normalise) {
    private class Node {
        val below = HashMap<Char, Node>()
        var token: AddedToken? = null
    }

    private val root = Node()

    init {
        for (token in tokens) {
            val end = normalise(token.content).fold(root) { node, character -> node.below.getOrPut(character) { Node() } }
            if (end !== root) end.token = token
        }
    }

    fun split(text: String): List<Span> {
        val spans = ArrayList<Span>()
        var done = 0
        var at = 0
        while (at < text.length) {
            val end = longest(text, at)
            val token = end?.second
            if (token == null) {
                at++
                continue
            }
            var (start, stop) = at to end.first
            at = stop
            if (token.isWord && (wordEndsAt(text, start) || wordStartsAt(text, stop))) continue
            if (token.stripsLeft) while (start > done && isWhiteSpace(text[start - 1])) start--
            if (token.stripsRight) while (stop < text.length && isWhiteSpace(text[stop])) stop++
            if (done < start) spans.add(Span(text.substring(done, start), -1))
            spans.add(Span("", token.id))
            done = stop
        }
        if (done < text.length) spans.add(Span(text.substring(done), -1))
        return spans
    }

    private fun longest(text: String, start: Int): Pair<Int, AddedToken>? {
        var node = root
        var found: Pair<Int, AddedToken>? = null
        for (at in start until text.length) {
            node = node.below[text[at]] ?: break
            node.token?.let { found = at + 1 to it }
        }
        return found
    }
}

private fun wordEndsAt(text: String, end: Int) = end > 0 && isWordCharacter(text.codePointBefore(end))

private fun wordStartsAt(text: String, start: Int) = start < text.length && isWordCharacter(text.codePointAt(start))

/** Rust's `\w`: letters and what is alphabetic beside, marks, decimal digits, connecting punctuation, joiners. */
private fun isWordCharacter(point: Int): Boolean =
    Character.isAlphabetic(point) || point == 0x200c || point == 0x200d ||
    when (Character.getType(point).toByte()) {
        Character.NON_SPACING_MARK, Character.ENCLOSING_MARK, Character.COMBINING_SPACING_MARK -> true
        Character.DECIMAL_DIGIT_NUMBER, Character.CONNECTOR_PUNCTUATION -> true
        else -> false
    }
