package edgekit.app

import android.content.Context
import edgekit.Bundle
import edgekit.EdgekitException
import edgekit.Manifest
import edgekit.check.sha256
import edgekit.store.ModelStore
import edgekit.store.OnBytes
import java.io.File

/** The app's model: inside of it, copied to a folder where native code can map its files, or downloaded. */
class Models(private val context: Context, private val constants: Constants) {
    // Out of backups: it can be had again, and would fill the user's.
    private val root = File(context.noBackupFilesDir, "models")
    private val store = ModelStore(root)
    private val json by lazy { context.assets.open("bundle/app/model.json").use { it.readBytes() } }

    /** The bundle, where it is here already. */
    fun find(): Bundle? = store.find(sha256(json))

    /** Have the bundle here. Blocks; told of bytes as they come. */
    fun fetch(onBytes: OnBytes): Bundle =
        if (constants.downloads) store.fetch(json, onBytes = onBytes) else find() ?: unpack(onBytes)

    private fun unpack(onBytes: OnBytes): Bundle {
        val folder = File(root, sha256(json))
        val files = Manifest.read(json.decodeToString()).files
        val all = files.sumOf { it.bytes }
        if (all > root.also { it.mkdirs() }.usableSpace) {
            throw EdgekitException("There is no space for this model: it needs ${all shr 20} MB.", code = "space")
        }
        var done = 0L
        for (file in files) {
            val target = File(folder, file.path)
            if (target.length() != file.bytes || sha256(target) != file.sha256) copy("bundle/${file.path}", target)
            if (sha256(target) != file.sha256) {
                throw EdgekitException(
                    "The app's own ${file.path} is damaged.", fix = "Install the app again.", code = "damaged",
                )
            }
            done += file.bytes
            onBytes(done, all)
        }
        copy("bundle/app/model.json", File(folder, "app/model.json"))
        return Bundle(folder)
    }

    private fun copy(asset: String, target: File) {
        target.parentFile?.mkdirs()
        val part = File(target.path + ".part")
        context.assets.open(asset).use { from -> part.outputStream().use { from.copyTo(it, 1 shl 16) } }
        if (!part.renameTo(target)) throw EdgekitException("Cannot write ${target.name}.", code = "space")
    }
}
