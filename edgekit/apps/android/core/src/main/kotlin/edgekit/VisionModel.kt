package edgekit

import edgekit.check.Golden
import edgekit.check.PictureDecoder
import edgekit.check.Report
import edgekit.check.SelfTest
import edgekit.loop.Answer
import edgekit.loop.Chat
import edgekit.loop.Event
import edgekit.loop.Listener
import edgekit.loop.ModuleSession
import edgekit.loop.Options
import edgekit.loop.Preparing
import edgekit.loop.Runtime
import edgekit.loop.Session
import edgekit.pixels.Picture
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.ProducerScope
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.channelFlow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import java.io.Closeable
import java.util.concurrent.Executors

/**
 * A model that answers questions about pictures.
 *
 * Its work is done on a thread of its own, one answer at a time; a second one waits. A flow that is no longer collected
 * ends its answer between two tokens.
 *
 * @property bundle Where its files are.
 */
class VisionModel private constructor(val bundle: Bundle, private val session: Session, private val preparing: Preparing, private val thread: java.util.concurrent.ExecutorService) : Closeable {
    private val dispatcher = thread.asCoroutineDispatcher()
    private val lock = Mutex()
    private var current: Chat? = null

    @Volatile private var closed = false

    /** The answer to one question, from an empty cache. */
    fun answer(question: String, picture: Picture? = null, options: Options = Options()): Flow<Event> =
        asking(question, listOfNotNull(picture), options) { Chat(session) }

    /** A conversation that keeps what it has seen; `say` gives the flow of each answer. */
    fun chat(system: String? = null): Conversation = Conversation(system)

    inner class Conversation internal constructor(private val system: String?) {
        private var chat: Chat? = null

        /** New pictures stand before the text. When an answer breaks off, the conversation is as it was before. */
        fun say(text: String, pictures: List<Picture> = emptyList(), options: Options = Options()): Flow<Event> =
            asking(text, pictures, options) { chat ?: Chat(session, system).also { chat = it } }
    }

    private fun asking(text: String, pictures: List<Picture>, options: Options, chat: () -> Chat): Flow<Event> =
        channelFlow {
            lock.withLock {
                val own = chat()
                if (current !== own) current?.forget()
                current = own
                send(Event.Done(own.say(text, pictures, options, listener(this))))
            }
        }.buffer(Channel.UNLIMITED).flowOn(dispatcher)

    private fun listener(scope: ProducerScope<Event>) = object : Listener {
        override fun onToken(token: Int) {
            scope.trySend(Event.Token(token))
        }

        override fun onText(piece: String) {
            scope.trySend(Event.Text(piece))
        }

        override fun check() {
            scope.ensureActive()
            if (closed) throw EdgekitException("The model was closed.", code = "closed")
        }
    }

    /**
     * Whether this device answers as the bundle was proved to answer.
     *
     * @param decoder Of the device, for pictures that the bundle has as files only.
     * @param onProgress Told what was checked, and of how much.
     */
    suspend fun selfTest(decoder: PictureDecoder, onProgress: (Int, Int) -> Unit = { _, _ -> }): Report = alone {
        SelfTest(session, preparing, Golden(bundle), decoder) { done, all ->
            if (closed) throw EdgekitException("The model was closed.", code = "closed")
            onProgress(done, all)
        }.run()
    }

    /** Have the session for oneself, on the model's thread; for a bench. */
    suspend fun <T> alone(work: (Session) -> T): T = withContext(dispatcher) {
        lock.withLock {
            current?.forget()
            current = null
            work(session)
        }
    }

    /** Ends an answer that is being made, and frees the model. */
    override fun close() {
        if (closed) return
        closed = true
        thread.execute { session.close() }
        thread.shutdown()
    }

    companion object {
        /**
         * Load a bundle.
         *
         * @param open The adapter, such as `OnnxRuntime(bundle)`; called on the model's own thread.
         */
        suspend fun open(bundle: Bundle, open: (Bundle) -> Runtime): VisionModel =
            openSession(bundle) { preparing -> ModuleSession(preparing, open(bundle)) }

        /** The same for an adapter that is a whole session of its own, as llama.cpp's. */
        suspend fun openSession(bundle: Bundle, open: (Preparing) -> Session): VisionModel {
            val thread = Executors.newSingleThreadExecutor { Thread(it, "edgekit") }
            try {
                return withContext(thread.asCoroutineDispatcher()) {
                    val preparing = bundle.preparing()
                    VisionModel(bundle, open(preparing), preparing, thread)
                }
            } catch (error: Throwable) {
                thread.shutdown()
                throw error
            }
        }
    }
}

/** The answer alone, for those who want no stream. */
suspend fun Flow<Event>.whole(): Answer {
    var answer: Answer? = null
    collect { if (it is Event.Done) answer = it.answer }
    return checkNotNull(answer) { "a flow of events without its end" }
}
