@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.lifecycle

import android.app.Application
import kotlinx.coroutines.CoroutineScope

/** https://developer.android.com/reference/kotlin/androidx/lifecycle/ViewModel */
abstract class ViewModel {
    protected open fun onCleared() = Unit
}

/** https://developer.android.com/reference/kotlin/androidx/lifecycle/AndroidViewModel */
open class AndroidViewModel(application: Application) : ViewModel() {
    open fun <T : Application> getApplication(): T = TODO()
}

/** https://developer.android.com/reference/kotlin/androidx/lifecycle/package-summary#(androidx.lifecycle.ViewModel).viewModelScope() */
val ViewModel.viewModelScope: CoroutineScope get() = TODO()
