import Foundation

/// What a normaliser or a pre-tokenizer of tokenizer.json does to a text.
typealias Normalise = @Sendable ([Unicode.Scalar]) -> [Unicode.Scalar]
typealias PreTokenise = @Sendable ([[Unicode.Scalar]]) -> [[Unicode.Scalar]]

private let GPT2 = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#

/// - Parameters:
///   - part: Of tokenizer.json, null for none.
func normaliser(_ part: JSON) throws -> Normalise {
    if part.isNull { return { $0 } }
    let kind = part["type"].string ?? "none"
    switch kind {
    case "NFC": return { $0.text.precomposedStringWithCanonicalMapping.scalars }
    case "NFD": return { $0.text.decomposedStringWithCanonicalMapping.scalars }
    case "NFKC": return { $0.text.precomposedStringWithCompatibilityMapping.scalars }
    case "NFKD": return { $0.text.decomposedStringWithCompatibilityMapping.scalars }
    case "Prepend":
        let prefix = (part["prepend"].string ?? "").scalars
        return { $0.isEmpty ? $0 : prefix + $0 }
    case "Replace":
        let (find, content) = (try finder(part["pattern"]), (part["content"].string ?? "").scalars)
        return { text in
            cut(text, find(text)).flatMap { $0.matched ? content : Array(text[$0.range]) }
        }
    case "Sequence":
        let steps = try (part["normalizers"].array ?? []).map(normaliser)
        return { text in steps.reduce(text) { $1($0) } }
    default: throw unsupported("a normaliser of type \(kind)")
    }
}

/// Splits what it is given further, each piece alone, so that a pattern's look-ahead ends with its piece.
func preTokeniser(_ part: JSON) throws -> PreTokenise {
    if part.isNull { return { $0 } }
    let kind = part["type"].string ?? "none"
    switch kind {
    case "Sequence":
        let steps = try (part["pretokenizers"].array ?? []).map(preTokeniser)
        return { pieces in steps.reduce(pieces) { $1($0) } }
    case "Digits":
        let pattern = try Pattern(part["individual_digits"].bool == true ? #"\p{N}"# : #"\p{N}+"#)
        return { $0.flatMap { piece in cut(piece, pattern.matches(piece)).map { Array(piece[$0.range]) } } }
    case "Split":
        let find = try finder(part["pattern"])
        let join = try joiner(part["behavior"].string ?? "none")
        let inverted = part["invert"].bool ?? false
        return { $0.flatMap { piece in join(cut(piece, find(piece), inverted)).map { Array(piece[$0]) } } }
    case "ByteLevel":
        let pattern = part["use_regex"].bool == false ? nil : try Pattern(GPT2)
        let prefixes = part["add_prefix_space"].bool ?? false
        return { pieces in
            pieces.flatMap { piece -> [[Unicode.Scalar]] in
                let text = prefixes && piece.first != " " ? [" "] + piece : piece
                guard let pattern else { return [text] }
                return cut(text, pattern.matches(text)).map { Array(text[$0.range]) }
            }
        }
    default: throw unsupported("a pre-tokenizer of type \(kind)")
    }
}

/// Whether a pre-tokenizer writes bytes as characters.
func isOverBytes(_ part: JSON) -> Bool {
    part["type"].string == "ByteLevel" || (part["pretokenizers"].array ?? []).contains(where: isOverBytes)
}

private func finder(_ pattern: JSON) throws -> @Sendable ([Unicode.Scalar]) -> [Range<Int>] {
    if let source = pattern["Regex"].string {
        let compiled = try Pattern(source)
        return { compiled.matches($0) }
    }
    guard let wanted = pattern["String"].string?.scalars, !wanted.isEmpty else { throw unsupported("a pattern of no kind") }
    return { text in
        var found: [Range<Int>] = []
        var at = 0
        while at + wanted.count <= text.count {
            if text[at..<at + wanted.count].elementsEqual(wanted) {
                found.append(at..<at + wanted.count)
                at += wanted.count
            } else {
                at += 1
            }
        }
        return found
    }
}

typealias CutPart = (range: Range<Int>, matched: Bool)

/// A text's matches and what is between them.
///
/// - Parameters:
///   - inverted: What does not match is what is split at.
func cut(_ text: [Unicode.Scalar], _ matches: [Range<Int>], _ inverted: Bool = false) -> [CutPart] {
    var (found, end): ([CutPart], Int) = ([], 0)
    for match in matches {
        if match.lowerBound > end { found.append((end..<match.lowerBound, inverted)) }
        found.append((match, !inverted))
        end = match.upperBound
    }
    if end < text.count { found.append((end..<text.count, inverted)) }
    return found
}

/// How the parts of a cut become pieces.
private func joiner(_ behavior: String) throws -> @Sendable ([CutPart]) -> [Range<Int>] {
    switch behavior {
    case "Isolated": return { $0.map(\.range) }
    case "Removed": return { $0.filter { !$0.matched }.map(\.range) }
    case "Contiguous": return { joined($0) { $0.matched == $1.matched } }
    case "MergedWithPrevious": return { joined($0) { !$0.matched && $1.matched } }
    case "MergedWithNext": return { joined($0) { $0.matched && !$1.matched } }
    default: throw unsupported("a split of behaviour \(behavior)")
    }
}

private func joined(_ parts: [CutPart], _ belong: (CutPart, CutPart) -> Bool) -> [Range<Int>] {
    var found: [Range<Int>] = []
    for (place, part) in parts.enumerated() {
        if place > 0, belong(parts[place - 1], part) {
            found[found.count - 1] = found[found.count - 1].lowerBound..<part.range.upperBound
        } else {
            found.append(part.range)
        }
    }
    return found
}
