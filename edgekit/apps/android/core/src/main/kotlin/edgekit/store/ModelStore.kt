package edgekit.store

import edgekit.Bundle
import edgekit.BundleFile
import edgekit.EdgekitException
import edgekit.Manifest
import edgekit.check.digest
import edgekit.check.feed
import edgekit.check.hex
import edgekit.check.sha256
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URI

/** The most bytes that model.json may have. */
private const val MOST_MANIFEST = 8L shl 20
private const val SPARE = 32L shl 20

/** Told what was downloaded, of how many bytes; throw in it to stop, and go on later where it stopped. */
typealias OnBytes = (done: Long, all: Long) -> Unit

/**
 * Bundles on this device. Each stands in a folder of the name of its model.json's SHA-256, and has its files only when
 * their hashes were seen to be right.
 *
 * @param root Where; on Android a folder of noBackupFilesDir.
 * @param free Bytes that may be written there.
 */
class ModelStore(
    private val root: File,
    private val http: Http = PlainHttp(),
    private val free: () -> Long = { spaceOf(root) },
) {
    /**
     * A bundle that is whole here; null where it is not. Sizes are looked at, hashes were when the files came.
     *
     * @param hash Of its model.json.
     */
    fun find(hash: String): Bundle? {
        val folder = File(root, hash)
        val json = File(folder, "app/model.json")
        if (!json.isFile || sha256(json) != hash) return null
        val bundle = Bundle(folder)
        return bundle.takeIf { it.manifest.files.all { file -> File(folder, file.path).length() == file.bytes } }
    }

    /**
     * Have a bundle here, from the address of its model.json.
     *
     * @param hash SHA-256 that model.json must have; null where its address alone is trusted.
     * @throws EdgekitException No network, no space, or other files than were named.
     */
    fun fetch(url: String, hash: String? = null, onBytes: OnBytes = { _, _ -> }): Bundle {
        hash?.let { known -> find(known)?.let { return it } }
        val json = manifest(url)
        if (hash != null && sha256(json) != hash) throw wrong(url, hash, sha256(json))
        return fetch(json, url, onBytes)
    }

    /**
     * Have a bundle here: what is missing is downloaded, each file with its SHA-256, from where it stopped the last time.
     *
     * @param json model.json, of the app itself or as it was downloaded.
     * @param url What the addresses in it are relative to; "" where they are whole.
     */
    fun fetch(json: ByteArray, url: String = "", onBytes: OnBytes = { _, _ -> }): Bundle {
        val hash = sha256(json)
        find(hash)?.let { return it }
        val folder = File(root, hash)
        val manifest = Manifest.read(json.decodeToString())
        checkSpace(manifest, folder)
        val all = manifest.files.sumOf { it.bytes }
        var done = 0L
        for (file in manifest.files) {
            val address = if (url.isEmpty()) file.url else URI(url).resolve(file.url).toString()
            download(address, file, File(folder, file.path)) { onBytes(done + it, all) }
            done += file.bytes
        }
        write(File(folder, "app/model.json"), json)
        return find(hash) ?: throw EdgekitException("model.json names itself among its files.", code = "damaged")
    }

    /** Forget a bundle, and what was downloaded of it. */
    fun remove(hash: String): Boolean = File(root, hash).deleteRecursively()

    private fun checkSpace(manifest: Manifest, folder: File) {
        val missing = manifest.files.sumOf { file ->
            val here = maxOf(File(folder, file.path).length(), File(folder, "${file.path}.part").length())
            maxOf(0L, file.bytes - here)
        }
        if (missing + SPARE > free()) {
            throw EdgekitException(
                "There is no space for this model: ${missing shr 20} MB are missing, ${free() shr 20} MB are free.",
                fix = "Remove something, and try again.", code = "space",
            )
        }
    }

    private fun manifest(url: String): ByteArray = answering(url) {
        http.get(url, 0).use { response ->
            if (response.status != HttpURLConnection.HTTP_OK) throw refused(url, response.status)
            val found = response.body.readNBytesUpTo(MOST_MANIFEST + 1)
            if (found.size > MOST_MANIFEST) {
                throw EdgekitException("$url is too large to be a model.json.", code = "damaged")
            }
            found
        }
    }

    private fun download(url: String, wanted: BundleFile, file: File, onBytes: (Long) -> Unit) {
        if (file.isFile && file.length() == wanted.bytes && sha256(file) == wanted.sha256) return onBytes(wanted.bytes)
        val part = File(file.path + ".part")
        part.parentFile?.mkdirs()
        if (part.length() > wanted.bytes) part.delete()
        if (part.length() < wanted.bytes || wanted.bytes == 0L) answering(url) { append(url, part, wanted, onBytes) }
        val found = digest().also { feed(part, it) }.let { hex(it.digest()) }
        if (found != wanted.sha256) {
            part.delete()
            throw wrong(url, wanted.sha256, found)
        }
        if (!part.renameTo(file)) throw EdgekitException("Cannot write ${file.path}.", code = "space")
    }

    private fun append(url: String, part: File, wanted: BundleFile, onBytes: (Long) -> Unit) {
        http.get(url, part.length()).use { response ->
            if (response.status != HttpURLConnection.HTTP_OK && response.status != HttpURLConnection.HTTP_PARTIAL) {
                if (response.status == 416) part.delete() // the file there is another one now
                throw refused(url, response.status)
            }
            // A server without ranges, or with another idea of them, starts anew.
            val goesOn = response.start == part.length()
            if (!goesOn && response.start != 0L) throw IOException("the server answered from byte ${response.start}")
            var done = if (goesOn) part.length() else 0L
            FileOutputStream(part, goesOn).use { out ->
                val bytes = ByteArray(1 shl 16)
                while (true) {
                    val size = response.body.read(bytes)
                    if (size < 0) break
                    done += size
                    if (done > wanted.bytes) throw tooLong(url, part, wanted)
                    out.write(bytes, 0, size)
                    onBytes(done)
                }
                out.fd.sync()
            }
            if (done < wanted.bytes) throw IOException("it ended after $done of ${wanted.bytes} bytes")
        }
    }

    private fun tooLong(url: String, part: File, wanted: BundleFile): EdgekitException {
        part.delete()
        return EdgekitException("$url is longer than the ${wanted.bytes} bytes of ${wanted.path}.", code = "damaged")
    }

    private fun write(file: File, bytes: ByteArray) {
        file.parentFile?.mkdirs()
        val aside = File(file.path + ".part")
        aside.writeBytes(bytes)
        if (!aside.renameTo(file)) throw EdgekitException("Cannot write ${file.path}.", code = "space")
    }

    private fun <T> answering(url: String, work: () -> T): T = try {
        work()
    } catch (error: IOException) {
        if (free() < SPARE) {
            throw EdgekitException(
                "The device is full.", error.message ?: "", "Remove something, and try again.", "space", error,
            )
        }
        throw EdgekitException(
            "Cannot download $url.", error.message ?: "", "Try again; it goes on where it stopped.", "network", error,
        )
    }

    private fun refused(url: String, status: Int) =
        EdgekitException("$url: the server answered $status.", code = "network")

    private fun wrong(url: String, wanted: String, found: String) = EdgekitException(
        "$url is not the file that was exported.", "Its SHA-256 is ${found.take(12)}, not ${wanted.take(12)}.", "Try again; tell whoever serves it.", "damaged",
    )
}

/** A folder that is not there has no space at all. */
private fun spaceOf(folder: File): Long {
    folder.mkdirs()
    return folder.usableSpace
}

/** As InputStream.readNBytes, which Android has since 13 only. */
private fun java.io.InputStream.readNBytesUpTo(most: Long): ByteArray {
    val out = java.io.ByteArrayOutputStream()
    val bytes = ByteArray(1 shl 16)
    while (out.size() < most) {
        val size = read(bytes)
        if (size < 0) break
        out.write(bytes, 0, minOf(size.toLong(), most - out.size()).toInt())
    }
    return out.toByteArray()
}
