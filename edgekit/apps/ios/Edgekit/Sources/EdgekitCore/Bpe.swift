/// Byte-pair encoding over token ids: what the tokenizers library does in Word::merge_all and BPE::merge_word.
struct Bpe: Sendable {
    private let vocab: [ByteString: Int]
    private let merges: [UInt64: (rank: Int, whole: Int)]
    private let overBytes: Bool
    private let byteTokens: [Int]?
    private let unknown: Int?
    private let fuses: Bool
    private let ignoresMerges: Bool

    /// - Parameters:
    ///   - model: Of tokenizer.json.
    ///   - overBytes: Tokens are written with a character for each byte.
    init(_ model: JSON, overBytes: Bool) throws {
        let kind = model["type"].string ?? (model["merges"].array == nil ? "none" : "BPE")
        guard kind == "BPE" else { throw unsupported("a model of type \(kind)") }
        for field in ["continuing_subword_prefix", "end_of_word_suffix"] where !(model[field].string ?? "").isEmpty {
            throw unsupported("\(field) \(model[field].string ?? "")")
        }
        if let dropout = model["dropout"].double, dropout > 0 { throw unsupported("dropout \(dropout)") }
        guard let entries = model["vocab"].object, let pairs = model["merges"].array else {
            throw damaged("tokenizer.json has no vocabulary or no merges.")
        }
        self.overBytes = overBytes
        var vocab: [ByteString: Int] = [:]
        vocab.reserveCapacity(entries.count)
        for entry in entries {
            guard let id = entry.value.int, id >= 0 else { throw damaged("tokenizer.json: a token without its number.") }
            // A token with a character that stands for no byte is never met in a text.
            if let key = Self.key(entry.key, overBytes) { vocab[key] = id }
        }
        self.vocab = vocab
        merges = try Self.read(pairs, vocab, overBytes)
        let fallback = (0..<256).compactMap { vocab[ByteString(hexToken($0))] }
        byteTokens = model["byte_fallback"].bool == true && fallback.count == 256 ? fallback : nil
        unknown = try model["unk_token"].bytes.map { name in
            guard let id = vocab[ByteString(name)] ?? Self.key(name, overBytes).flatMap({ vocab[$0] }) else {
                throw unsupported("an unknown token which is no token")
            }
            return id
        }
        fuses = model["fuse_unk"].bool ?? false
        ignoresMerges = model["ignore_merges"].bool ?? false
    }

    private static func key(_ token: [UInt8], _ overBytes: Bool) -> ByteString? {
        overBytes ? ByteAlphabet.bytes(of: token).map(ByteString.init) : ByteString(token)
    }

    private static func read(
        _ pairs: [JSON], _ vocab: [ByteString: Int], _ overBytes: Bool
    ) throws -> [UInt64: (rank: Int, whole: Int)] {
        var found: [UInt64: (rank: Int, whole: Int)] = [:]
        found.reserveCapacity(pairs.count)
        for (rank, pair) in pairs.enumerated() {
            let parts = pair.bytes?.split(separator: 0x20, omittingEmptySubsequences: false).map(Array.init)
                ?? pair.array?.compactMap(\.bytes) ?? []
            guard parts.count == 2 else { throw unsupported("a merge of \(parts.count) parts") }
            let keys = parts.compactMap { key($0, overBytes) }
            guard keys.count == 2, let left = vocab[keys[0]], let right = vocab[keys[1]],
                let whole = vocab[ByteString(keys[0].bytes + keys[1].bytes)]
            else { throw damaged("tokenizer.json is damaged.", "Merge \(rank) is of tokens that it does not have.") }
            found[Self.pair(left, right)] = (rank, whole)
        }
        return found
    }

    private static func pair(_ left: Int, _ right: Int) -> UInt64 { UInt64(UInt32(left)) << 32 | UInt64(UInt32(right)) }

    /// Ids of one piece of text.
    func encode(_ piece: [Unicode.Scalar]) -> [Int] {
        if ignoresMerges, let whole = vocab[ByteString(piece.utf8)] { return [whole] }
        return merge(symbols(piece))
    }

    private func symbols(_ piece: [Unicode.Scalar]) -> [Int] {
        if overBytes { return known(piece.utf8.map { [$0] }) }
        return known(piece.map { [$0].utf8 })
    }

    /// Ids of the smallest parts, bytes or characters.
    private func known(_ parts: [[UInt8]]) -> [Int] {
        var ids: [Int] = []
        var pending = false  // an unknown one is added when it is known that no other is fused with it
        for part in parts {
            if let id = vocab[ByteString(part)] {
                if pending, let unknown { ids.append(unknown) }
                pending = false
                ids.append(id)
            } else if let byteTokens {
                ids += part.map { byteTokens[Int($0)] }
            } else if let unknown {
                if pending, !fuses { ids.append(unknown) }
                pending = true
            }
        }
        if pending, let unknown { ids.append(unknown) }
        return ids
    }

    /// The merge of lowest rank first, of equals the leftmost, until there is none.
    private func merge(_ symbols: [Int]) -> [Int] {
        guard symbols.count > 1 else { return symbols }
        var ids = symbols
        let count = ids.count
        var next = (1...count).map { $0 }
        var before = (-1..<count - 1).map { $0 }
        var heap = Heap()
        func offer(_ place: Int) {
            let right = next[place]
            guard right < count, let found = merges[Self.pair(ids[place], ids[right])] else { return }
            heap.push(Heap.Item(found.rank, place, found.whole, ids[place], ids[right]))
        }
        for place in 0..<count - 1 { offer(place) }
        while let top = heap.pop() {
            let other = next[top.place]
            // What was offered may have been merged with something else since.
            guard ids[top.place] == top.left, other < count, ids[other] == top.right else { continue }
            ids[top.place] = top.whole
            ids[other] = -1
            next[top.place] = next[other]
            if next[other] < count { before[next[other]] = top.place }
            if before[top.place] >= 0 { offer(before[top.place]) }
            offer(top.place)
        }
        return ids.filter { $0 >= 0 }
    }
}

/// Possible merges by rank, then by place.
private struct Heap {
    struct Item {
        let rank, place, whole, left, right: Int
        init(_ rank: Int, _ place: Int, _ whole: Int, _ left: Int, _ right: Int) {
            (self.rank, self.place, self.whole, self.left, self.right) = (rank, place, whole, left, right)
        }
        static func < (one: Item, other: Item) -> Bool {
            one.rank < other.rank || (one.rank == other.rank && one.place < other.place)
        }
    }
    private var items: [Item] = []

    mutating func push(_ item: Item) {
        items.append(item)
        var place = items.count - 1
        while place > 0, item < items[(place - 1) / 2] {
            items[place] = items[(place - 1) / 2]
            place = (place - 1) / 2
        }
        items[place] = item
    }

    mutating func pop() -> Item? {
        guard let top = items.first else { return nil }
        let last = items.removeLast()
        guard !items.isEmpty else { return top }
        var place = 0
        while true {
            var below = 2 * place + 1
            guard below < items.count else { break }
            if below + 1 < items.count, items[below + 1] < items[below] { below += 1 }
            guard items[below] < last else { break }
            items[place] = items[below]
            place = below
        }
        items[place] = last
        return top
    }
}

/// Each byte as a character that shows: GPT-2's table.
enum ByteAlphabet {
    static let scalars: [Unicode.Scalar] = {
        var next: UInt32 = 256
        return (UInt32(0)..<256).map { byte in
            if (33...126).contains(byte) || (161...172).contains(byte) || (174...255).contains(byte) {
                return Unicode.Scalar(byte)!
            }
            next += 1
            return Unicode.Scalar(next - 1)!
        }
    }()
    static let byte: [Unicode.Scalar: UInt8] = Dictionary(
        uniqueKeysWithValues: scalars.enumerated().map { ($1, UInt8($0)) })

    /// The bytes that a token's characters stand for; nil where one stands for none.
    static func bytes(of token: [UInt8]) -> [UInt8]? {
        let characters = Array(String(decoding: token, as: UTF8.self).unicodeScalars)
        let found = characters.compactMap { byte[$0] }
        return found.count == characters.count ? found : nil
    }
}

/// "<0xE2>" of a byte, as tokenizers with byte fallback name it.
func hexToken(_ byte: Int) -> [UInt8] {
    let digits = String(byte, radix: 16, uppercase: true)
    return Array("<0x\(digits.count == 1 ? "0" : "")\(digits)>".utf8)
}

func unsupported(_ what: String) -> EdgekitError {
    EdgekitError(
        "This tokenizer is not supported: it has \(what).",
        why: "Byte-pair encoding is read here, over bytes or with byte fallback.",
        fix: "Run this bundle where the tokenizers library is, with edgekit run.", code: "unsupported")
}
