package edgekit

import edgekit.loop.Preparing
import edgekit.text.Prompt
import edgekit.text.Tokenizer
import java.io.File

/** A bundle in a folder of the device, all of whose files are there. */
class Bundle(val folder: File) {
    val manifest = Manifest.read(text("app/model.json"))

    /** @throws EdgekitException The bundle does not have it. */
    fun file(name: String): File {
        val file = File(folder, name)
        if (!file.isFile) damaged("The bundle lacks $name.", "$folder holds none.")
        return file
    }

    fun text(name: String): String = file(name).readText()

    /** Tokenizer, prompt and pixels of its model. */
    fun preparing(): Preparing =
        Preparing(
            manifest,
            Tokenizer.read(text("tokenizer.json")),
            Prompt(fieldsOf(parseJson(text("app/prompt.json"), "prompt.json"), "prompt.json")),
        )
}
