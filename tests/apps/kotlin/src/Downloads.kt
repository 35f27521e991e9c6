import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import edgekit.check.sha256
import edgekit.store.ModelStore
import java.io.File
import java.net.InetSocketAddress

/** A server of one model whose faults can be chosen. */
private class Server(private val files: Map<String, ByteArray>) : AutoCloseable {
    var fault = ""
    val asked = ArrayList<String>()
    private val server = HttpServer.create(InetSocketAddress("127.0.0.1", 0), 0)
    val address get() = "http://127.0.0.1:${server.address.port}/app/model.json"

    init {
        server.createContext("/") { serve(it) }
        server.start()
    }

    private fun serve(exchange: HttpExchange) {
        val name = exchange.requestURI.path.drop(1)
        val range = exchange.requestHeaders.getFirst("Range")
        asked.add(name + (range?.let { " $it" } ?: ""))
        val whole = files[name]
        val start = range?.removePrefix("bytes=")?.removeSuffix("-")?.toInt()?.takeIf { fault != "no ranges" } ?: 0
        if (whole == null || (fault == "gone" && name == "a.onnx")) {
            exchange.sendResponseHeaders(404, -1)
        } else {
            var body = whole.copyOfRange(start, whole.size)
            if (fault == "flip" && name == "a.onnx") body = body.copyOf().also { it[0] = (it[0] + 1).toByte() }
            if (fault == "longer" && name == "a.onnx") body += ByteArray(100_000)
            if (start > 0) exchange.responseHeaders.add("Content-Range", "bytes $start-${whole.size - 1}/${whole.size}")
            exchange.sendResponseHeaders(if (start > 0) 206 else 200, body.size.toLong())
            val cut = fault == "cut" && name == "a.onnx"
            exchange.responseBody.write(body, 0, if (cut) body.size / 2 else body.size)
            exchange.responseBody.flush()
        }
        exchange.close()
    }

    override fun close() = server.stop(0)
}

fun downloads(results: Results, work: File) {
    val model = ByteArray(300_000) { (it * 31).toByte() }
    val files = mapOf("a.onnx" to model, "tokenizer.json" to "{}".toByteArray())
    val entries = files.map { (name, bytes) -> """{"path": "$name", "url": "../$name", "sha256": "${sha256(bytes)}", "bytes": ${bytes.size}, "for": "model"}""" }
    val json = """{"format": 1, "name": "n", "target": "onnx", "family": "gemma3", "precision": {"common": "fp32"}, "files": $entries, "components": {},
        "preprocessing": {}, "text": {"image_token_id": 1, "eos_token_ids": [2]}, "cache": {}, "vocab_size": 3}""".toByteArray()
    val root = File(work, "store")
    Server(files + ("app/model.json" to json)).use { server ->
        fun store(free: Long = Long.MAX_VALUE) = ModelStore(root, free = { free })
        fun part() = File(root, "${sha256(json)}/a.onnx.part")
        root.deleteRecursively()
        results.refused("no space", "no space", { store(1000).fetch(server.address) })
        results.refused("another model.json", "not the file", { store().fetch(server.address, "0".repeat(64)) })
        server.fault = "gone"
        results.refused("404", "404", { store().fetch(server.address) })
        server.fault = "cut"
        results.refused("cut short", "goes on where it stopped", { store().fetch(server.address) })
        results.check("half is kept") { if (part().length() in 1..299_999) "" else "${part().length()} bytes" }
        val half = part().length()
        results.equal("not found while it is not whole", store().find(sha256(json)), null)
        server.fault = ""
        server.asked.clear()
        var told = 0L
        val bundle = store().fetch(server.address, sha256(json)) { done, _ -> told = done }
        results.equal("resumed", server.asked, listOf("app/model.json", "a.onnx bytes=$half-", "tokenizer.json"))
        results.equal("told of all bytes", told, 300_002L)
        results.equal("the same bytes", sha256(bundle.file("a.onnx")), sha256(model))
        server.asked.clear()
        store().fetch(server.address, sha256(json))
        results.equal("asks nobody the second time", server.asked, emptyList<String>())
        faults(results, server, root, json)
    }
    results.refused("no server", "Cannot download", { ModelStore(root).fetch("http://127.0.0.1:9/model.json") })
}

private fun faults(results: Results, server: Server, root: File, json: ByteArray) {
    for ((fault, word) in listOf("flip" to "not the file that was exported", "longer" to "longer than")) {
        root.deleteRecursively()
        server.fault = fault
        results.refused("fault $fault", word, { ModelStore(root).fetch(server.address) })
        results.equal("nothing left of fault $fault", File(root, "${sha256(json)}/a.onnx.part").exists(), false)
    }
    server.fault = "no ranges"
    File(root, "${sha256(json)}").mkdirs()
    File(root, "${sha256(json)}/a.onnx.part").writeBytes(ByteArray(1000))
    ModelStore(root).fetch(server.address)
    results.equal("a server without ranges starts anew", File(root, "${sha256(json)}/a.onnx").length(), 300_000L)
}
