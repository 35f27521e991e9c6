package edgekit.store

import edgekit.EdgekitException
import java.io.Closeable
import java.io.IOException
import java.io.InputStream
import java.net.HttpURLConnection
import java.net.URL

/**
 * An answer of a server.
 *
 * @property start Where in the file the body begins; 0 where the server knows no ranges.
 * @property length Bytes of the body; -1 where the server does not say.
 */
class Response(val status: Int, val start: Long, val length: Long, val body: InputStream, private val end: () -> Unit) : Closeable {
    override fun close() = end()
}

/** Asks a server for a file from a place on. */
fun interface Http {
    /** @throws IOException The server cannot be reached. */
    fun get(url: String, from: Long): Response
}

/** By the platform's own HttpURLConnection; it follows redirects, but never from https to http. */
class PlainHttp(private val timeoutMs: Int = 30_000) : Http {
    override fun get(url: String, from: Long): Response {
        val connection = URL(url).openConnection() as? HttpURLConnection
            ?: throw EdgekitException("$url is no address of a web server.", code = "network")
        connection.connectTimeout = timeoutMs
        connection.readTimeout = timeoutMs
        connection.setRequestProperty("Accept-Encoding", "identity") // a compressed body has other bytes
        if (from > 0) connection.setRequestProperty("Range", "bytes=$from-")
        val status = connection.responseCode
        val body = if (status < 400) connection.inputStream else connection.errorStream ?: ByteArray(0).inputStream()
        return Response(
            status, start(connection.getHeaderField("Content-Range"), status), connection.contentLengthLong, body,
        ) {
            body.close()
            connection.disconnect()
        }
    }

    /** "bytes 100-199/200" -> 100. */
    private fun start(range: String?, status: Int): Long {
        if (status != HttpURLConnection.HTTP_PARTIAL) return 0
        return range?.removePrefix("bytes ")?.substringBefore('-')?.trim()?.toLongOrNull()
            ?: throw IOException("status 206 without a Content-Range")
    }
}
