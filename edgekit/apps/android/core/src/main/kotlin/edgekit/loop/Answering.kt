package edgekit.loop

import edgekit.EdgekitException
import edgekit.pixels.Picture
import edgekit.text.TextStream
import edgekit.text.Turn
import edgekit.text.strip

/** What ended an answer: an end token, a stop string, or the limit. */
enum class Finish { EOS, STOP, LENGTH }

/** Milliseconds of one answer. */
class Timings {
    var preprocess = 0.0
    var encode = 0.0
    var prefill = 0.0

    /** Choosing the first token from the prompt's logits. */
    var firstToken = 0.0

    /** Each later token: one decode step and its choice. */
    val between = ArrayList<Double>()

    /** Tokens that were prefilled, and those that were in the cache before. */
    var promptTokens = 0
    var cachedTokens = 0

    /** From the picture and the words to the first token. */
    val toFirstToken get() = preprocess + encode + prefill + firstToken
}

/**
 * One answer.
 *
 * @property text Without special tokens.
 * @property ids The end token included, when it came.
 */
class Answer(val text: String, val ids: List<Int>, val timings: Timings, val finish: Finish)

/**
 * How to answer.
 *
 * @property most Longest answer, tokens.
 * @property stops Texts that end the answer and are no part of it.
 * @property generation A model's own settings; plain greedy decoding by default.
 */
class Options(
    val most: Int = 128,
    val sampling: Sampling = Sampling(),
    val stops: List<String> = emptyList(),
    val generation: Generation = Generation(null),
)

/** Told what happens while an answer is made; an exception thrown in it ends the answer, as a cancelled coroutine does. */
interface Listener {
    fun onToken(token: Int) = Unit

    fun onText(piece: String) = Unit

    /** Between two steps: where to throw when nobody waits any more. */
    fun check() = Unit
}

/** A clock that says the milliseconds since it was asked before. */
internal class Laps {
    private var last = System.nanoTime()

    fun lap(): Double {
        val now = System.nanoTime()
        return ((now - last) / 1e6).also { last = now }
    }
}

/** A prompt in the cache, and the logits that follow it. */
internal class Started(val ids: IntArray, val logits: FloatArray, val timings: Timings)

/**
 * Answer one prompt from an empty cache.
 *
 * @param turns The last one is the user's; `pictures` in the order of their places.
 */
fun answer(
    session: Session,
    turns: List<Turn>,
    system: String?,
    pictures: List<Picture>,
    options: Options,
    listener: Listener = object : Listener {},
): Answer {
    val laps = Laps()
    session.reset()
    val whole = session.prepare(turns, system, pictures.map { session.look(it) })
    checkRoom(session, whole.ids.size, options.most)
    return goOn(session, start(session, whole, 0, 0, listener, laps), options, listener)
}

/** Prefill a prompt, but for the first `kept` tokens and `images` pictures, which are in the cache. */
internal fun start(session: Session, whole: Prepared, kept: Int, images: Int, listener: Listener, laps: Laps): Started {
    val prepared = if (kept > 0) whole.tail(kept, images) else whole
    val timings = Timings()
    timings.preprocess = laps.lap()
    listener.check()
    val features = if (prepared.pixels.isEmpty()) null else session.encode(prepared.pixels)
    timings.encode = laps.lap()
    listener.check()
    val logits = session.prefill(prepared, features)
    timings.prefill = laps.lap()
    timings.promptTokens = prepared.ids.size
    timings.cachedTokens = kept
    return Started(whole.ids, logits, timings)
}

/** Refuse what the cache cannot take, before any work is done. */
internal fun checkRoom(session: Session, tokens: Int, most: Int) {
    if (tokens.toLong() + most <= session.room) return
    throw EdgekitException(
        "The prompt has $tokens tokens and its answer up to $most: more than ${session.room}.",
        "So many fit the model's memory on this device.",
        "Ask with fewer or smaller pictures, or for a shorter answer.",
        "long",
    )
}

/** The tokens that follow a prompt, until an end, a stop string or the limit. */
internal fun goOn(session: Session, start: Started, options: Options, listener: Listener): Answer {
    val rules = options.generation.rules(start.ids, options.most, session.ends)
    val chooser = Chooser(options.sampling, rules, session.tokens)
    val stream = TextStream(session::decode, options.stops + options.generation.stops)
    val ids = ArrayList<Int>(start.ids.size + options.most).apply { addAll(start.ids.asList()) }
    val tokens = ArrayList<Int>()
    val laps = Laps()
    var logits = start.logits
    while (true) {
        listener.check()
        laps.lap() // showing text is no part of a token's time
        if (tokens.isNotEmpty()) logits = session.step(tokens.last())
        val token = chooser.choose(checked(session, logits), ids)
        val spent = laps.lap()
        if (tokens.isEmpty()) start.timings.firstToken = spent else start.timings.between.add(spent)
        tokens.add(token)
        ids.add(token)
        listener.onToken(token)
        val piece = stream.push(token)
        val finish = finish(session, tokens, stream, options.most)
        val certain = if (finish == null) piece else piece + stream.finish()
        if (certain.isNotEmpty()) listener.onText(certain)
        if (finish != null) return Answer(strip(stream.text), tokens, start.timings, finish)
    }
}

private fun finish(session: Session, tokens: List<Int>, stream: TextStream, most: Int): Finish? = when {
    tokens.last() in session.ends -> Finish.EOS
    stream.stopped -> Finish.STOP
    tokens.size >= most -> Finish.LENGTH
    else -> null
}

private fun checked(session: Session, logits: FloatArray): FloatArray {
    if (logits.size < session.tokens) {
        throw EdgekitException(
            "The runtime gives ${logits.size} logits, and the model has ${session.tokens} tokens.", code = "damaged",
        )
    }
    return logits
}
