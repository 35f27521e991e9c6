import edgekit.Manifest
import edgekit.fieldsOf
import edgekit.loop.Generation
import edgekit.loop.Sampling
import edgekit.loop.greedy
import edgekit.loop.shares
import edgekit.parseJson
import edgekit.pixels.Picture
import edgekit.text.Part
import edgekit.text.Prompt
import edgekit.text.TextStream
import edgekit.text.Turn
import edgekit.text.compilePattern
import edgekit.text.decodeUtf8
import edgekit.text.fillPlaces
import edgekit.text.strip
import edgekit.text.wellFormed
import java.io.File

/** What needs no bundle: values worked out by hand, and what must be refused. */
fun units(results: Results, work: File) {
    json(results)
    texts(results)
    prompts(results)
    choosing(results)
    downloads(results, work)
}

private fun json(results: Results) {
    results.equal(
        "json values",
        parseJson("""{"a": [1, -2.5e1, true, null, "\u00e9\n\ud83d\ude00"]}""", "x"),
        mapOf("a" to listOf(1L, -25.0, true, null, "é\n😀")),
    )
    for (bad in listOf(
        "",
        "{",
        "[1,]",
        "{\"a\":1,\"a\":2}",
        "01",
        "1.",
        "NaN",
        "\"\t\"",
        "\"\\x\"",
        "1 2",
        "[1",
        "1e999",
        "\"\\u12\"",
        "-",
        "[".repeat(99) + "]".repeat(99),
    )) {
        results.refused("json '${bad.take(12)}'", "not valid JSON", { parseJson(bad, "x") })
    }
    val model = """{"format": 1, "name": "n", "target": "onnx", "family": "gemma3", "precision": {"common": "fp32"}, "files":
        [{"path": "PATH", "url": "u", "sha256": "${"0".repeat(64)}", "bytes": 1, "for": "model"}], "components": {}, "preprocessing": {},
        "text": {"image_token_id": 1, "eos_token_ids": [2]}, "cache": {}, "vocab_size": 3}"""
    results.equal("model.json", Manifest.read(model.replace("PATH", "a/b.onnx")).files[0].path, "a/b.onnx")
    for (path in listOf("../x", "/x", "a/../x", "a//b", "C:x", "a\\\\b", "")) {
        results.refused("path '$path'", "inside of the bundle", { Manifest.read(model.replace("PATH", path)) })
    }
    results.refused("format 2", "format 2", { Manifest.read(model.replace("\"format\": 1", "\"format\": 2")) })
}

private fun texts(results: Results) {
    val words = mapOf(1 to "Ye", 2 to "s", 3 to ". S", 4 to "TOP here", 5 to "\ufffd", 6 to "TO")
    fun said(ids: List<Int>) = ids.joinToString("") { words.getValue(it) }.replace("\ufffd\ufffd", "é")
    fun pieces(stops: List<String>, vararg ids: Int): List<String> {
        val stream = TextStream(::said, stops)
        return ids.map { stream.push(it) } + stream.finish()
    }
    results.equal("stream", pieces(emptyList(), 1, 2), listOf("Ye", "s", ""))
    results.equal("stop string held back and cut", pieces(listOf("STOP"), 1, 3, 4), listOf("Ye", ". ", "", ""))
    results.equal("no stop string after all", pieces(listOf("STOP"), 3, 6, 1), listOf(". ", "", "STOYe", ""))
    results.equal("half a character held back", pieces(emptyList(), 1, 5, 5), listOf("Ye", "", "é", ""))
    results.equal("Python's white space", strip("\u001c\u0085\u3000a\ufeff\u2007 "), "a\ufeff")
    // As Python's bytes.decode("utf-8", "replace"): 1 stands for U+FFFD.
    for ((hex, wanted) in listOf(
        "61c3a9e28282f09f98802e" to "aé₂😀.", "eda080" to "111", "f09f98" to "1", "f08080" to "111", "c080" to "11",
        "e28241" to "1A", "f4908080" to "1111", "f5" to "1", "e2" to "1", "80ff41" to "11A", "f09f98f09f9880" to "1😀",
        "e0a0" to "1", "e080" to "11", "f48fbfbf" to "\udbff\udfff", "edbfbf" to "111", "c3c3a9" to "1é",
    )) {
        val bytes = hex.chunked(2).map { it.toInt(16).toByte() }.toByteArray()
        results.equal("utf-8 of $hex", decodeUtf8(bytes), wanted.replace('1', '\ufffd'))
    }
    results.equal("half a surrogate pair", wellFormed("a\ud83d\ud83d\ude00\ude00"), "a\ufffd😀\ufffd")
    results.equal(
        "White_Space has U+0085, not U+FEFF or U+001C",
        compilePattern("\\s").toRegex().findAll("\u0085\ufeff\u001c\u00a0").count(),
        2,
    )
    results.equal("a class of negatives", compilePattern("[^\\s\\p{L}-]+").toRegex().find("ab-12 c")?.value, "12")
    for (bad in listOf("a{2}+", "(?>a)", "^a", "\\b", "[a&&b]", "[[:alpha:]]", "\\p{Han}", "(?i:[a])", "(a")) {
        results.refused("pattern $bad", "not supported", { compilePattern(bad) })
    }
    results.equal("a possessive quantifier gives nothing back", compilePattern("a++a").toRegex().find("aaa")?.value, null)
    results.equal("fill places", fillPlaces("a<i>b<i>", "<i>", listOf("1", "2")), "a1b2")
    results.refused(
        "a literal place",
        "one image part for each of its 1",
        { fillPlaces("<i> <i>", "<i>", listOf("1")) },
    )
    // Pillow's alpha_composite over white, by hand: 100 * 128 * 128 + 255 * (32640 - 16384) + 16384 -> 178.
    results.equal(
        "transparent over white",
        Picture.fromArgb(3, 1, intArrayOf(0x00123456, -0xedcbaa, 0x64006480.toInt())).rgb.map { it.toInt() and 255 },
        over(),
    )
}

/** By the same formula in floating point, rounded: Pillow's 7 more bits make no difference to these. */
private fun over(): List<Int> = listOf(255, 255, 255, 0x12, 0x34, 0x56) + listOf(0, 0x64, 0x80).map { value ->
    Math.round(value * 100 / 255.0 + 255 * 155 / 255.0).toInt()
}

private val PIECES = """{"format": 1, "begin": {"text": "B ", "image": "B"}, "system": {"before": "S ", "after": {"text": "/ U ", "image": "/ U"},
    "trim": true}, "user": {"before": {"text": "U ", "image": "U"}, "text": {"before": "", "after": ".", "trim": false}, "after": "!"},
    "image": {"piece": "<i>", "first": true}, "assistant": {"before": "A ", "after": ";", "trim": true}, "generation": "A:", "refused": {},
    "blanks": " \n", "tokens": {"before": [7], "after": [], "unless_begins": "B", "limit": {"tokens": 2, "side": "right"}}}"""

private fun prompts(results: Results) {
    fun prompt(text: String) = Prompt(fieldsOf(parseJson(text, "prompt.json"), "prompt.json"))
    val turns = listOf(Turn(listOf(Part.Text("a"), Part.Image), " yes\n"), Turn(listOf(Part.Image, Part.Text("b"))))
    results.equal("prompt", prompt(PIECES).render(turns), "B <i>a.!A yes;U<i>b.!A:")
    results.equal("system", prompt(PIECES).render(turns.drop(1), " s\n"), "S s/ U<i>b.!A:")
    val one = PIECES.replace(Regex("\"assistant\": \\{[^}]*\\}"), "\"assistant\": null").replace(
        "\"refused\": {}", "\"refused\": {\"assistant\": \"why\"}",
    )
    results.refused("one turn only", "why", { prompt(one).render(turns) })
    results.refused("template", "odd", { prompt("""{"format": 1, "unsupported": "odd"}""") })
}

private fun choosing(results: Results) {
    results.equal("the lowest of equals", greedy(floatArrayOf(1f, 3f, 3f)), 1)
    for (bad in listOf(Float.NaN, Float.POSITIVE_INFINITY)) results.refused(
        "logits of $bad",
        "not finite",
        { greedy(floatArrayOf(0f, bad, 1f)) },
    )
    val even = shares(floatArrayOf(0f, 0f, -1e9f), Sampling(1.0)).map { it.toString() }
    results.equal("shares", even, listOf("0.5", "0.5", "0.0"))
    results.equal("top k keeps ties", shares(floatArrayOf(2f, 2f, 1f), Sampling(1.0, topK = 1)).count { it > 0 }, 2)
    results.equal("top p keeps one", shares(floatArrayOf(2f, 1f, 0f), Sampling(1.0, topP = 0.1)).count { it > 0 }, 1)
    results.refused("temperature", "temperature >= 0", { Sampling(-1.0) })
    results.equal(
        "stop strings of a model",
        Generation(fieldsOf(parseJson("""{"stop_strings": ["x", ""]}""", "g"), "g")).stops,
        listOf("x"),
    )
}
