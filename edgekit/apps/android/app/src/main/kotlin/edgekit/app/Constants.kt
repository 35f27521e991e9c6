package edgekit.app

import android.content.Context
import edgekit.Fields
import edgekit.fieldsOf
import edgekit.parseJson

/** What `edgekit app` wrote into assets/edgekit.json. */
class Constants(file: Fields) {
    /** SHA-256 of the bundle, as edgekit's reports name it. */
    val bundleHash = file.text("bundle_sha256")

    /** Whether the bundle is downloaded; else it is inside of the app. */
    val downloads = file.flag("downloads", false)

    /** Tokens that a prompt and its answer may have together. */
    val context = file.wholeOrNull("context") ?: 4096

    companion object {
        fun read(context: Context): Constants {
            val text = context.assets.open("edgekit.json").use { it.readBytes().decodeToString() }
            return Constants(fieldsOf(parseJson(text, "edgekit.json"), "edgekit.json"))
        }
    }
}
