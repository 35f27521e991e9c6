package edgekit.loop

import edgekit.Fields
import edgekit.asWhole
import kotlin.math.abs
import kotlin.math.pow

/** Changes logits (V,) before a token is chosen of them, given all tokens before, prompt and answer. */
private typealias Rule = (FloatArray, List<Int>) -> FloatArray

/**
 * A model's own generation settings (`generation` of app/model.json), as transformers applies them to a greedy answer.
 *
 * Names and meanings are those of transformers' GenerationConfig; edgekit/checkpoint/generation.py says where each is from.
 *
 * @param given null for plain greedy decoding.
 */
class Generation(private val given: Fields?) {
    /** Texts that end an answer. */
    val stops: List<String> = when (val value = given?.raw("stop_strings")) {
        null -> emptyList()
        is String -> listOf(value)
        else -> given.texts("stop_strings")
    }.filter { it.isNotEmpty() }

    /**
     * The settings at work on one answer.
     *
     * @param prompt Its tokens, those of pictures included.
     * @param limit Longest answer.
     * @param ends Tokens that end an answer.
     */
    fun rules(prompt: IntArray, limit: Int, ends: Set<Int>): Rules = Rules(steps(prompt.toList(), limit, ends.toList()))

    /** In the order of transformers' `_get_logits_processor`. */
    private fun steps(prompt: List<Int>, limit: Int, ends: List<Int>): List<Rule> {
        if (given == null) return emptyList()
        val steps = ArrayList<Rule>()
        val size = prompt.size
        biases()?.let { all -> steps.add { logits, ids -> biased(all, logits, ids) } }
        number("encoder_repetition_penalty", 1.0).let { if (it != 1.0) steps.add { logits, _ -> penalised(logits, prompt, 1 / it) } }
        number("repetition_penalty", 1.0).let { if (it != 1.0) steps.add { logits, ids -> penalised(logits, ids, it) } }
        count("no_repeat_ngram_size").let { if (it > 0) steps.add { logits, ids -> unrepeated(it, ids, logits, ids) } }
        count("encoder_no_repeat_ngram_size").let { if (it > 0) steps.add { logits, ids -> unrepeated(it, prompt, logits, ids) } }
        val words = given.listOrEmpty("bad_words_ids").map { ids(it) }.filter { it.size > 1 || it[0] !in ends }
        if (words.isNotEmpty()) {
            steps.add { logits, ids -> biased(words.map { it to Float.NEGATIVE_INFINITY }, logits, ids) }
        }
        count("min_length").let { if (it > 0) steps.add { logits, ids -> if (ids.size < it) without(logits, ends) else logits } }
        count("min_new_tokens").let { if (it > 0) steps.add { logits, ids -> if (ids.size - size < it) without(logits, ends) else logits } }
        val first = given.wholeOrNull("forced_bos_token_id")
        if (first != null) steps.add { logits, ids -> if (ids.size == 1) only(logits, listOf(first)) else logits }
        val last = given.raw("forced_eos_token_id")?.let { ids(it) }.orEmpty()
        if (last.isNotEmpty()) steps.add { logits, ids -> if (ids.size == size + limit - 1) only(logits, last) else logits }
        if ("exponential_decay_length_penalty" in given) {
            val (start, factor) = given.list("exponential_decay_length_penalty").map { (it as Number).toDouble() }
            steps.add { logits, ids -> decayed(size + start.toInt(), factor, ends, logits, ids) }
        }
        val never = given.raw("suppress_tokens")?.let { ids(it) }.orEmpty()
        if (never.isNotEmpty()) steps.add { logits, _ -> without(logits, never) }
        val notFirst = given.raw("begin_suppress_tokens")?.let { ids(it) }.orEmpty()
        val begin = if (size > 1 || first == null) size else size + 1
        if (notFirst.isNotEmpty()) steps.add { logits, ids -> if (ids.size == begin) without(logits, notFirst) else logits }
        return steps
    }

    private fun number(name: String, default: Double) =
        if (given != null && name in given) given.number(name) else default

    private fun count(name: String) = given?.wholeOrNull(name) ?: 0

    private fun biases(): List<Pair<List<Int>, Float>>? =
        given?.raw("sequence_bias")?.let { all ->
            (all as List<*>).map { pair -> (pair as List<*>).let { ids(it[0]) to (it[1] as Number).toFloat() } }.ifEmpty { null }
        }

    private fun ids(value: Any?): List<Int> =
        (value as? List<*> ?: listOf(value)).map { asWhole(it) ?: given!!.refuse("a list of tokens", "of whole numbers") }
}

/** A model's settings at work on one answer. */
class Rules internal constructor(private val steps: List<Rule>) {
    val isEmpty: Boolean get() = steps.isEmpty()

    /** Changed logits; the given ones stay as they are. */
    fun apply(logits: FloatArray, ids: List<Int>): FloatArray = steps.fold(logits) { given, step -> step(given, ids) }
}

private fun penalised(logits: FloatArray, ids: List<Int>, penalty: Double): FloatArray {
    val changed = logits.copyOf()
    val share = penalty.toFloat()
    for (id in ids.toSet()) {
        if (id < logits.size) changed[id] = if (logits[id] < 0) logits[id] * share else logits[id] / share
    }
    return changed
}

private fun biased(biases: List<Pair<List<Int>, Float>>, logits: FloatArray, ids: List<Int>): FloatArray {
    val bias = FloatArray(logits.size)
    for ((word, value) in biases) {
        val before = word.size - 1
        if (before <= ids.size && word.last() < logits.size && ids.takeLast(before) == word.dropLast(1)) bias[word.last()] += value
    }
    return FloatArray(logits.size) { logits[it] + bias[it] }
}

/** Without the tokens that would end a run of `size` tokens that stands in `text` already. */
private fun unrepeated(size: Int, text: List<Int>, logits: FloatArray, ids: List<Int>): FloatArray {
    if (ids.size < size || text.size < size) return logits
    val last = ids.takeLast(size - 1)
    return without(
        logits,
        (0..text.size - size).filter { text.subList(it, it + size - 1) == last }.map { text[it + size - 1] },
    )
}

private fun decayed(start: Int, factor: Double, ends: List<Int>, logits: FloatArray, ids: List<Int>): FloatArray {
    if (ids.size <= start) return logits
    val changed = logits.copyOf()
    val growth = (factor.pow(ids.size - start) - 1).toFloat()
    for (end in ends) if (end < logits.size && logits[end].isFinite()) changed[end] += abs(logits[end]) * growth
    return changed
}

private fun without(logits: FloatArray, tokens: List<Int>): FloatArray {
    val changed = logits.copyOf()
    for (token in tokens) if (token < logits.size) changed[token] = Float.NEGATIVE_INFINITY
    return changed
}

private fun only(logits: FloatArray, tokens: List<Int>): FloatArray {
    val changed = FloatArray(logits.size) { Float.NEGATIVE_INFINITY }
    for (token in tokens) if (token < logits.size) changed[token] = 0f
    return changed
}
