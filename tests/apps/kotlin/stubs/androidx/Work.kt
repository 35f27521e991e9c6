@file:Suppress("unused", "UNUSED_PARAMETER")

package androidx.work

import android.content.Context
import kotlinx.coroutines.flow.Flow

/** https://developer.android.com/reference/kotlin/androidx/work, WorkerParameters */
class WorkerParameters

/** https://developer.android.com/reference/kotlin/androidx/work, Data */
class Data {
    fun getLong(key: String, defaultValue: Long): Long = TODO()

    fun getString(key: String): String? = TODO()
}

/** https://developer.android.com/reference/kotlin/androidx/work, package-summary#workDataOf(kotlin.Array) */
fun workDataOf(vararg pairs: Pair<String, Any?>): Data = TODO()

/** https://developer.android.com/reference/kotlin/androidx/work, ListenableWorker */
abstract class ListenableWorker(appContext: Context, workerParams: WorkerParameters) {
    val applicationContext: Context get() = TODO()
    val runAttemptCount: Int get() = TODO()

    fun setProgressAsync(data: Data): Any = TODO()

    /** https://developer.android.com/reference/kotlin/androidx/work, ListenableWorker.Result */
    abstract class Result {
        companion object {
            @JvmStatic fun success(): Result = TODO()

            @JvmStatic fun retry(): Result = TODO()

            @JvmStatic fun failure(outputData: Data): Result = TODO()
        }
    }
}

/** https://developer.android.com/reference/kotlin/androidx/work, CoroutineWorker */
abstract class CoroutineWorker(appContext: Context, params: WorkerParameters) : ListenableWorker(appContext, params) {
    abstract suspend fun doWork(): Result
}

/** https://developer.android.com/reference/kotlin/androidx/work, NetworkType */
enum class NetworkType { CONNECTED, UNMETERED }

/** https://developer.android.com/reference/kotlin/androidx/work, Constraints */
class Constraints {
    /** https://developer.android.com/reference/kotlin/androidx/work, Constraints.Builder */
    class Builder {
        fun setRequiredNetworkType(networkType: NetworkType): Builder = TODO()

        fun build(): Constraints = TODO()
    }
}

/** https://developer.android.com/reference/kotlin/androidx/work, OneTimeWorkRequest */
class OneTimeWorkRequest {
    /** https://developer.android.com/reference/kotlin/androidx/work, OneTimeWorkRequest.Builder */
    class Builder {
        fun setConstraints(constraints: Constraints): Builder = TODO()

        fun build(): OneTimeWorkRequest = TODO()
    }
}

/** https://developer.android.com/reference/kotlin/androidx/work, package-summary#OneTimeWorkRequestBuilder() */
inline fun <reified W : ListenableWorker> OneTimeWorkRequestBuilder(): OneTimeWorkRequest.Builder = TODO()

/** https://developer.android.com/reference/kotlin/androidx/work, ExistingWorkPolicy */
enum class ExistingWorkPolicy { KEEP }

/** https://developer.android.com/reference/kotlin/androidx/work, Operation */
interface Operation {
    /** https://developer.android.com/reference/kotlin/androidx/work, Operation.State */
    abstract class State {
        /** https://developer.android.com/reference/kotlin/androidx/work, Operation.State.SUCCESS */
        class SUCCESS : State()
    }
}

/** https://developer.android.com/reference/kotlin/androidx/work, package-summary#(androidx.work.Operation).await() */
suspend inline fun Operation.await(): Operation.State.SUCCESS = TODO()

/** https://developer.android.com/reference/kotlin/androidx/work, WorkInfo */
class WorkInfo {
    val state: State get() = TODO()
    val outputData: Data get() = TODO()
    val progress: Data get() = TODO()

    /** https://developer.android.com/reference/kotlin/androidx/work, WorkInfo.State */
    enum class State {
        SUCCEEDED;

        val isFinished: Boolean get() = TODO()
    }
}

/** https://developer.android.com/reference/kotlin/androidx/work, WorkManager */
abstract class WorkManager {
    fun enqueueUniqueWork(
        uniqueWorkName: String, existingWorkPolicy: ExistingWorkPolicy, request: OneTimeWorkRequest,
    ): Operation = TODO()

    fun getWorkInfosForUniqueWorkFlow(uniqueWorkName: String): Flow<List<WorkInfo>> = TODO()

    fun cancelUniqueWork(uniqueWorkName: String): Operation = TODO()

    companion object {
        @JvmStatic fun getInstance(context: Context): WorkManager = TODO()
    }
}
