import edgekit.Bundle
import edgekit.check.PictureDecoder
import edgekit.pixels.Picture
import java.awt.color.ColorSpace
import java.awt.image.BufferedImage
import java.io.File
import javax.imageio.ImageIO
import kotlin.system.exitProcess

/** What was checked, and what differs. */
class Results {
    var passed = 0
    val failed = ArrayList<String>()

    fun check(name: String, compare: () -> String) {
        val found = try {
            compare()
        } catch (error: Throwable) {
            "$error at ${error.stackTrace.take(3)}"
        }
        if (found.isEmpty()) passed++ else failed.add("$name: $found")
    }

    fun equal(name: String, found: Any?, wanted: Any?) =
        check(name) { if (found == wanted) "" else "$found, not $wanted" }

    /** Whether an error of the library comes, with this word in it. */
    fun refused(name: String, word: String, work: () -> Unit) = check(name) {
        try {
            work()
            "was not refused"
        } catch (error: edgekit.EdgekitException) {
            if (word in error.message!!) "" else "refused by '${error.message}', without '$word'"
        }
    }

    fun finish(): Nothing {
        failed.forEach { println("FAILED $it") }
        println("$passed passed, ${failed.size} failed")
        exitProcess(if (failed.isEmpty() && passed > 0) 0 else 1)
    }
}

/** As Android's BitmapFactory would: no EXIF is in the tests' own decoder but by `upright`. */
val decoder = PictureDecoder { bytes ->
    val image = ImageIO.read(bytes.inputStream()) ?: throw edgekit.EdgekitException("no picture")
    val upright = Exif.upright(bytes, if (image.colorModel.colorSpace.type == ColorSpace.TYPE_GRAY) plain(image) else image)
    Picture.fromArgb(
        upright.width, upright.height, upright.getRGB(0, 0, upright.width, upright.height, null, 0, upright.width),
    )
}

/** Grey as it stands in the file: Java takes it for linear light, and would brighten it. */
private fun plain(image: BufferedImage): BufferedImage {
    val found = BufferedImage(image.width, image.height, BufferedImage.TYPE_INT_ARGB)
    for (y in 0 until image.height) for (x in 0 until image.width) {
        val alpha = if (image.raster.numBands > 1) image.raster.getSample(x, y, 1) else 255
        found.setRGB(x, y, alpha shl 24 or (image.raster.getSample(x, y, 0) * 0x010101))
    }
    return found
}

fun main(args: Array<String>) {
    val results = Results()
    when (args.getOrNull(0)) {
        "units" -> units(results, File(args[1]))
        "vectors" -> vectors(results, File(args[1]))
        "bundles" -> args.drop(1).forEach { bundle(results, Bundle(File(it))) }
        "caches" -> args.drop(1).forEach { results.check(it) { caches(results, Bundle(File(it))).let { "" } } }
        "answers" -> answers(results, File(args[1]), args.drop(2).map { Bundle(File(it)) })
        "bench" -> results.check("bench") {
            bench(Bundle(File(args[1])), File(args[2]))
            ""
        }
        else -> results.failed.add(
            "say units FOLDER, vectors FOLDER, bundles BUNDLE..., caches BUNDLE..., answers QUESTIONS BUNDLE... or bench BUNDLE FILE",
        )
    }
    results.finish()
}
