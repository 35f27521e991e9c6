@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.core.content

import android.content.Context
import android.net.Uri
import java.io.File

/** https://developer.android.com/reference/kotlin/androidx/core/content/FileProvider */
open class FileProvider {
    companion object {
        @JvmStatic fun getUriForFile(context: Context, authority: String, file: File): Uri = TODO()
    }
}
