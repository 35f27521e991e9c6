package edgekit.check

import edgekit.EdgekitException
import edgekit.Fields
import edgekit.loop.Answer
import edgekit.loop.Chat
import edgekit.loop.Listener
import edgekit.loop.Options
import edgekit.loop.Preparing
import edgekit.loop.Session
import edgekit.loop.answer
import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.text.Part

/** Two logits as near as this may change places between two correct runtimes; an answer that parts there is no failure. */
const val NEAR = 0.02

/** What was compared, whether it is right, and what differs. */
class Check(val name: String, val passed: Boolean, val detail: String = "")

class Report(val checks: List<Check>) {
    val failed: List<Check> get() = checks.filter { !it.passed }
    val passed: Boolean get() = failed.isEmpty() && checks.isNotEmpty()

    /** One line, as edgekit's reports take it: "passed: " or "FAILED: " first. */
    val summary: String get() =
        if (passed) "passed: ${checks.size} checks"
        else "FAILED: ${failed.size} of ${checks.size} checks, ${failed.firstOrNull()?.name}"
}

/** What differs; `near` where the answer parted at a near tie. */
private class Difference(val what: String, val near: Boolean = false)

/** Compares what this device makes of a bundle's golden vectors with what the bundle was seen to make of them. */
class SelfTest(
    private val session: Session,
    private val preparing: Preparing,
    private val golden: Golden,
    private val decoder: PictureDecoder,
    private val onProgress: (Int, Int) -> Unit = { _, _ -> },
) {
    private val single = golden.answers?.objectsOrEmpty("single").orEmpty()
    private val chat = golden.answers?.objectsOrEmpty("chat").orEmpty()
    private val most = golden.answers?.whole("max_new_tokens") ?: 0
    private val all = golden.pictures.size + golden.conversations.size + single.size + 2
    private val checks = ArrayList<Check>()

    fun run(): Report {
        for (entry in golden.pictures) checked("picture ${entry.text("name")}") { picture(entry) }
        checked("strings") { strings() }
        golden.conversations.forEachIndexed { number, entry -> checked("prompt $number") { prompt(entry) } }
        single.forEachIndexed { number, entry -> compared("answer $number") { answered(entry) } }
        if (chat.isNotEmpty()) compared("chat") { conversation() }
        return Report(checks)
    }

    /** @param compare What differs; "" for nothing. */
    private fun checked(name: String, compare: () -> String) =
        compared(name) { compare().let { if (it.isEmpty()) null else Difference(it) } }

    private fun compared(name: String, compare: () -> Difference?) {
        val found = try {
            compare()
        } catch (error: EdgekitException) {
            Difference(error.what)
        }
        checks.add(Check(name, found == null || found.near, found?.what.orEmpty()))
        onProgress(checks.size, all)
    }

    private fun picture(entry: Fields): String {
        val decoded = golden.decoded(entry, decoder)
        if (decoded.width != entry.whole("width") || decoded.height != entry.whole("height")) {
            return "decoded as ${decoded.width} x ${decoded.height}"
        }
        if (sha256(decoded.rgb) != entry.text("rgb_sha256")) return "decoded to other pixels"
        val wanted = entry.fields("pixels")
        val pixels = refusable(wanted) { preparing.look(decoded) } ?: return ""
        if (!pixels.grid.contentEquals(wanted.wholes("grid"))) return "grid ${pixels.grid.toList()}"
        if (sha256(pixels.values.values) == wanted.text("sha256")) return ""
        return differing(pixels, wanted)
    }

    /** What a bundle refused must be refused here too; null where it was. */
    private fun <T> refusable(wanted: Fields, make: () -> T): T? {
        if ("refused" !in wanted) return make()
        try {
            make()
        } catch (_: EdgekitException) {
            return null
        }
        throw EdgekitException("It was refused (${wanted.text("refused")}), and is not here.")
    }

    private fun differing(pixels: Pixels, wanted: Fields): String {
        for (sample in wanted.list("samples")) {
            val (place, value) = (sample as List<*>).map { (it as Number).toDouble() }
            val found = pixels.values.values.getOrNull(place.toInt())
            if (found != value.toFloat()) return "value ${place.toInt()} is $found, not ${value.toFloat()}"
        }
        return "other values than ${wanted.text("sha256").take(12)}"
    }

    private fun strings(): String {
        for (entry in golden.strings) {
            val text = entry.text("text")
            val wanted = unrolledIds(entry.list("ids"))
            val ids = preparing.tokenizer.encode(text).asList()
            if (ids != wanted) return "'${text.take(40)}' gives ${ids.take(12)}, not ${wanted.take(12)}"
            val decoded = preparing.tokenizer.decode(ids)
            if (decoded != (entry.textOrNull("decoded") ?: text)) {
                return "'${text.take(40)}' comes back as '${decoded.take(40)}'"
            }
        }
        return ""
    }

    private fun pictures(names: List<String>): List<Picture> = names.map { golden.picture(it, decoder) }

    private fun prompt(entry: Fields): String {
        val asked = conversation(entry.objects("messages"))
        val pixels = pictures(entry.texts("pictures")).map { preparing.look(it) }
        val rendered = refusable(entry) { preparing.render(asked.turns, asked.system) } ?: return ""
        if (rendered != entry.text("prompt")) return "rendered as '${rendered.take(80)}'"
        val expanded = preparing.expand(rendered, pixels.map { it.grid })
        if (expanded != unrolled(entry.list("expanded")).joinToString("")) return "expanded otherwise"
        val prepared = preparing.prepare(asked.turns, asked.system, pixels)
        if (prepared.ids.asList() != unrolledIds(entry.list("ids"))) return "ids ${prepared.ids.take(12)}"
        val positions = entry.fields("positions")
        if (sha256(prepared.positions.values) != positions.text("sha256")) {
            return "positions ${prepared.positions.values.take(12)}"
        }
        return if (prepared.positions.next == positions.long("next")) "" else "next position ${prepared.positions.next}"
    }

    private fun answered(entry: Fields): Difference? {
        val question = golden.conversations[entry.whole("conversation")]
        val asked = conversation(question.objects("messages"))
        val found = answer(session, asked.turns, asked.system, pictures(question.texts("pictures")), Options(most))
        return difference(found, entry)
    }

    private fun conversation(): Difference? {
        val talk = Chat(session)
        for ((number, turn) in chat.withIndex()) {
            val shown = pictures(turn.texts("pictures"))
            val parts = shown.map { Part.Image } + Part.Text(turn.text("text"))
            val found = talk.say(parts, shown, Options(most), object : Listener {})
            val cached = found.timings.cachedTokens
            val differs = difference(found, turn.fields("answer"))
            // What follows a near tie is another conversation.
            if (differs != null) return Difference("turn $number: ${differs.what}", differs.near)
            if (cached != turn.whole("cached")) return Difference("turn $number: $cached tokens kept, not ${turn.whole("cached")}")
        }
        return null
    }

    private fun difference(found: Answer, wanted: Fields): Difference? {
        val ids = unrolledIds(wanted.list("ids"))
        if (found.ids != ids) {
            val gap = if ("gap" in wanted) wanted.number("gap") else null
            return Difference("answers ${found.ids}, not $ids (nearest two logits $gap apart)", gap != null && gap < NEAR)
        }
        if (found.text != wanted.text("text")) return Difference("answers '${found.text}', not '${wanted.text("text")}'")
        return if (found.finish.name.lowercase() == wanted.text("finish")) null else Difference("ends by ${found.finish}")
    }
}
