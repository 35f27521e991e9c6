import edgekit.Fields
import edgekit.check.sha256
import edgekit.check.unrolledIds
import edgekit.fieldsOf
import edgekit.loop.Generation
import edgekit.loop.Sampling
import edgekit.loop.shares
import edgekit.parseJson
import edgekit.pixels.PassOrder
import edgekit.pixels.Picture
import edgekit.pixels.resize
import edgekit.text.Tokenizer
import java.io.File
import kotlin.math.abs

private fun read(file: File): Fields = fieldsOf(parseJson(file.readText(), file.name), file.name)

/** What Python made of many cases: tests/apps/kotlin/vectors.py writes them. */
fun vectors(results: Results, folder: File) {
    for (case in read(File(folder, "resize.json")).objects("cases")) {
        val source = Picture(case.whole("width"), case.whole("height"), File(folder, case.text("file")).readBytes())
        val (width, height) = case.wholes("to").let { it[0] to it[1] }
        val found = resize(source, width, height, case.whole("resample"), PassOrder.of(case.text("order")))
        results.equal("resize ${source.width}x${source.height} to ${width}x$height, ${case.whole("resample")} ${case.text("order")}", sha256(found.rgb), case.text("sha256"))
    }
    for (case in read(File(folder, "rules.json")).objects("cases")) rules(results, case)
    for (case in read(File(folder, "shares.json")).objects("cases")) {
        val sampling = Sampling(case.number("temperature"), case.number("top_p"), case.whole("top_k"))
        val found = shares(floats(case.list("logits")), sampling)
        val wanted = case.list("shares").map { (it as Number).toDouble() }
        results.check("shares of ${case.number("temperature")} ${case.number("top_p")} ${case.whole("top_k")}") {
            if (wanted.indices.all { abs(wanted[it] - found[it]) < 1e-12 }) "" else "${found.toList()}, not $wanted"
        }
    }
    for (tokenizer in File(folder, "tokenizers").listFiles()!!.sorted()) tokenizer(results, tokenizer)
    for (file in File(folder, "refused").listFiles()!!.sorted()) {
        results.refused("tokenizer ${file.name}", file.nameWithoutExtension, { Tokenizer.read(file.readText()) })
    }
}

/** null stands for minus infinity, which JSON has no word for. */
private fun floats(values: List<Any?>) =
    FloatArray(values.size) { (values[it] as Number?)?.toFloat() ?: Float.NEGATIVE_INFINITY }

private fun rules(results: Results, case: Fields) {
    val prompt = unrolledIds(case.list("prompt")).toIntArray()
    val rules = Generation(case.fields("generation")).rules(prompt, case.whole("limit"), case.wholes("ends").toSet())
    val found = rules.apply(floats(case.list("logits")), unrolledIds(case.list("ids")))
    results.equal(
        "rules ${case.fields("generation").names} ${case.text("name")}",
        found.toList(),
        floats(case.list("changed")).toList(),
    )
}

private fun tokenizer(results: Results, folder: File) {
    val tokenizer = Tokenizer.read(File(folder, "tokenizer.json").readText())
    for (case in read(File(folder, "strings.json")).objects("strings")) {
        val text = case.text("text")
        val ids = tokenizer.encode(text).asList()
        results.equal("${folder.name} encodes '$text'", ids, unrolledIds(case.list("ids")))
        results.equal("${folder.name} decodes '$text'", tokenizer.decode(ids), case.text("decoded"))
    }
}
