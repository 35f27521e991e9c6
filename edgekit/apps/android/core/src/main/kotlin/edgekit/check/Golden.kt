package edgekit.check

import edgekit.Bundle
import edgekit.EdgekitException
import edgekit.Fields
import edgekit.asWhole
import edgekit.damaged
import edgekit.fieldsOf
import edgekit.parseJson
import edgekit.pixels.Picture
import edgekit.text.Part
import edgekit.text.Turn

/** Reads a picture file as the device does: upright, what is transparent over white (`Picture.fromArgb`). */
fun interface PictureDecoder {
    fun decode(bytes: ByteArray): Picture
}

/** A conversation of the golden vectors. */
class Conversation(val turns: List<Turn>, val system: String?)

/** `golden/golden.json` of a bundle: what it was seen to make of pictures, texts and questions. */
class Golden(private val bundle: Bundle) {
    private val root = fieldsOf(parseJson(bundle.text("golden/golden.json"), "golden.json"), "golden.json")

    init {
        if (root.whole("format") != 1) {
            throw EdgekitException(
                "golden.json is of format ${root.whole("format")}.", fix = "Update the app.", code = "unsupported",
            )
        }
    }

    val pictures: List<Fields> = root.objects("pictures")
    val strings: List<Fields> = root.objects("strings")
    val conversations: List<Fields> = root.objects("conversations")
    val answers: Fields? = root.fieldsOrNull("answers")

    /** The picture as raw bytes where the bundle has them, else as the device decodes its file. */
    fun picture(name: String, decoder: PictureDecoder): Picture {
        val entry = pictures.find { it.text("name") == name } ?: damaged("golden.json has no picture '$name'.")
        val raw = entry.textOrNull("raw") ?: return decoder.decode(
            bundle.file("golden/${entry.text("file")}").readBytes(),
        )
        return Picture(entry.whole("width"), entry.whole("height"), bundle.file("golden/$raw").readBytes())
    }

    /** A picture's file as the device decodes it. */
    fun decoded(entry: Fields, decoder: PictureDecoder): Picture =
        decoder.decode(bundle.file("golden/${entry.text("file")}").readBytes())
}

/** Messages as turns. */
fun conversation(messages: List<Fields>): Conversation {
    val system = messages.firstOrNull()?.takeIf { it.text("role") == "system" }?.let { texts(it) }
    val said = if (system == null) messages else messages.drop(1)
    val turns = said.filter { it.text("role") == "user" }.map { user ->
        val answer = said.getOrNull(said.indexOf(user) + 1)?.let { texts(it) }
        Turn(
            user.objects("content").map { if (it.text("type") == "image") Part.Image else Part.Text(it.text("text")) },
            answer,
        )
    }
    return Conversation(turns, system)
}

private fun texts(message: Fields): String =
    message.textOrNullSafe() ?: message.objects("content").joinToString("") { it.text("text") }

private fun Fields.textOrNullSafe(): String? = raw("content") as? String

/** Ids, or pieces of a text, where [x, n] stands for n times x. */
fun unrolled(values: List<Any?>): List<Any?> = values.flatMap { value ->
    if (value is List<*>) List(asWhole(value.getOrNull(1)) ?: damaged("golden.json: a run without its length.")) { value[0] } else listOf(value)
}

fun unrolledIds(values: List<Any?>): List<Int> =
    unrolled(values).map { asWhole(it) ?: damaged("golden.json: an id is no number.") }
