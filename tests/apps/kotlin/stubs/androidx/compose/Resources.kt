@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.compose.ui.res

import androidx.compose.runtime.Composable

/** https://developer.android.com/reference/kotlin/androidx/compose/ui/res/package-summary#stringResource(kotlin.Int) */
@Composable
fun stringResource(id: Int): String = TODO()
