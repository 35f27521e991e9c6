package edgekit.families

import edgekit.EdgekitException
import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Settings
import edgekit.pixels.Tensor
import java.math.BigDecimal
import java.math.RoundingMode
import kotlin.math.abs
import kotlin.math.ln

/** Rotary positions of a prompt: `axes` rows of its length, one after the other, and the next token's. */
class Positions(val axes: Int, val values: LongArray) {
    val next: Long get() = 1 + (values.maxOrNull() ?: -1)

    /** Those from a token on. */
    fun from(start: Int): Positions {
        val length = values.size / axes
        return Positions(
            axes, (0 until axes).flatMap { values.slice(it * length + start until (it + 1) * length) }.toLongArray(),
        )
    }
}

/** All that an app must know of a VLM family; each is one file, as in edgekit/families of the Python package. */
interface Family {
    /** What stands for a picture in a rendered prompt. */
    val place: String

    /** A picture -> what the vision encoder takes. */
    fun preprocess(picture: Picture, settings: Settings): Pixels

    /** What takes a picture's place in the prompt. */
    fun filling(grid: IntArray, settings: Settings): String

    /** Positions of a prompt's tokens, placeholders expanded. */
    fun positions(ids: IntArray, grids: List<IntArray>, settings: Settings): Positions =
        Positions(1, LongArray(ids.size) { it.toLong() })

    /** Features of all tiles (M, N, D) -> those of the image tokens (K, D). */
    fun pack(features: Tensor, grids: List<IntArray>, settings: Settings): Tensor {
        val width = features.shape.last()
        return Tensor(intArrayOf(features.values.size / width, width), features.values)
    }
}

private val FAMILIES: Map<String, () -> Family> = mapOf(
    "idefics3" to ::Idefics3,
    "internvl" to ::InternVl,
    "qwen2_5_vl" to ::QwenVl,
    "qwen3_5" to ::QwenVl,
    "qwen3_vl" to ::QwenVl,
    "llava_onevision" to ::LlavaOnevision,
    "gemma3" to ::Gemma3,
    "lfm2_vl" to ::Lfm2Vl,
)

/**
 * The family of a bundle.
 *
 * @param name `family` of app/model.json.
 */
fun familyOf(name: String): Family = FAMILIES[name]?.invoke() ?: throw EdgekitException(
    "No VLM family of this library speaks for '$name'.", "Those that it knows: ${FAMILIES.keys.joinToString()}.", code = "unsupported",
)

/** Python's round: of decimals, halves to even, of the number as it is in binary. */
internal fun rounded(value: Double, digits: Int): Double =
    BigDecimal(value).setScale(digits, RoundingMode.HALF_EVEN).toDouble()

/** The picture resized to the one of an export's sizes that is nearest in shape, then in area, by their logarithms. */
internal fun fitted(picture: Picture, settings: Settings): Picture {
    if (settings.sizes.isEmpty()) {
        throw EdgekitException(
            "This bundle names no picture sizes.",
            "Its family is exported for some sizes.",
            "Export it again.",
            "damaged",
        )
    }
    val (width, height) = settings.sizes.minWith(
        compareBy(
            { rounded(abs(ln(it[0].toDouble() / it[1]) - ln(picture.width.toDouble() / picture.height)), 6) },
            { abs(ln(it[0].toDouble() * it[1]) - ln(picture.width.toDouble() * picture.height)) },
        ),
    )
    return settings.resized(picture, width, height)
}

/** (width, height) of a family whose `tile` is a pair. */
internal fun tileOf(settings: Settings): Pair<Int, Int> = settings.fields.wholes("tile").let { it[0] to it[1] }
