package edgekit.loop

import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.text.Part
import edgekit.text.Turn

/** What is in a cache: its tokens, how many of them are the last prompt, and the pictures, all of them in the prompt. */
private class Held(val ids: List<Int> = emptyList(), val prompt: Int = 0, val images: Int = 0)

/**
 * A conversation of several turns over one session; the cache is kept from turn to turn.
 *
 * Each turn's prompt is the whole conversation as the model's template writes it. What of it is in the cache already
 * stays there, and only the rest is prefilled: the new turn, and the answer before it from the place on where the
 * template or the tokenizer writes it otherwise than the model did. Pictures in the cache are not encoded again.
 *
 * @param session Loaded; the chat has its cache for itself.
 * @param system What the model is told beforehand.
 */
class Chat(private val session: Session, private val system: String? = null) {
    private val past = ArrayList<Turn>()
    private val pixels = ArrayList<Pixels>()
    private var held = Held()

    /** The turns that were answered. */
    val turns: List<Turn> get() = past

    init {
        session.reset()
    }

    /** Somebody else had the session: the next turn prefills the whole conversation. */
    fun forget() {
        held = Held()
    }

    /**
     * The answer to the user's next turn. When it throws, the conversation is as it was before.
     *
     * @param pictures New ones; they stand before the text.
     */
    fun say(text: String, pictures: List<Picture> = emptyList(), options: Options = Options(), listener: Listener = object : Listener {}): Answer =
        say(pictures.map { Part.Image } + Part.Text(text), pictures, options, listener)

    /** As above, with the places of the pictures as they are given. */
    fun say(parts: List<Part>, pictures: List<Picture>, options: Options, listener: Listener): Answer {
        require(parts.count { it is Part.Image } == pictures.size) { "each picture has one place" }
        val before = held
        held = Held() // a turn that breaks off leaves a cache that cannot be trusted
        val laps = Laps()
        val seen = pixels + pictures.map { picture ->
            listener.check()
            session.look(picture)
        }
        val turn = Turn(parts)
        val whole = session.prepare(past + turn, system, seen)
        checkRoom(session, whole.ids.size, options.most)
        val start = start(session, whole, keep(whole, before), before.images, listener, laps)
        val answer = goOn(session, start, options, listener)
        // The last token was chosen, and never fed.
        held = Held(start.ids.asList() + answer.ids.dropLast(1), start.ids.size, seen.size)
        past.add(Turn(parts, answer.text))
        pixels.addAll(seen.drop(pixels.size))
        return answer
    }

    /** Rewind the cache to what it shares with a prompt; how many tokens that are. */
    private fun keep(prepared: Prepared, before: Held): Int {
        val most = minOf(before.ids.size, prepared.ids.size - 1) // at least one token is fed, or there would be no logits
        var shared = (0 until most).firstOrNull { before.ids[it] != prepared.ids[it] } ?: most
        // Pictures are kept whole and all, or the conversation is prefilled anew. An image token in an answer is none.
        val cut = shared < before.prompt && session.imageToken in before.ids.subList(shared, before.prompt)
        if (before.images > 0 && (cut || prepared.pixels.size < before.images)) shared = 0
        if (shared > 0 && session.rewind(shared) == shared) return shared
        session.reset()
        return 0
    }
}
