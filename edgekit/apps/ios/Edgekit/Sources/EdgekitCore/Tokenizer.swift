/// tokenizer.json read and applied as the tokenizers library does: byte-level BPE, and Gemma's with byte fallback.
public struct Tokenizer: Sendable {
    private let model: Bpe
    private let normalise: Normalise
    private let preTokenise: PreTokenise
    private let raw: AddedTokens
    private let normalised: AddedTokens
    private let tokens: [Int: [UInt8]]
    private let special: Set<Int>
    private let decoder: Decoder

    /// - Parameters:
    ///   - bytes: tokenizer.json.
    public init(_ bytes: [UInt8]) throws {
        let file = try JSON(parsing: bytes, source: "tokenizer.json")
        model = try Bpe(file["model"], overBytes: isOverBytes(file["pre_tokenizer"]))
        let normalise = try normaliser(file["normalizer"])
        self.normalise = normalise
        preTokenise = try preTokeniser(file["pre_tokenizer"])
        let added = try (file["added_tokens"].array ?? []).map(AddedTokens.Token.init)
        raw = AddedTokens(added.filter { !$0.normalized }) { $0 }
        normalised = AddedTokens(added.filter(\.normalized), normalise)
        var tokens: [Int: [UInt8]] = [:]
        for entry in file["model"]["vocab"].object ?? [] { if let id = entry.value.int { tokens[id] = entry.key } }
        for token in added { tokens[token.id] = token.content.utf8 }
        self.tokens = tokens
        special = Set(added.filter(\.special).map(\.id))
        decoder = try Decoder(file["decoder"])
    }

    /// Ids of a text; tokens that are written in it are cut out as such, and none is added.
    public func encode(_ text: String) -> [Int] {
        var ids: [Int] = []
        for outer in raw.split(text.scalars) {
            switch outer {
            case .token(let id): ids.append(id)
            case .text(let text):
                for inner in normalised.split(normalise(text)) {
                    switch inner {
                    case .token(let id): ids.append(id)
                    case .text(let text): for piece in preTokenise([text]) { ids += model.encode(piece) }
                    }
                }
            }
        }
        return ids
    }

    /// Text of tokens, special ones left out; bytes that are no whole character are U+FFFD.
    public func decode(_ ids: [Int]) -> String {
        decoder.join(ids.filter { !special.contains($0) }.compactMap { tokens[$0] })
    }
}

/// From tokens to text.
struct Decoder: Sendable {
    private let steps: [@Sendable ([[UInt8]]) -> [[UInt8]]]
    private let separator: String

    /// - Parameters:
    ///   - part: Of tokenizer.json, null for none.
    init(_ part: JSON) throws {
        separator = part.isNull ? " " : ""
        let parts = part.isNull ? [] : part["type"].string == "Sequence" ? part["decoders"].array ?? [] : [part]
        steps = try parts.map(Self.step)
    }

    func join(_ tokens: [[UInt8]]) -> String {
        let found = steps.reduce(tokens) { $1($0) }
        return String(decoding: Array(found.joined(separator: Array(separator.utf8))), as: UTF8.self)
    }

    private static func step(_ part: JSON) throws -> @Sendable ([[UInt8]]) -> [[UInt8]] {
        let kind = part["type"].string ?? "none"
        switch kind {
        case "ByteLevel":
            // A token that no bytes made, such as an added one, stands for itself.
            return { tokens in
                let bytes = tokens.flatMap { ByteAlphabet.bytes(of: $0) ?? $0 }
                return [Array(String(decoding: bytes, as: UTF8.self).utf8)]
            }
        case "ByteFallback": return fallback
        case "Fuse": return { [$0.flatMap { $0 }] }
        case "Replace":
            guard let old = part["pattern"]["String"].bytes, !old.isEmpty else { throw unsupported("a decoder that searches") }
            let new = part["content"].bytes ?? []
            return { $0.map { replaced($0, old, new) } }
        case "Strip":
            let content = part["content"].bytes ?? []
            let (start, stop) = (part["start"].int ?? 0, part["stop"].int ?? 0)
            return { $0.map { stripped($0, content, start, stop) } }
        default: throw unsupported("a decoder of type \(kind)")
        }
    }

    /// <0xE2> and the like, one after the other, are bytes of characters.
    private static let fallback: @Sendable ([[UInt8]]) -> [[UInt8]] = { tokens in
        var (found, bytes): ([[UInt8]], [UInt8]) = ([], [])
        func flush() {
            if bytes.isEmpty { return }
            let whole = String(decoding: bytes, as: UTF8.self).utf8.elementsEqual(bytes)
            found += whole ? [bytes] : bytes.map { _ in Array("\u{FFFD}".utf8) }
            bytes = []
        }
        for token in tokens {
            if let byte = hexByte(token) {
                bytes.append(byte)
            } else {
                flush()
                found.append(token)
            }
        }
        flush()
        return found
    }

    private static func hexByte(_ token: [UInt8]) -> UInt8? {
        guard token.count == 6, token.starts(with: "<0x".utf8), token[5] == UInt8(ascii: ">") else { return nil }
        return UInt8(String(decoding: token[3..<5], as: UTF8.self), radix: 16)
    }

    private static func replaced(_ token: [UInt8], _ old: [UInt8], _ new: [UInt8]) -> [UInt8] {
        var (found, at): ([UInt8], Int) = ([], 0)
        while at < token.count {
            if token[at...].starts(with: old) {
                found += new
                at += old.count
            } else {
                found.append(token[at])
                at += 1
            }
        }
        return found
    }

    private static func stripped(_ token: [UInt8], _ content: [UInt8], _ start: Int, _ stop: Int) -> [UInt8] {
        guard !content.isEmpty else { return token }
        var rest = token[...]
        for _ in 0..<start where rest.starts(with: content) { rest = rest.dropFirst(content.count) }
        for _ in 0..<stop where rest.reversed().starts(with: content.reversed()) { rest = rest.dropLast(content.count) }
        return Array(rest)
    }
}
