package edgekit

/**
 * What a user or a developer can put right; anything else that is thrown is a fault of this library.
 *
 * @property what One line that names what failed, with the value.
 * @property why The reason.
 * @property fix What to do next.
 * @property code A word for programs: "damaged", "unsupported", "space", "network", "busy", "memory", "error".
 */
class EdgekitException(
    val what: String,
    val why: String = "",
    val fix: String = "",
    val code: String = "error",
    cause: Throwable? = null,
) : Exception(listOf(what, why, fix).filter { it.isNotEmpty() }.joinToString("\n  "), cause)

/** What a bundle holds is not what edgekit wrote. */
fun damaged(what: String, why: String = ""): Nothing =
    throw EdgekitException(what, why, "Copy, download or export the bundle again.", "damaged")
