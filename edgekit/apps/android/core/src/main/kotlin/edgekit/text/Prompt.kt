package edgekit.text

import edgekit.EdgekitException
import edgekit.Fields

/** A part of what a user says. */
sealed interface Part {
    /** A picture's place; which picture it is says the order. */
    object Image : Part

    class Text(val text: String) : Part
}

/** One turn of the user, and the assistant's answer to it; null for the last one. */
class Turn(val parts: List<Part>, val answer: String? = null)

/** A chat template as literal pieces: `app/prompt.json`, checked against the template itself when it was written. */
class Prompt(private val file: Fields) {
    private val blanks: String
    private val image: Fields

    init {
        file.textOrNull("unsupported")?.let {
            throw EdgekitException(
                "This model's chat template is not supported in an app.", it, "Use edgekit run.", "unsupported",
            )
        }
        if (file.whole("format") != 1) {
            throw EdgekitException(
                "${file.path} is of format ${file.whole("format")}.", fix = "Update the app.", code = "unsupported",
            )
        }
        blanks = file.text("blanks")
        image = file.fields("image")
    }

    private val before = file.fieldsOrNull("tokens")?.wholes("before") ?: IntArray(0)
    private val after = file.fieldsOrNull("tokens")?.wholes("after") ?: IntArray(0)
    private val unlessBegins = file.fieldsOrNull("tokens")?.textOrNull("unless_begins")
    private val limit = file.fieldsOrNull("tokens")?.fieldsOrNull("limit")?.whole("tokens")

    /**
     * The prompt for the assistant's next turn.
     *
     * @param turns At least one; all but the last are answered.
     * @param system What the model is told beforehand; null for the template's own.
     */
    fun render(turns: List<Turn>, system: String? = null): String {
        val out = StringBuilder(opening(turns.first(), system))
        turns.forEachIndexed { place, turn ->
            if (place > 0) out.append(answered(turns[place - 1], turn))
            content(turn, out)
            out.append(file.fields("user").text("after"))
        }
        return out.append(file.text("generation")).toString()
    }

    private fun opening(turn: Turn, system: String?): String {
        if (system == null) return file.fields("begin").text(kind(turn))
        val pieces = file.fieldsOrNull("system") ?: refused("system", "takes no system text")
        return pieces.text("before") + trimmed(system, pieces) + pieces.fields("after").text(kind(turn))
    }

    private fun answered(last: Turn, next: Turn): String {
        val pieces = file.fieldsOrNull("assistant") ?: refused("assistant", "takes one turn only")
        val said = trimmed(requireNotNull(last.answer) { "a turn before the last has no answer" }, pieces)
        return pieces.text("before") + said + pieces.text("after") + file.fields("user").fields("before").text(kind(next))
    }

    private fun content(turn: Turn, out: StringBuilder) {
        val text = file.fields("user").fields("text")
        val parts = if (image.flag("first", false)) turn.parts.sortedBy { it !is Part.Image } else turn.parts
        for (part in parts) {
            when (part) {
                is Part.Image -> out.append(image.text("piece"))
                is Part.Text -> out.append(text.text("before")).append(trimmed(part.text, text)).append(text.text("after"))
            }
        }
    }

    private fun kind(turn: Turn) = if (turn.parts.first() is Part.Image) "image" else "text"

    private fun trimmed(text: String, pieces: Fields) =
        if (pieces.flag("trim", false)) text.trim { it in blanks } else text

    private fun refused(name: String, what: String): Nothing = throw EdgekitException(
        "This model's chat template $what.", file.fieldsOrNull("refused")?.textOrNull(name) ?: "", code = "unsupported",
    )

    /**
     * Ids of an expanded prompt, with what the tokenizer puts around it.
     *
     * @throws EdgekitException It is longer than the tokenizer lets a prompt be.
     */
    fun tokenise(expanded: String, tokenizer: Tokenizer): IntArray {
        val adds = unlessBegins == null || !expanded.startsWith(unlessBegins)
        val ids = tokenizer.encode(expanded).let { if (adds) before + it + after else it }
        if (limit != null && ids.size > limit) {
            throw EdgekitException(
                "The prompt has ${ids.size} tokens; this model's tokenizer takes $limit.", fix = "Ask a shorter question.", code = "long",
            )
        }
        return ids
    }
}

/**
 * A rendered prompt with each image place replaced by its picture's own filling.
 *
 * @throws EdgekitException There are more or fewer places than pictures.
 */
fun fillPlaces(text: String, place: String, fillings: List<String>): String {
    val parts = text.split(place)
    if (parts.size - 1 != fillings.size) {
        throw EdgekitException(
            "The prompt does not have one image part for each of its ${fillings.size} images.",
            "'$place' stands there ${parts.size - 1} times; a literal one in a question counts too.",
        )
    }
    return parts.indices.joinToString("") { if (it == 0) parts[0] else fillings[it - 1] + parts[it] }
}
