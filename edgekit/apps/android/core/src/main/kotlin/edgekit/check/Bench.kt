package edgekit.check

import edgekit.loop.Answer
import edgekit.loop.Options
import edgekit.loop.Session
import edgekit.loop.answer

/**
 * What of a device goes into the file, as docs/bench.md of edgekit says it.
 *
 * @property device Model as its maker calls it.
 * @property thermal As the system names it.
 * @property memory Peak of the app, bytes.
 * @property memoryBy What told it.
 */
class DeviceState(
    val device: String,
    val os: String,
    val app: String,
    val thermal: String,
    val battery: Double?,
    val lowPower: Boolean?,
    val memory: Long?,
    val memoryBy: String = "",
)

/** Times a bundle's own golden questions. */
class Bench(private val session: Session, private val golden: Golden, private val decoder: PictureDecoder) {
    private class Run(val id: String, val answer: Answer)

    private val runs = ArrayList<Run>()

    /** @param rounds How many times each question is asked; the first round warms up and does not count. */
    fun run(rounds: Int, onProgress: (Int, Int) -> Unit = { _, _ -> }) {
        val answers = golden.answers ?: return
        val single = answers.objectsOrEmpty("single")
        for (round in 0 until rounds) for ((number, entry) in single.withIndex()) {
            onProgress(round * single.size + number, rounds * single.size)
            val question = golden.conversations[entry.whole("conversation")]
            val asked = conversation(question.objects("messages"))
            val shown = question.texts("pictures").map { golden.picture(it, decoder) }
            val found = answer(session, asked.turns, asked.system, shown, Options(answers.whole("max_new_tokens")))
            if (round > 0) runs.add(Run("golden-${entry.whole("conversation")}", found))
        }
    }

    /** Tokens in a second, by the median time between two; null where there was none. */
    val tokensPerSecond: Double?
        get() = runs.flatMap { it.answer.timings.between }.sorted().let { if (it.isEmpty()) null else 1000 / it[it.size / 2] }

    /**
     * The results as edgekit reads them: `edgekit bench --import FILE`.
     *
     * @param names What it is of.
     * @param before The device before `run`; `after`: as it is now.
     */
    fun phoneJson(names: BenchNames, before: DeviceState, after: DeviceState): String = writeJson(
        linkedMapOf(
            "format" to "edgekit-phone", "schema_version" to 2L, "bundle" to names.bundle, "name" to names.name,
            "runtime" to names.runtime, "target" to names.target, "precision" to names.precision, "device" to before.device,
            "os" to before.os, "thermal_state" to before.thermal, "thermal_state_after" to after.thermal,
            "battery_percent" to before.battery, "low_power_mode" to before.lowPower, "load_ms" to names.loadMs,
            "peak_memory_bytes" to after.memory, "memory_by" to after.memoryBy, "threads" to names.threads,
            "self_test" to names.selfTest, "app" to before.app, "runs" to runs.map { row(it) },
        ),
    )

    private fun row(run: Run): Map<String, Any?> = linkedMapOf(
        "id" to run.id, "preprocess_ms" to run.answer.timings.preprocess, "image_encode_ms" to run.answer.timings.encode,
        "prefill_ms" to run.answer.timings.prefill, "first_token_ms" to run.answer.timings.firstToken,
        "itl_ms" to run.answer.timings.between, "prompt_tokens" to run.answer.timings.promptTokens.toLong(),
        "token_ids" to run.answer.ids.map { it.toLong() },
    )
}

/**
 * What a result is of.
 *
 * @property bundle Its hash, which `edgekit app` puts into the app.
 * @property loadMs Loading the model.
 * @property selfTest `Report.summary`.
 */
class BenchNames(
    val bundle: String,
    val name: String,
    val runtime: String,
    val target: String,
    val precision: String,
    val loadMs: Double,
    val threads: Int,
    val selfTest: String,
)

/** A JSON document of maps, lists, texts, numbers, booleans and null. */
fun writeJson(value: Any?): String = when (value) {
    null, is Boolean, is Long, is Int -> value.toString()
    is Double -> if (value.isFinite()) value.toString() else "null"
    is String -> quoted(value)
    is List<*> -> value.joinToString(",", "[", "]") { writeJson(it) }
    is Map<*, *> -> value.entries.joinToString(",", "{", "}") { (name, one) -> "${quoted(name.toString())}:${writeJson(one)}" }
    else -> throw IllegalArgumentException("no JSON value: ${value.javaClass}")
}

private fun quoted(text: String): String {
    val out = StringBuilder("\"")
    for (character in text) {
        when {
            character == '"' || character == '\\' -> out.append('\\').append(character)
            character < ' ' || character.isSurrogate() -> out.append("\\u%04x".format(character.code))
            else -> out.append(character)
        }
    }
    return out.append('"').toString()
}
