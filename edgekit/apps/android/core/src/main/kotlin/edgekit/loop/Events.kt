package edgekit.loop

/** What comes while a model answers. */
sealed interface Event {
    /** Text that is certain; the pieces joined are the answer, but for white space at both ends. */
    class Text(val piece: String) : Event

    class Token(val id: Int) : Event

    /** The last one. */
    class Done(val answer: Answer) : Event
}
