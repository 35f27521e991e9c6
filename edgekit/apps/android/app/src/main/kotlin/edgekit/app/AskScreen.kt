package edgekit.app

import android.net.Uri
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia
import androidx.activity.result.contract.ActivityResultContracts.TakePicture
import androidx.compose.foundation.Image
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.material3.Button
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.remember
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource
import androidx.core.content.FileProvider
import java.io.File

/** A picture from the library or the camera, a question, and the answer as it comes. */
@Composable
fun AskScreen(model: AppModel) {
    var question by remember { mutableStateOf("") }
    Column {
        PictureButtons(model)
        model.shown?.let { Image(it.asImageBitmap(), stringResource(R.string.picture), Modifier.fillMaxWidth()) }
        OutlinedTextField(
            question,
            { question = it },
            Modifier.fillMaxWidth(),
            label = { Text(stringResource(R.string.question)) },
        )
        Row {
            Button(onClick = { model.ask(question) }, enabled = !model.isBusy && question.isNotBlank()) { Text(stringResource(R.string.ask)) }
            Button(onClick = { model.cancel() }, enabled = model.isBusy) { Text(stringResource(R.string.cancel)) }
        }
        Text(model.answer)
        Text(model.figures)
    }
}

@Composable
private fun PictureButtons(model: AppModel) {
    val context = LocalContext.current
    val photo = remember {
        val file = File(context.cacheDir, "photos").apply { mkdirs() }.resolve("photo.jpg")
        FileProvider.getUriForFile(context, "${context.packageName}.photos", file)
    }
    val library = rememberLauncherForActivityResult(PickVisualMedia()) { address: Uri? -> address?.let { model.choose(it) } }
    val camera = rememberLauncherForActivityResult(TakePicture()) { taken: Boolean -> if (taken) model.choose(photo) }
    Row {
        Button(onClick = { library.launch(PickVisualMediaRequest(PickVisualMedia.ImageOnly)) }, enabled = !model.isBusy) { Text(stringResource(R.string.library)) }
        Button(onClick = { camera.launch(photo) }, enabled = !model.isBusy) { Text(stringResource(R.string.camera)) }
    }
}
