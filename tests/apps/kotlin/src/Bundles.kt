import edgekit.Bundle
import edgekit.EdgekitException
import edgekit.VisionModel
import edgekit.check.Bench
import edgekit.check.BenchNames
import edgekit.check.DeviceState
import edgekit.check.Golden
import edgekit.check.unrolledIds
import edgekit.fieldsOf
import edgekit.gguf.LlamaSession
import edgekit.loop.Event
import edgekit.loop.Options
import edgekit.onnx.OnnxAdapter
import edgekit.parseJson
import edgekit.pixels.Picture
import edgekit.whole
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import java.io.File

private suspend fun open(bundle: Bundle): VisionModel = when (bundle.manifest.target) {
    "gguf" -> VisionModel.openSession(bundle) { LlamaSession(bundle, it, 1) }
    else -> VisionModel.open(bundle) { OnnxAdapter(it, 1) }
}

/** A bundle's own self-test, and what the library does around an answer. */
fun bundle(results: Results, bundle: Bundle) = runBlocking {
    val name = "${bundle.folder.name} (${bundle.manifest.family}, ${bundle.manifest.precision})"
    open(bundle).use { model ->
        val report = model.selfTest(decoder)
        for (check in report.checks) results.check("$name ${check.name}") { check.detail } // near ties too
        println("$name: ${report.checks.size} checks, ${report.failed.size} failed")
        around(results, name, model, Golden(bundle))
    }
}

private suspend fun around(results: Results, name: String, model: VisionModel, golden: Golden) = kotlinx.coroutines.coroutineScope {
    val entry = golden.answers?.objectsOrEmpty("single")?.firstOrNull { asks(golden, it.whole("conversation")) } ?: return@coroutineScope
    val question = golden.conversations[entry.whole("conversation")]
    val text = question.objects("messages")[0].objects("content").last().text("text")
    val shown = question.texts("pictures").map { golden.picture(it, decoder) }.firstOrNull()
    val options = Options(golden.answers!!.whole("max_new_tokens"))
    val wanted = unrolledIds(entry.list("ids"))
    val events = model.answer(text, shown, options).toList()
    val said = (events.last() as Event.Done).answer
    results.equal("$name answers by its flow", said.ids, wanted)
    results.equal(
        "$name streams the same text",
        edgekit.text.strip(events.filterIsInstance<Event.Text>().joinToString("") { it.piece }),
        said.text,
    )
    results.equal("$name tells each token", events.filterIsInstance<Event.Token>().map { it.id }, said.ids)
    model.answer(text, shown, options).first() // no longer collected: it ends
    results.equal("$name answers after one that was cancelled", model.answer(text, shown, options).whole().ids, wanted)
    val two = (1..2).map { async { model.answer(text, shown, options).whole().ids } }.awaitAll()
    results.equal("$name answers one at a time", two, listOf(wanted, wanted))
    val long = try {
        model.answer(text, shown, Options(100_000)).whole().finish.name
    } catch (error: EdgekitException) {
        error.code
    }
    results.equal("$name refuses what does not fit", long, "long")
    talks(results, name, model, text, listOfNotNull(shown), options)
}

/** Whether it is one question with at most one picture, which stands before the text. */
private fun asks(golden: Golden, number: Int): Boolean {
    val messages = golden.conversations[number].objects("messages")
    val parts = if (messages.size == 1) messages[0].objects("content") else return false
    val texts = parts.count { it.text("type") == "text" }
    return texts == 1 && parts.last().text("type") == "text" && parts.size <= 2
}

/** A chat whose cache is kept answers as one that starts anew each turn; another's answer between makes no difference. */
private suspend fun talks(
    results: Results, name: String, model: VisionModel, text: String, shown: List<Picture>, options: Options,
) {
    val chat = model.chat()
    val plain = model.chat()
    val kept = listOf(chat.say(text, shown, options).whole(), chat.say("Why?", emptyList(), options).whole())
    val anew = plain.say(text, shown, options).whole().let { first ->
        model.answer(text, null, options).whole() // takes the cache away
        listOf(first, plain.say("Why?", emptyList(), options).whole())
    }
    results.equal("$name keeps the cache", kept.map { it.ids }, anew.map { it.ids })
    results.equal("$name prefills anew where the cache is gone", anew[1].timings.cachedTokens, 0)
}

/** Whole answers to questions on pictures in raw RGB, as Python gave them; how many are equal is printed. */
fun answers(results: Results, file: File, bundles: List<Bundle>) = runBlocking {
    val questions = fieldsOf(parseJson(file.readText(), file.name), file.name)
    for (bundle in bundles) {
        val wanted = questions.fields("answers").objects(bundle.folder.name)
        var equal = 0
        open(bundle).use { model ->
            for (question in wanted) {
                val picture = Picture(
                    question.whole("width"),
                    question.whole("height"),
                    File(file.parentFile, question.text("file")).readBytes(),
                )
                val found = model.answer(question.text("text"), picture, Options(questions.whole("max_new_tokens"))).whole()
                results.equal(
                    "${bundle.folder.name} '${question.text("text")}'", found.ids, unrolledIds(question.list("ids")),
                )
                if (found.ids == unrolledIds(question.list("ids"))) equal++
            }
        }
        println("${bundle.folder.name}: $equal of ${wanted.size} answers have the same ids as Python's")
    }
}

/** The file that an app shares, for edgekit bench --import. */
fun bench(bundle: Bundle, file: File) = runBlocking {
    val started = System.nanoTime()
    open(bundle).use { model ->
        val loaded = (System.nanoTime() - started) / 1e6
        val report = model.selfTest(decoder)
        val names = BenchNames(
            "ab".repeat(32), bundle.manifest.name, "onnxruntime", bundle.manifest.target, bundle.manifest.precision, loaded,
            1, report.summary,
        )
        val state = DeviceState("JVM", System.getProperty("os.name"), "tests", "none", null, false, 12_345_678, "nobody")
        file.writeText(model.alone { session ->
            Bench(session, Golden(bundle), decoder).apply { run(2) }.phoneJson(names, state, state)
        })
    }
}
