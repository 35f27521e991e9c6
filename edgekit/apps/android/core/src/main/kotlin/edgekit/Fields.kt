package edgekit

/**
 * An object of a JSON document, whose fields are asked for by name and type.
 *
 * @property path Where it stands, for messages, such as "model.json: cache".
 */
class Fields(private val values: Map<String, Any?>, val path: String) {
    /** Whether a field is there and not null. */
    operator fun contains(name: String) = values[name] != null

    val names: Set<String> get() = values.keys

    /** The value as it is; null where there is none. */
    fun raw(name: String): Any? = values[name]

    fun text(name: String): String = textOrNull(name) ?: refuse(name, "a text")

    fun textOrNull(name: String): String? = values[name]?.let { it as? String ?: refuse(name, "a text") }

    fun whole(name: String): Int = wholeOrNull(name) ?: refuse(name, "a whole number")

    fun wholeOrNull(name: String): Int? = values[name]?.let { asWhole(it) ?: refuse(name, "a whole number") }

    fun long(name: String): Long = values[name] as? Long ?: refuse(name, "a whole number")

    fun number(name: String): Double = (values[name] as? Number)?.toDouble() ?: refuse(name, "a number")

    fun flag(name: String, default: Boolean): Boolean =
        values[name]?.let { it as? Boolean ?: refuse(name, "true or false") } ?: default

    fun list(name: String): List<Any?> = values[name] as? List<Any?> ?: refuse(name, "a list")

    fun listOrEmpty(name: String): List<Any?> = if (name in this) list(name) else emptyList()

    fun wholes(name: String): IntArray =
        list(name).map { asWhole(it) ?: refuse(name, "a list of whole numbers") }.toIntArray()

    fun texts(name: String): List<String> = list(name).map { it as? String ?: refuse(name, "a list of texts") }

    fun fields(name: String): Fields = fieldsOrNull(name) ?: refuse(name, "an object")

    fun fieldsOrNull(name: String): Fields? = values[name]?.let { fieldsOf(it, "$path: $name") }

    fun objects(name: String): List<Fields> =
        list(name).mapIndexed { place, value -> fieldsOf(value, "$path: $name[$place]") }

    fun objectsOrEmpty(name: String): List<Fields> = if (name in this) objects(name) else emptyList()

    fun refuse(name: String, wanted: String): Nothing =
        damaged("$path: $name is ${values[name].toString().take(60)}, and should be $wanted.")
}

/** A JSON value as an object. */
fun fieldsOf(value: Any?, path: String): Fields {
    if (value !is Map<*, *>) damaged("$path is no JSON object.")
    @Suppress("UNCHECKED_CAST") // a reader of JSON makes no other names
    return Fields(value as Map<String, Any?>, path)
}

/** A whole number of 32 bits; null for anything else. */
fun asWhole(value: Any?): Int? = (value as? Long)?.takeIf { it in Int.MIN_VALUE..Int.MAX_VALUE }?.toInt()
