package edgekit.app

import android.content.Context
import androidx.work.Constraints
import androidx.work.CoroutineWorker
import androidx.work.ExistingWorkPolicy
import androidx.work.NetworkType
import androidx.work.OneTimeWorkRequestBuilder
import androidx.work.WorkInfo
import androidx.work.WorkManager
import androidx.work.WorkerParameters
import androidx.work.await
import androidx.work.workDataOf
import edgekit.EdgekitException
import edgekit.store.OnBytes
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.mapNotNull
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.withContext

private const val NAME = "edgekit-model"

/** Progress is told that often; WorkManager keeps each in its database. */
private const val TELL_BYTES = 1L shl 20

/** Downloads the model in the background, also when the app is closed; it goes on where it stopped. */
class DownloadWorker(context: Context, parameters: WorkerParameters) : CoroutineWorker(context, parameters) {
    override suspend fun doWork(): Result = withContext(Dispatchers.IO) {
        try {
            var told = -TELL_BYTES
            Models(applicationContext, Constants.read(applicationContext)).fetch { done, all ->
                ensureActive()
                if (done - told >= TELL_BYTES) setProgressAsync(workDataOf("done" to done, "all" to all)).also { told = done }
            }
            Result.success()
        } catch (error: CancellationException) {
            throw error
        } catch (error: EdgekitException) {
            if (error.code == "network" && runAttemptCount < 3) Result.retry() else Result.failure(
                workDataOf("why" to error.message),
            )
        }
    }

    companion object {
        /**
         * Have the model downloaded; who is cancelled stops the download, who is killed does not.
         *
         * @param wifiOnly Not over networks that are paid by the byte.
         */
        suspend fun download(context: Context, wifiOnly: Boolean, onBytes: OnBytes) {
            val network = if (wifiOnly) NetworkType.UNMETERED else NetworkType.CONNECTED
            val request = OneTimeWorkRequestBuilder<DownloadWorker>()
                .setConstraints(Constraints.Builder().setRequiredNetworkType(network).build()).build()
            val manager = WorkManager.getInstance(context)
            manager.enqueueUniqueWork(NAME, ExistingWorkPolicy.KEEP, request).await()
            val ended = try {
                manager.getWorkInfosForUniqueWorkFlow(NAME).mapNotNull { it.lastOrNull() }
                    .onEach { onBytes(it.progress.getLong("done", 0), it.progress.getLong("all", 0)) }
                    .first { it.state.isFinished }
            } catch (error: CancellationException) {
                manager.cancelUniqueWork(NAME)
                throw error
            }
            if (ended.state != WorkInfo.State.SUCCEEDED) {
                throw EdgekitException(ended.outputData.getString("why") ?: "The download was stopped.", code = "network")
            }
        }
    }
}
