package edgekit.text

import edgekit.EdgekitException
import java.util.regex.Pattern

private val CATEGORY = Regex("L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfson]?")
private val GROUP = Regex("\\?(i:|:|=|!|<=|<!)")
private val QUANTIFIER = Regex("[*+?]|\\{[0-9]+(,[0-9]*)?\\}")
private val PROPERTY = Regex("\\{(\\^?)([A-Za-z]+)\\}")
private const val SPECIAL = "\\^$.*+?()[]{}|/-&~#\""
private val CLASSES = mapOf(
    's' to WHITE_SPACE, 'd' to "\\p{Nd}", 'w' to "\\p{L}\\p{M}\\p{Nd}\\p{Pc}", 'h' to "0-9a-fA-F",
)

// What Unicode's simple folding adds to the two cases of ASCII.
private val FOLDED = mapOf('s' to "sS\\u017f", 'k' to "kK\\u212a")

/**
 * A pre-tokenizer's pattern (Oniguruma's spelling) as a pattern of java.util.regex that finds the same, on a desktop's
 * Java and on Android, whose engine is ICU's.
 *
 * Only what tokenizers are known to use is read; anything else is refused by name, since a pattern that is nearly the
 * same gives other tokens in silence.
 */
fun compilePattern(source: String): Pattern {
    val reader = PatternReader(source)
    val body = reader.alternatives()
    if (reader.at < source.length) reader.refuse("an unmatched )")
    return Pattern.compile(body)
}

/** The pattern that finds a text itself. */
fun literalPattern(text: String): Pattern = Pattern.compile(text.map(::literal).joinToString(""))

private fun literal(character: Char) = if (character in SPECIAL) "\\$character" else character.toString()

private class PatternReader(private val source: String) {
    var at = 0
    private var folds = false

    fun refuse(what: String): Nothing = throw EdgekitException(
        "The tokenizer's pattern '$source' is not supported.",
        "It holds $what, at character $at.",
        "Run this bundle where the tokenizers library is, with edgekit run.",
        "unsupported",
    )

    fun alternatives(): String {
        val out = StringBuilder()
        while (at < source.length && source[at] != ')') {
            val character = source[at++]
            if (character == '|') out.append('|') else out.append(atom(character)).append(quantifier())
        }
        return out.toString()
    }

    private fun atom(character: Char): String = when {
        character == '(' -> group()
        character == '[' -> inClass()
        character == '\\' -> escape(false)
        character == '.' -> "[^\\n]"
        character in "^$*+?{" -> refuse("$character outside of a class")
        character.isSurrogate() && folds -> refuse("a letter beyond ASCII in (?i:")
        character.isHighSurrogate() -> "" + character + source[at++] // one atom for what follows it
        else -> folded(character)
    }

    private fun folded(character: Char): String {
        if (!folds) return literal(character)
        if (character > '\u007f') refuse("a letter beyond ASCII in (?i:")
        if (!character.isLetter()) return literal(character)
        val low = character.lowercaseChar()
        return "[${FOLDED[low] ?: "$low${low.uppercaseChar()}"}]"
    }

    private fun group(): String {
        val kind = here(GROUP)
        if (kind == null && source.startsWith("?", at)) refuse("(${source.drop(at).take(3)}")
        at += kind?.length ?: 0
        val before = folds
        folds = folds || kind == "?i:"
        val body = alternatives()
        folds = before
        if (at >= source.length) refuse("a ( without its )")
        at++
        return "(${if (kind == null || kind == "?i:") "?:" else kind}$body)"
    }

    private fun inClass(): String {
        if (folds) refuse("a class in (?i:")
        val out = StringBuilder("[")
        if (source.startsWith("^", at)) out.append(source[at++])
        val first = at
        while (true) {
            if (at >= source.length) refuse("a [ without its ]")
            val character = source[at++]
            when {
                character == ']' && at > first + 1 -> return out.append(']').toString()
                character == '[' || character == ']' -> refuse("a class in a class")
                character == '&' && source.startsWith("&", at) -> refuse("&&")
                character == '\\' -> out.append(escape(true))
                // Between two characters it is a range; at an end of the class it stands for itself.
                character == '-' && at > first + 1 && at < source.length && source[at] != ']' -> out.append('-')
                else -> out.append(literal(character))
            }
        }
    }

    private fun escape(inside: Boolean): String {
        if (at >= source.length) refuse("a \\ at its end")
        val character = source[at++]
        val known = CLASSES[character.lowercaseChar()]
        return when {
            character == 'p' || character == 'P' -> property(character)
            known != null && character.isLowerCase() -> if (inside) known else "[$known]"
            known != null -> if (inside) refuse("\\$character in a class") else "[^$known]"
            character in "nrtf" -> "\\$character"
            character == 'v' -> "\\u000b" // in Java \v is more than the one character
            character == 'u' -> code(4)
            character == 'x' -> code(2)
            character.isLetterOrDigit() -> refuse("\\$character")
            else -> literal(character)
        }
    }

    private fun code(length: Int): String {
        val digits = source.drop(at).take(length)
        if (digits.length < length || !digits.all { it.digitToIntOrNull(16) != null }) {
            refuse("a code without its digits")
        }
        at += length
        return "\\u" + digits.padStart(4, '0')
    }

    private fun property(letter: Char): String {
        val text = here(PROPERTY) ?: refuse("\\$letter${source.drop(at).take(8)}")
        at += text.length
        val name = text.trim('{', '}', '^')
        if (!CATEGORY.matches(name)) refuse("\\$letter$text")
        val negative = (letter == 'P') != ('^' in text)
        return "\\${if (negative) "P" else "p"}{$name}"
    }

    private fun quantifier(): String {
        val found = here(QUANTIFIER) ?: return ""
        at += found.length
        if (at >= source.length || source[at] !in "+?") return found
        if (found.startsWith("{")) refuse("${source[at]} behind {}") // which Oniguruma does not read as Java does
        return found + source[at++]
    }

    /** What of a pattern stands at this very place. */
    private fun here(pattern: Regex): String? =
        pattern.find(source, at)?.takeIf { it.range.first == at }?.value
}
