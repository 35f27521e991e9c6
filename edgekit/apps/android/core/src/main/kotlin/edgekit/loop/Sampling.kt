package edgekit.loop

import edgekit.EdgekitException
import kotlin.math.exp
import kotlin.random.Random

/**
 * How tokens are chosen: steps, order and definitions are those of transformers and of edgekit/runtimes/sampling.py.
 * Draws are Kotlin's, so a seed gives other tokens than the same seed in Python.
 *
 * @property temperature 0 is greedy.
 * @property topP Keep the smallest set of tokens that holds this share, in (0, 1].
 * @property topK Keep so many tokens, and those as likely as the last of them; 0 for all.
 * @property seed Of the draws; null for another each time.
 */
class Sampling(val temperature: Double = 0.0, val topP: Double = 1.0, val topK: Int = 0, val seed: Long? = null) {
    init {
        val whole = temperature.isFinite() && topP.isFinite()
        if (!whole || temperature < 0 || topP <= 0 || topP > 1 || topK < 0) {
            throw EdgekitException("Sampling needs temperature >= 0, topP in (0, 1] and topK >= 0.")
        }
    }

    val isGreedy: Boolean get() = temperature == 0.0
}

/**
 * Chooses tokens one after the other.
 *
 * @param rules A model's own settings, which change the logits first.
 * @param tokens Those that may be drawn; rows of a padded output head beyond them never are.
 */
class Chooser(private val sampling: Sampling, private val rules: Rules, private val tokens: Int) {
    private val random = sampling.seed?.let { Random(it) } ?: Random.Default

    /** The next token, from logits (V,) and all tokens before, prompt and answer. */
    fun choose(logits: FloatArray, ids: List<Int>): Int {
        val best = greedy(logits) // refuses those that are no numbers, as the model gave them
        if (sampling.isGreedy && rules.isEmpty) return best
        val changed = rules.apply(logits, ids)
        if (sampling.isGreedy) return changed.indices.maxByOrNull { changed[it] } ?: best
        greedy(changed)
        return drawn(shares(changed.copyOf(minOf(tokens, changed.size)), sampling))
    }

    private fun drawn(chances: DoubleArray): Int {
        var left = random.nextDouble()
        for (token in chances.indices) {
            left -= chances[token]
            if (left < 0 && chances[token] > 0) return token
        }
        return chances.indexOfLast { it > 0 } // rounding left a little over
    }
}

/**
 * The most likely token; the lowest id among equals.
 *
 * @throws EdgekitException A logit is NaN or infinite, so no token is the most likely.
 */
fun greedy(logits: FloatArray): Int {
    var best = 0
    for (token in logits.indices) {
        if (logits[token].isNaN()) throw notFinite()
        if (logits[token] > logits[best]) best = token
    }
    if (!logits[best].isFinite()) throw notFinite()
    return best
}

private fun notFinite() = EdgekitException(
    "The model's logits are not finite.",
    "Its weights hold NaN, or a value left the range of its precision (float16 ends at 65,504).",
    "Run the self-test; compare the bundle with its checkpoint by edgekit verify.",
    "not_finite",
)

/** The chance of each token to be drawn; temperature above 0. */
fun shares(logits: FloatArray, sampling: Sampling): DoubleArray {
    val values = DoubleArray(logits.size) { logits[it].toDouble() / sampling.temperature }
    if (sampling.topK in 1 until values.size) {
        val least = values.sortedArray()[values.size - sampling.topK]
        for (token in values.indices) if (values[token] < least) values[token] = Double.NEGATIVE_INFINITY
    }
    val most = values.max()
    val chances = normalised(DoubleArray(values.size) { exp(values[it] - most) })
    if (sampling.topP >= 1) return chances
    // A token stays while the share of those before it is below topP, so one always stays.
    var before = 0.0
    for (token in chances.indices.sortedByDescending { chances[it] }) {
        val own = chances[token]
        if (before >= sampling.topP) chances[token] = 0.0
        before += own
    }
    return normalised(chances)
}

private fun normalised(values: DoubleArray): DoubleArray {
    val sum = values.sum()
    return DoubleArray(values.size) { values[it] / sum }
}
