package edgekit.loop

import edgekit.families.Positions
import edgekit.pixels.Picture
import edgekit.pixels.Pixels
import edgekit.pixels.Tensor
import edgekit.text.Turn
import java.io.Closeable

/**
 * A prompt after preprocessing.
 *
 * @property ids T tokens, image placeholders expanded.
 * @property pixels Of each picture.
 */
class Prepared(val ids: IntArray, val pixels: List<Pixels>, val positions: Positions) {
    /** What is left when the first `start` tokens, and the first `images` pictures, are in the cache. */
    fun tail(start: Int, images: Int) =
        Prepared(ids.copyOfRange(start, ids.size), pixels.drop(images), positions.from(start))
}

/**
 * What vision encoders give for the K image tokens of a prompt, in the pictures' order.
 *
 * @property embeds (K, D).
 * @property deepstack (L, K, D); null for most families.
 */
class Features(val embeds: Tensor, val deepstack: Tensor?)

/** One model loaded in one runtime, answering one prompt at a time; the loops over it are in Answering and Chat. */
interface Session : Closeable {
    /** The token whose embeddings a picture's replace. */
    val imageToken: Int

    /** Tokens that end an answer. */
    val ends: Set<Int>

    /** Tokens that may be drawn. */
    val tokens: Int

    /** The most tokens of a prompt and its answer. */
    val room: Int

    /** A picture as the model takes it. */
    fun look(picture: Picture): Pixels

    /** A conversation as tokens; `pixels` of its pictures in order. */
    fun prepare(turns: List<Turn>, system: String?, pixels: List<Pixels>): Prepared

    fun encode(pixels: List<Pixels>): Features

    /** Append a prompt, or what is new of one, to the cache; the logits (V,) that follow it. */
    fun prefill(prepared: Prepared, features: Features?): FloatArray

    /** Append one token; the logits (V,) that follow it. */
    fun step(token: Int): FloatArray

    /** Text of generated tokens, special ones left out; white space at its end is kept. */
    fun decode(ids: List<Int>): String

    /** Empty the cache. */
    fun reset()

    /** Forget all but the first tokens of the cache; how many are kept: `length`, or 0 where that cannot be. */
    fun rewind(length: Int): Int
}

/** A runtime that runs a bundle's components one by one; an adapter is a class of this, ModuleSession does the rest. */
interface Runtime : Closeable {
    /** The most tokens that its cache takes. */
    val room: Int

    /**
     * Run one vision encoder.
     *
     * @param values Tiles (M, 3, H, W), or with `grid` the patches (P, patch) of one picture.
     * @return Its outputs: features (M, N, D) or (N, D), and where the model has it deepstack (L, N, D).
     */
    fun encode(component: String, values: Tensor, grid: IntArray?): List<Tensor>

    /** Tokens -> (T, D). */
    fun embed(ids: IntArray): Tensor

    /**
     * Append embeddings to the cache.
     *
     * @param embeds (T, D).
     * @param deepstack (L, T, D); null for most models.
     * @return The logits (V,) that follow the last.
     */
    fun decode(embeds: Tensor, positions: Positions, deepstack: Tensor?): FloatArray

    fun reset()

    fun rewind(length: Int): Int
}
