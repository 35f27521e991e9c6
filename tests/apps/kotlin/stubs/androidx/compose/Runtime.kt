@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.compose.runtime

import kotlin.reflect.KProperty

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/Composable */
@Target(AnnotationTarget.FUNCTION, AnnotationTarget.TYPE, AnnotationTarget.TYPE_PARAMETER, AnnotationTarget.PROPERTY_GETTER)
annotation class Composable

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/MutableState */
interface MutableState<T> {
    var value: T
}

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/MutableIntState */
interface MutableIntState : MutableState<Int>

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/package-summary#mutableStateOf(kotlin.Any,androidx.compose.runtime.SnapshotMutationPolicy) */
fun <T> mutableStateOf(value: T): MutableState<T> = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/package-summary#mutableIntStateOf(kotlin.Int) */
fun mutableIntStateOf(value: Int): MutableIntState = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/package-summary#remember(kotlin.Function0) */
@Composable
fun <T> remember(calculation: () -> T): T = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/package-summary#(androidx.compose.runtime.State).getValue(kotlin.Any,kotlin.reflect.KProperty) */
operator fun <T> MutableState<T>.getValue(thisObj: Any?, property: KProperty<*>): T = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/package-summary#(androidx.compose.runtime.MutableState).setValue(kotlin.Any,kotlin.reflect.KProperty,kotlin.Any) */
operator fun <T> MutableState<T>.setValue(thisObj: Any?, property: KProperty<*>, value: T): Unit = TODO()

/** https://developer.android.com/reference/kotlin/androidx/compose/runtime/ProvidableCompositionLocal */
class ProvidableCompositionLocal<T> {
    val current: T
        @Composable get() = TODO()
}
