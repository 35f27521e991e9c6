@file:Suppress("unused")

package androidx.compose.ui

/** https://developer.android.com/reference/kotlin/androidx/compose/ui/Modifier */
interface Modifier {
    companion object : Modifier
}
