package edgekit.pixels

import edgekit.EdgekitException
import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.cos
import kotlin.math.sin

/** A filter of Pillow: how far it reaches at scale 1, and its weight at a distance. */
internal class Filter(val support: Double, val weight: (Double) -> Double)

/**
 * The filter of Pillow's number.
 *
 * Source: Pillow 12, libImaging/Resample.c.
 *
 * @param resample 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
 */
internal fun filterOf(resample: Int): Filter = when (resample) {
    1 -> Filter(3.0) { if (it >= -3.0 && it < 3.0) sinc(it) * sinc(it / 3.0) else 0.0 }
    2 -> Filter(1.0) { if (abs(it) < 1.0) 1.0 - abs(it) else 0.0 }
    3 -> Filter(2.0) { bicubic(abs(it)) }
    4 -> Filter(0.5) { if (it > -0.5 && it <= 0.5) 1.0 else 0.0 }
    5 -> Filter(1.0) { hamming(abs(it)) }
    else -> throw EdgekitException("There is no resize filter $resample.", code = "unsupported")
}

private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)

private fun bicubic(x: Double): Double {
    val a = -0.5
    return when {
        x < 1.0 -> ((a + 2.0) * x - (a + 3.0)) * x * x + 1
        x < 2.0 -> (((x - 5) * x + 8) * x - 4) * a
        else -> 0.0
    }
}

private fun hamming(x: Double): Double = when {
    x == 0.0 -> 1.0
    x >= 1.0 -> 0.0
    else -> sin(x * PI) / (x * PI) * (0.54 + 0.46 * cos(x * PI))
}
