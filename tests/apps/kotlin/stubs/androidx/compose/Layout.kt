@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.compose.foundation.layout

import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.unit.Dp

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/ColumnScope */
interface ColumnScope

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/RowScope */
interface RowScope

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary#Column(androidx.compose.ui.Modifier,androidx.compose.foundation.layout.Arrangement.Vertical,androidx.compose.ui.Alignment.Horizontal,kotlin.Function1) */
@Composable
fun Column(modifier: Modifier = Modifier, content: @Composable ColumnScope.() -> Unit): Unit = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary#Row(androidx.compose.ui.Modifier,androidx.compose.foundation.layout.Arrangement.Horizontal,androidx.compose.ui.Alignment.Vertical,kotlin.Function1) */
@Composable
fun Row(modifier: Modifier = Modifier, content: @Composable RowScope.() -> Unit): Unit = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary#(androidx.compose.ui.Modifier).fillMaxSize(kotlin.Float) */
fun Modifier.fillMaxSize(fraction: Float = 1f): Modifier = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary#(androidx.compose.ui.Modifier).fillMaxWidth(kotlin.Float) */
fun Modifier.fillMaxWidth(fraction: Float = 1f): Modifier = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary#(androidx.compose.ui.Modifier).padding(androidx.compose.ui.unit.Dp) */
fun Modifier.padding(all: Dp): Modifier = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/foundation/layout/package-summary#(androidx.compose.ui.Modifier).safeDrawingPadding() */
fun Modifier.safeDrawingPadding(): Modifier = TODO()
