@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.activity.result

import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia

/** https://developer.android.com/reference/kotlin/androidx/activity/result/PickVisualMediaRequest */
class PickVisualMediaRequest

/** https://developer.android.com/reference/kotlin/androidx/activity/result/package-summary#PickVisualMediaRequest(androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia.VisualMediaType) */
fun PickVisualMediaRequest(mediaType: PickVisualMedia.VisualMediaType): PickVisualMediaRequest = TODO()
