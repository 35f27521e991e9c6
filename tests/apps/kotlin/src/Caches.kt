import edgekit.Bundle
import edgekit.families.Positions
import edgekit.gguf.LlamaSession
import edgekit.loop.ModuleSession
import edgekit.loop.Prepared
import edgekit.loop.Session
import edgekit.onnx.OnnxAdapter
import edgekit.text.Part
import edgekit.text.Turn
import kotlin.math.abs

private const val FIRST = 100
private const val CUT = 150
private const val ASKED = 300 // more than the first buffers hold

/** Largest gap of logits, as a share of the largest: dynamic int8 rounds all tokens of a call by one scale, so is not asked. */
private val BARS = mapOf("fp32" to 1e-3f, "fp16" to 2e-2f)

private fun session(bundle: Bundle): Session = bundle.preparing().let {
    if (bundle.manifest.target == "gguf") LlamaSession(bundle, it, 1) else ModuleSession(it, OnnxAdapter(bundle, 1))
}

/** A cache gives what one prefill gives, however it was filled: token by token beyond its first buffers, and behind a cut. */
fun caches(results: Results, bundle: Bundle) {
    val name = "${bundle.folder.name} (${bundle.manifest.family}, ${bundle.manifest.precision})"
    val bar = BARS[bundle.manifest.precision] ?: return
    val prompt = long(bundle)
    val whole = session(bundle).use { it.prefill(prompt, null) }
    session(bundle).use { session -> // another one: buffers that were once large enough would not have to grow
        var logits = session.prefill(part(prompt, FIRST), null)
        for (place in FIRST until ASKED) logits = session.step(prompt.ids[place])
        results.check("$name token by token") { apart(logits, whole, bar) }
        val kept = session.rewind(CUT)
        println("$name: $kept of $CUT tokens kept")
        if (kept == 0) return
        results.equal("$name keeps what is asked", kept, CUT)
        results.check("$name behind a cut") { apart(session.prefill(prompt.tail(CUT, 0), null), whole, bar) }
    }
}

private fun long(bundle: Bundle): Prepared {
    val text = (0 until ASKED).joinToString(" ") { "word $it" }
    return part(bundle.preparing().prepare(listOf(Turn(listOf(Part.Text(text)))), null, emptyList()), ASKED)
}

/** Its first tokens. */
private fun part(whole: Prepared, count: Int): Prepared {
    val (axes, values) = whole.positions.axes to whole.positions.values
    val own = (0 until axes).flatMap { axis -> values.slice(axis * whole.ids.size until axis * whole.ids.size + count) }
    return Prepared(whole.ids.copyOf(count), emptyList(), Positions(axes, own.toLongArray()))
}

private fun apart(found: FloatArray, wanted: FloatArray, bar: Float): String {
    val scale = maxOf(1f, wanted.maxOf { abs(it) })
    val gap = wanted.indices.maxOf { abs(found[it] - wanted[it]) } / scale
    return if (found.size == wanted.size && gap < bar) "" else "$gap apart, of at most $bar"
}
