@file:Suppress("unused")

package androidx.activity.result.contract

import android.net.Uri
import androidx.activity.result.PickVisualMediaRequest

/** https://developer.android.com/reference/kotlin/androidx/activity/result/contract/ActivityResultContract */
abstract class ActivityResultContract<I, O>

/** https://developer.android.com/reference/kotlin/androidx/activity/result/contract/ActivityResultContracts */
class ActivityResultContracts private constructor() {
    /** https://developer.android.com/reference/kotlin/androidx/activity/result/contract/ActivityResultContracts.PickVisualMedia */
    open class PickVisualMedia : ActivityResultContract<PickVisualMediaRequest, Uri?>() {
        sealed interface VisualMediaType

        object ImageOnly : VisualMediaType
    }

    /** https://developer.android.com/reference/kotlin/androidx/activity/result/contract/ActivityResultContracts.TakePicture */
    open class TakePicture : ActivityResultContract<Uri, Boolean>()
}
