package edgekit.text

import edgekit.Fields
import edgekit.damaged
import java.util.PriorityQueue

/** Pieces whose ids are remembered. */
private const val MOST_KNOWN = 10_000

/**
 * Byte-pair encoding over token ids: what the tokenizers library does in Word::merge_all and BPE::merge_word.
 *
 * @param model `model` of tokenizer.json.
 */
internal class Bpe(model: Fields) {
    val vocabulary: Map<String, Int>
    private val merges: PairTable
    private val unknown: String?
    private val fuses = model.flag("fuse_unk", false)
    private val fallsBack = model.flag("byte_fallback", false)
    private val ignoresMerges = model.flag("ignore_merges", false)
    private val bytes: IntArray
    private val known = HashMap<String, IntArray>()

    init {
        if (model.text("type") != "BPE") unsupported("a model of type ${model.text("type")}")
        for (name in listOf("continuing_subword_prefix", "end_of_word_suffix", "dropout")) {
            if (name in model && model.raw(name) != "" && model.raw(name) != 0.0) {
                unsupported("$name ${model.raw(name)}")
            }
        }
        val entries = model.fields("vocab")
        vocabulary = HashMap<String, Int>(2 * entries.names.size).also { for (name in entries.names) it[name] = entries.whole(name) }
        unknown = model.textOrNull("unk_token")
        merges = read(model.list("merges"))
        bytes = IntArray(256) { vocabulary["<0x%02X>".format(it)] ?: -1 }
    }

    private fun read(list: List<Any?>): PairTable {
        val table = PairTable(list.size)
        list.forEachIndexed { rank, merge ->
            val (left, right) = pair(merge)
            val ids = listOf(left, right, left + right).map {
                vocabulary[it] ?: damaged(
                    "tokenizer.json is damaged.", "It merges '$left' and '$right', and has no token '$it'.",
                )
            }
            table.put(ids[0], ids[1], rank, ids[2])
        }
        return table
    }

    private fun pair(merge: Any?): Pair<String, String> {
        val parts = if (merge is String) merge.split(" ") else merge as? List<*> ?: unsupported("a merge $merge")
        val (left, right) = if (parts.size == 2) parts else unsupported("a merge $merge")
        return (left as? String ?: unsupported("a merge $merge")) to (right as? String ?: unsupported("a merge $merge"))
    }

    /** Ids of one piece of text. */
    fun encode(piece: String): IntArray {
        if (ignoresMerges) vocabulary[piece]?.let { return intArrayOf(it) }
        known[piece]?.let { return it }
        val ids = merged(symbols(piece))
        if (piece.length < 64 && known.size < MOST_KNOWN) known[piece] = ids
        return ids
    }

    private fun symbols(piece: String): IntArray {
        val ids = ArrayList<Int>(piece.length)
        var pending = false // an unknown character is added when it is known that no other is fused with it
        fun flush() {
            if (pending) ids.add(vocabulary[unknown] ?: unsupported("the unknown token '$unknown', which is no token"))
            pending = false
        }
        for (point in codePoints(piece)) {
            val character = String(Character.toChars(point))
            val id = vocabulary[character]
            val own = if (id == null && fallsBack) byteIds(character) else null
            when {
                id != null -> {
                    flush()
                    ids.add(id)
                }
                own != null -> ids.addAll(own)
                unknown != null -> {
                    if (!fuses) flush()
                    pending = true
                }
            }
        }
        flush()
        return ids.toIntArray()
    }

    private fun byteIds(character: String): List<Int>? =
        character.toByteArray().map { bytes[it.toInt() and 255] }.takeIf { ids -> ids.all { it >= 0 } }

    /** What may be merged: a rank, the place of the left symbol, what it becomes, and the two as they were. */
    private class Offer(val rank: Int, val place: Int, val whole: Int, val left: Int, val right: Int) : Comparable<Offer> {
        override fun compareTo(other: Offer): Int =
            if (rank != other.rank) rank.compareTo(other.rank) else place.compareTo(other.place)
    }

    /** The merge of lowest rank first, of equals the leftmost, until there is none. */
    private fun merged(ids: IntArray): IntArray {
        val next = IntArray(ids.size) { it + 1 }
        val before = IntArray(ids.size) { it - 1 }
        val offers = PriorityQueue<Offer>()
        fun offer(place: Int) {
            val right = next[place]
            if (right >= ids.size) return
            val found = merges.find(ids[place], ids[right])
            if (found >= 0) offers.add(Offer((found ushr 32).toInt(), place, found.toInt(), ids[place], ids[right]))
        }
        for (place in 0 until ids.size - 1) offer(place)
        while (true) {
            val top = offers.poll() ?: break
            val other = next[top.place]
            // What was offered may have been merged with something else since.
            if (ids[top.place] != top.left || other >= ids.size || ids[other] != top.right) continue
            ids[top.place] = top.whole
            ids[other] = -1
            next[top.place] = next[other]
            if (next[other] < ids.size) before[next[other]] = top.place
            if (before[top.place] >= 0) offer(before[top.place])
            offer(top.place)
        }
        return ids.filter { it >= 0 }.toIntArray()
    }
}

/** Pairs of ids -> (rank, id), without an object for each: Gemma's tokenizer has half a million. */
private class PairTable(count: Int) {
    private val mask = Integer.highestOneBit(maxOf(8, 2 * count)) * 2 - 1
    private val keys = LongArray(mask + 1) { -1 }
    private val values = LongArray(mask + 1)

    private fun place(key: Long): Int {
        val mixed = key * -0x61c8864680b583ebL
        var place = (mixed xor (mixed ushr 32)).toInt() and mask
        while (keys[place] != key && keys[place] != -1L) place = (place + 1) and mask
        return place
    }

    fun put(left: Int, right: Int, rank: Int, whole: Int) {
        val key = key(left, right)
        val place = place(key)
        keys[place] = key
        values[place] = (rank.toLong() shl 32) or whole.toLong()
    }

    /** The rank in the upper half, the id in the lower; -1 where the two are never merged. */
    fun find(left: Int, right: Int): Long {
        val key = key(left, right)
        val place = place(key)
        return if (keys[place] == key) values[place] else -1
    }

    private fun key(left: Int, right: Int) = (left.toLong() shl 32) or right.toLong()
}
