@file:Suppress("unused")

package androidx.compose.ui.graphics

import android.graphics.Bitmap

/** https://developer.android.com/reference/kotlin/androidx/compose/ui/graphics/ImageBitmap */
interface ImageBitmap

/** https://developer.android.com/reference/kotlin/androidx/compose/ui/graphics/package-summary#(android.graphics.Bitmap).asImageBitmap() */
fun Bitmap.asImageBitmap(): ImageBitmap = TODO()
