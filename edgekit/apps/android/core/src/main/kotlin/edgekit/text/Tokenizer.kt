package edgekit.text

import edgekit.Fields
import edgekit.fieldsOf
import edgekit.parseJson

/**
 * tokenizer.json read and applied as the tokenizers library does: byte-level BPE, and Gemma's BPE with byte fallback.
 *
 * @param file tokenizer.json.
 * @throws edgekit.EdgekitException A tokenizer of another kind, by name.
 */
class Tokenizer(file: Fields) {
    private val model = Bpe(file.fields("model"))
    private val normalise = normaliser(file.fieldsOrNull("normalizer"))
    private val preTokenise = preTokeniser(file.fieldsOrNull("pre_tokenizer"))
    private val join = decoder(file.fieldsOrNull("decoder"))
    private val raw: AddedTokens
    private val normalised: AddedTokens
    private val special: Set<Int>
    private val texts = HashMap<Int, String>()

    /** One above the highest token; a model's output head may be padded beyond it. */
    val size: Int

    init {
        val added = file.objectsOrEmpty("added_tokens").map { AddedToken(it) }
        raw = AddedTokens(added.filter { !it.isNormalised }) { it }
        normalised = AddedTokens(added.filter { it.isNormalised }, normalise)
        special = added.filter { it.isSpecial }.map { it.id }.toSet()
        for ((token, id) in model.vocabulary) texts[id] = token
        for (token in added) texts[token.id] = token.content
        size = 1 + (texts.keys.maxOrNull() ?: -1)
    }

    /** Ids of a text; tokens that are written in it are cut out as such, and none is added. */
    fun encode(text: String): IntArray {
        val ids = ArrayList<Int>()
        for (outer in raw.split(wellFormed(text))) {
            if (outer.id >= 0) {
                ids.add(outer.id)
                continue
            }
            for (span in normalised.split(normalise(outer.text))) {
                if (span.id >= 0) ids.add(span.id) else pieces(span.text, ids)
            }
        }
        return ids.toIntArray()
    }

    private fun pieces(text: String, ids: MutableList<Int>) {
        for (piece in preTokenise(listOf(text))) {
            if (piece.isNotEmpty()) for (id in model.encode(piece)) ids.add(id)
        }
    }

    /** Text of tokens, special ones left out. */
    fun decode(ids: List<Int>): String = join(ids.filter { it !in special }.mapNotNull { texts[it] })

    companion object {
        /** @param json The text of tokenizer.json. */
        fun read(json: String): Tokenizer = Tokenizer(fieldsOf(parseJson(json, "tokenizer.json"), "tokenizer.json"))
    }
}
