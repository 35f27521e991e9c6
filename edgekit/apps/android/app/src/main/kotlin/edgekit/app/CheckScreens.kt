package edgekit.app

import android.content.Context
import android.content.Intent
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.material3.Button
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource

/** Measures, and shares the file that `edgekit bench --import` reads. */
@Composable
fun BenchScreen(model: AppModel) {
    val context = LocalContext.current
    Column {
        Text(stringResource(R.string.bench_says))
        Row {
            Button(onClick = { model.bench() }, enabled = !model.isBusy) { Text(stringResource(R.string.start)) }
            Button(onClick = { model.cancel() }, enabled = model.isBusy) { Text(stringResource(R.string.cancel)) }
            Button(onClick = { share(context, model.results) }, enabled = model.results.isNotEmpty()) { Text(stringResource(R.string.share)) }
        }
        Text(model.figures)
    }
}

private fun share(context: Context, json: String) {
    val send = Intent(Intent.ACTION_SEND).setType("application/json").putExtra(Intent.EXTRA_TEXT, json)
    context.startActivity(Intent.createChooser(send, null))
}

/** Whether this device answers as the bundle was proved to answer. */
@Composable
fun SelfTestScreen(model: AppModel) {
    Column {
        Text(stringResource(R.string.self_test_says))
        Row {
            Button(onClick = { model.selfTest() }, enabled = !model.isBusy) { Text(stringResource(R.string.start)) }
            Button(onClick = { model.cancel() }, enabled = model.isBusy) { Text(stringResource(R.string.cancel)) }
        }
        for (line in model.checks) Text(line)
    }
}
