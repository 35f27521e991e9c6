package edgekit

/** A tensor that a component takes or gives; a size that is a name is free, and -1 here. */
class TensorSpec(val name: String, val dtype: String, val shape: IntArray)

/** One of the programs that a model is split into. */
class Component(val file: String, val inputs: List<TensorSpec>, val outputs: List<TensorSpec>)

/** A vision encoder: its component, the grid of the one picture that it takes (null for tiles, any number of them). */
class Bucket(val component: String, val grid: IntArray?)

/** A file of a bundle; `purpose` is "model", "text" or "golden". */
class BundleFile(val path: String, val url: String, val sha256: String, val bytes: Long, val purpose: String)

/**
 * `app/model.json`: all that an app must know of a bundle.
 *
 * @throws EdgekitException It is of another format, or not whole.
 */
class Manifest(private val root: Fields) {
    init {
        if (root.whole("format") != 1) {
            throw EdgekitException(
                "${root.path} is of format ${root.whole("format")}.",
                "This library reads 1.",
                "Update the app.",
                "unsupported",
            )
        }
    }

    val name = root.text("name")
    val target = root.text("target")
    val family = root.text("family")
    val precision = root.fields("precision").text("common")
    val files = root.objects("files").map { file(it) }

    /** Of the files that are needed to answer. */
    val bytes: Long = files.filter { it.purpose != "golden" }.sumOf { it.bytes }
    val components: Map<String, Component> = root.fields("components").let { all ->
        all.names.associateWith { component(all.fields(it)) }
    }
    val buckets: List<Bucket> = buckets()
    val preprocessing = root.fields("preprocessing")
    val imageToken = root.fields("text").whole("image_token_id")
    val ends: Set<Int> = root.fields("text").wholes("eos_token_ids").toSet()
    val cache = root.fields("cache")
    val vocabulary = root.whole("vocab_size")
    val positionAxes = root.wholeOrNull("position_axes") ?: 1
    val deepstack = root.wholeOrNull("deepstack") ?: 0
    val generation: Fields? = root.fieldsOrNull("generation")
    val details: Fields? = root.fieldsOrNull("details")

    /** Tokens that may be drawn: both the tokenizer and the model's output head know them. */
    val tokens = root.wholeOrNull("tokens") ?: vocabulary

    fun component(name: String): Component = components[name] ?: damaged("${root.path} has no component '$name'.")

    private fun file(fields: Fields): BundleFile {
        val path = fields.text("path")
        val parts = path.split('/')
        if (parts.any { it.isEmpty() || it == "." || it == ".." } || path.any { it < ' ' || it in "\\:\u007f" }) {
            damaged("${root.path} names a file '$path'.", "A name must lie inside of the bundle.")
        }
        val hash = fields.text("sha256")
        if (hash.length != 64 || !hash.all { it in "0123456789abcdef" }) damaged("${root.path}: $path has no SHA-256.")
        val bytes = fields.long("bytes")
        if (bytes < 0) damaged("${root.path}: $path has $bytes bytes.")
        return BundleFile(path, fields.text("url"), hash, bytes, fields.text("for"))
    }

    private fun component(fields: Fields) =
        Component(
            fields.text("file"),
            fields.objects("inputs").map { spec(it) },
            fields.objects("outputs").map { spec(it) },
        )

    private fun spec(fields: Fields) =
        TensorSpec(
            fields.text("name"), fields.text("dtype"), fields.list("shape").map { asWhole(it) ?: -1 }.toIntArray(),
        )

    private fun buckets(): List<Bucket> {
        val all = root.fieldsOrNull("buckets") ?: return listOf(Bucket("vision_encoder", null))
        val found = all.names.map { name ->
            val bucket = all.fields(name)
            Bucket(bucket.text("component"), if ("grid" in bucket) bucket.wholes("grid") else null)
        }
        return found.ifEmpty { listOf(Bucket("vision_encoder", null)) }
    }

    companion object {
        fun read(json: String): Manifest = Manifest(fieldsOf(parseJson(json, "model.json"), "model.json"))
    }
}
