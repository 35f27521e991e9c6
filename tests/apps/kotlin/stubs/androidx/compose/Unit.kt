@file:Suppress("unused")

package androidx.compose.ui.unit

/** https://developer.android.com/reference/kotlin/androidx/compose/ui/unit/Dp */
@JvmInline
value class Dp(val value: Float)

/** https://developer.android.com/reference/kotlin/androidx/compose/ui/unit/package-summary#(kotlin.Int).dp() */
val Int.dp: Dp get() = TODO()
