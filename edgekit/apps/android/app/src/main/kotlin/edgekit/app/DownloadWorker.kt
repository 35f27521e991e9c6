package edgekit.app

import android.content.Context
import androidx.work.Constraints
import androidx.work.CoroutineWorker
import androidx.work.ExistingWorkPolicy
import androidx.work.NetworkType
import androidx.work.OneTimeWorkRequestBuilder
import androidx.work.WorkManager
import androidx.work.WorkerParameters
import androidx.work.workDataOf
import edgekit.EdgekitException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext

/** Downloads the model in the background, also when the app is closed; it goes on where it stopped. */
class DownloadWorker(context: Context, parameters: WorkerParameters) : CoroutineWorker(context, parameters) {
    override suspend fun doWork(): Result = withContext(Dispatchers.IO) {
        try {
            Models(applicationContext, Constants.read(applicationContext)).fetch { done, all ->
                ensureActive()
                setProgressAsync(workDataOf("done" to done, "all" to all))
            }
            Result.success()
        } catch (error: CancellationException) {
            throw error
        } catch (error: EdgekitException) {
            if (error.code == "network" && runAttemptCount < 10) Result.retry() else Result.failure(
                workDataOf("why" to error.message),
            )
        }
    }

    companion object {
        const val NAME = "edgekit-model"

        /** @param wifiOnly Not over networks that are paid by the byte. */
        fun start(context: Context, wifiOnly: Boolean) {
            val network = if (wifiOnly) NetworkType.UNMETERED else NetworkType.CONNECTED
            val request = OneTimeWorkRequestBuilder<DownloadWorker>()
                .setConstraints(Constraints.Builder().setRequiredNetworkType(network).build()).build()
            WorkManager.getInstance(context).enqueueUniqueWork(NAME, ExistingWorkPolicy.KEEP, request)
        }
    }
}
