package edgekit.app

import android.app.Application
import android.graphics.Bitmap
import android.net.Uri
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.setValue
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import edgekit.VisionModel
import edgekit.check.Bench
import edgekit.check.BenchNames
import edgekit.check.Golden
import edgekit.check.Report
import edgekit.loop.Event
import edgekit.loop.Options
import edgekit.pixels.Picture
import edgekit.store.OnBytes
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import java.io.File

/** Text is put on the screen at most so often; more would cost the model its time. */
private const val FRAME_MS = 50

/** What the screens show, and what they can do. */
class AppModel(application: Application) : AndroidViewModel(application) {
    private val constants = Constants.read(application)
    private var model: VisionModel? = null
    private var job: Job? = null
    private var picture: Picture? = null
    private var loadMs = 0.0
    private var report: Report? = null

    var status by mutableStateOf("")
        private set
    var isBusy by mutableStateOf(false)
        private set
    var shown by mutableStateOf<Bitmap?>(null)
        private set
    var answer by mutableStateOf("")
        private set
    var figures by mutableStateOf("")
        private set
    var checks by mutableStateOf<List<String>>(emptyList())
        private set
    var results by mutableStateOf("")
        private set

    /** Look at another picture. */
    fun choose(address: Uri) = work("Reading the picture") {
        val bytes = withContext(Dispatchers.IO) { read(getApplication<Application>().contentResolver, address) }
        withContext(Dispatchers.Default) {
            picture = DevicePictures.decode(bytes)
            shown = DevicePictures.bitmap(bytes)
        }
    }

    fun ask(question: String) = work("Answering") {
        val text = StringBuilder()
        var last = 0L
        answer = ""
        loaded().answer(question, picture, Options(128)).collect { event ->
            if (event is Event.Text) text.append(event.piece)
            val now = System.nanoTime() / 1_000_000
            if (now - last >= FRAME_MS || event is Event.Done) {
                answer = text.toString()
                last = now
            }
            if (event is Event.Done) figures = figures(event)
        }
    }

    private fun figures(event: Event.Done): String {
        val timings = event.answer.timings
        val speed = timings.between.sorted().let { if (it.isEmpty()) 0.0 else 1000 / it[it.size / 2] }
        return "%.0f ms to the first token, %.1f tokens/s, %d MB of memory".format(
            timings.toFirstToken, speed, (memory("VmRSS") ?: 0) shr 20,
        )
    }

    /** End what is being done. */
    fun cancel() {
        job?.cancel()
    }

    fun selfTest() = work("Testing") { test() }

    private suspend fun test(): Report {
        val found = loaded().selfTest(DevicePictures) { done, all -> status = "Testing: $done of $all" }
        report = found
        checks = listOf(found.summary) + found.checks.filter { it.detail.isNotEmpty() }.map { "${it.name}: ${it.detail}" }
        return found
    }

    /** Measure, and write the file that `edgekit bench --import` reads; a device is tested before it is measured. */
    fun bench() = work("Measuring") {
        val tested = report ?: test()
        val own = loaded()
        val manifest = own.bundle.manifest
        val names = BenchNames(
            constants.bundleHash, manifest.name, RUNTIME, manifest.target, manifest.precision, loadMs, goodThreads(),
            tested.summary,
        )
        val before = deviceState(getApplication())
        val json = own.alone { session ->
            val bench = Bench(session, Golden(own.bundle), DevicePictures)
            bench.run(4) { done, all -> status = "Measuring: $done of $all" }
            bench.phoneJson(names, before, deviceState(getApplication())) to bench.tokensPerSecond
        }
        File(getApplication<Application>().filesDir, "edgekit-phone.json").writeText(json.first)
        results = json.first
        figures = "%.1f tokens/s".format(json.second ?: 0.0)
    }

    private suspend fun loaded(): VisionModel {
        model?.let { return it }
        val onBytes: OnBytes = { done, all -> status = "Loading: ${done shr 20} of ${all shr 20} MB" }
        val models = Models(getApplication(), constants)
        if (constants.downloads && withContext(Dispatchers.IO) { models.find() } == null) {
            DownloadWorker.download(getApplication(), wifiOnly = false, onBytes)
        }
        val bundle = withContext(Dispatchers.IO) { models.fetch(onBytes) }
        val started = System.nanoTime()
        return openModel(bundle, goodThreads(), constants.context).also {
            loadMs = (System.nanoTime() - started) / 1e6
            model = it
        }
    }

    /** One thing at a time; what goes wrong is said, and nothing is swallowed. */
    private fun work(what: String, body: suspend () -> Unit) {
        if (isBusy) return
        isBusy = true
        status = what
        job = viewModelScope.launch {
            try {
                body()
                status = ""
            } catch (error: CancellationException) {
                status = "Cancelled."
                throw error
            } catch (error: Exception) {
                status = error.message ?: error.toString()
            } finally {
                isBusy = false
            }
        }
    }

    override fun onCleared() {
        model?.close()
    }
}
