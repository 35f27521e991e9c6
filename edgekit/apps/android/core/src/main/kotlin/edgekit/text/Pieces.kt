package edgekit.text

import edgekit.EdgekitException
import edgekit.Fields
import java.text.Normalizer
import java.util.regex.Pattern

private const val GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** Each byte as a character that shows: GPT-2's table. */
val BYTE_TO_CHARACTER: CharArray = run {
    var next = 256
    CharArray(256) { byte ->
        if (byte in 33..126 || byte in 161..172 || byte in 174..255) byte.toChar() else (next++).toChar()
    }
}

/** The table the other way; -1 for a character that stands for no byte. */
val CHARACTER_TO_BYTE: IntArray = IntArray(512) { -1 }.also { table ->
    BYTE_TO_CHARACTER.forEachIndexed { byte, character -> table[character.code] = byte }
}

internal typealias Normalise = (String) -> String
internal typealias PreTokenise = (List<String>) -> List<String>

/** A tokenizer of another kind than this library reads. */
internal fun unsupported(what: String): Nothing = throw EdgekitException(
    "This tokenizer is not supported: it has $what.",
    "Byte-pair encoding is read here, over bytes or with byte fallback.",
    "Run this bundle where the tokenizers library is, with edgekit run.",
    "unsupported",
)

/** @param part `normalizer` of tokenizer.json; null for none. */
internal fun normaliser(part: Fields?): Normalise {
    if (part == null) return { it }
    return when (val type = part.text("type")) {
        "NFC", "NFD", "NFKC", "NFKD" -> {
            val form = Normalizer.Form.valueOf(type);
            { Normalizer.normalize(it, form) }
        }
        "Prepend" -> {
            val prefix = part.text("prepend");
            { if (it.isEmpty()) it else prefix + it }
        }
        "Replace" -> {
            val pattern = patternOf(part.fields("pattern"))
            val content = part.text("content");
            { pattern.matcher(it).replaceAll(java.util.regex.Matcher.quoteReplacement(content)) }
        }
        "Sequence" -> {
            val steps = part.objects("normalizers").map { normaliser(it) };
            { text -> steps.fold(text) { given, step -> step(given) } }
        }
        else -> unsupported("a normaliser of type $type")
    }
}

/**
 * Splits what it is given further, each piece alone, so that a pattern's look-ahead ends with its piece.
 *
 * @param part `pre_tokenizer` of tokenizer.json; null for none.
 */
internal fun preTokeniser(part: Fields?): PreTokenise {
    if (part == null) return { it }
    return when (val type = part.text("type")) {
        "Sequence" -> {
            val steps = part.objects("pretokenizers").map { preTokeniser(it) };
            { pieces -> steps.fold(pieces) { given, step -> step(given) } }
        }
        "Digits" -> {
            val pattern = Pattern.compile(if (part.flag("individual_digits", false)) "\\p{N}" else "\\p{N}+");
            { pieces -> pieces.flatMap { cut(it, pattern, "Isolated", false) } }
        }
        "Split" -> {
            val pattern = patternOf(part.fields("pattern"))
            val behaviour = part.text("behavior")
            val inverts = part.flag("invert", false);
            { pieces -> pieces.flatMap { cut(it, pattern, behaviour, inverts) } }
        }
        "ByteLevel" -> byteLevel(part)
        else -> unsupported("a pre-tokenizer of type $type")
    }
}

private fun byteLevel(part: Fields): PreTokenise {
    val pattern = if (part.flag("use_regex", true)) compilePattern(GPT2) else null
    val prefixes = part.flag("add_prefix_space", false)
    return { pieces ->
        pieces.flatMap { piece ->
            val text = if (prefixes && !piece.startsWith(" ")) " $piece" else piece
            val parts = if (pattern == null) listOf(text) else cut(text, pattern, "Isolated", false)
            parts.map { shown(it.toByteArray()) }
        }
    }
}

private fun shown(bytes: ByteArray) = String(CharArray(bytes.size) { BYTE_TO_CHARACTER[bytes[it].toInt() and 255] })

private fun patternOf(part: Fields): Pattern = when {
    "String" in part -> literalPattern(part.text("String"))
    "Regex" in part -> compilePattern(part.text("Regex"))
    else -> unsupported("a pattern of ${part.names}")
}

/** A part of a text, and whether it is what is split at. */
private class Cut(val text: String, val matched: Boolean)

private fun cut(text: String, pattern: Pattern, behaviour: String, inverts: Boolean): List<String> {
    val found = ArrayList<Cut>()
    val matcher = pattern.matcher(text)
    var end = 0
    while (matcher.find()) {
        if (matcher.start() > end) found.add(Cut(text.substring(end, matcher.start()), inverts))
        if (matcher.end() > matcher.start()) found.add(Cut(matcher.group(), !inverts))
        end = matcher.end()
    }
    if (end < text.length) found.add(Cut(text.substring(end), inverts))
    return joined(found, behaviour)
}

/** The parts joined as `behaviour` of tokenizer.json says. */
private fun joined(found: List<Cut>, behaviour: String): List<String> = when (behaviour) {
    "Isolated" -> found.map { it.text }
    "Removed" -> found.filter { !it.matched }.map { it.text }
    "Contiguous" -> grouped(found) { last, next -> last.matched == next.matched }
    "MergedWithPrevious" -> grouped(found) { last, next -> next.matched && !last.matched }
    "MergedWithNext" -> grouped(found) { last, next -> last.matched && !next.matched }
    else -> unsupported("a split of behaviour $behaviour")
}

private fun grouped(found: List<Cut>, joins: (Cut, Cut) -> Boolean): List<String> {
    val out = ArrayList<String>()
    found.forEachIndexed { place, next ->
        if (place > 0 && joins(found[place - 1], next)) out[out.size - 1] += next.text else out.add(next.text)
    }
    return out
}
