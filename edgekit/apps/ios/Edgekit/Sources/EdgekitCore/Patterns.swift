/// A pre-tokenizer's pattern, in Oniguruma's spelling.
///
/// ICU's, which Foundation has, knows another `\s`, and Swift's own expressions match by canonical equivalence; so the
/// few things that tokenizers use are matched here, scalar by scalar, and anything else is refused by name: a pattern
/// that is nearly the same gives other tokens in silence.
struct Pattern: Sendable {
    /// One step: what is matched, and the number of the step behind it.
    indirect enum Step: Sendable {
        case one(ScalarSet, Int)
        case many(ScalarSet, least: Int, most: Int, Greed, Int)
        case either([Int])
        case look(start: Int, wanted: Bool, Int)
        case end
    }
    enum Greed: Sendable { case greedy, lazy, possessive }

    private let steps: [Step]
    private let start: Int

    init(_ source: String) throws {
        var reader = PatternReader(source)
        let tree = try reader.document()
        var builder = PatternBuilder()
        start = builder.add(tree, before: builder.add(.end))
        steps = builder.steps
    }

    /// Places of all matches that are not empty, from the left.
    func matches(_ text: [Unicode.Scalar]) -> [Range<Int>] {
        var found: [Range<Int>] = []
        var at = 0
        while at < text.count {
            if let end = run(start, text, at), end > at {
                found.append(at..<end)
                at = end
            } else {
                at += 1
            }
        }
        return found
    }

    private func run(_ first: Int, _ text: [Unicode.Scalar], _ from: Int) -> Int? {
        var (step, at) = (first, from)
        while true {
            switch steps[step] {
            case .end: return at
            case .one(let set, let next):
                guard at < text.count, set.contains(text[at]) else { return nil }
                (step, at) = (next, at + 1)
            case .look(let inner, let wanted, let next):
                guard (run(inner, text, at) != nil) == wanted else { return nil }
                step = next
            case .either(let ways):
                for way in ways.dropLast() {
                    if let end = run(way, text, at) { return end }
                }
                step = ways[ways.count - 1]
            case .many(let set, let least, let most, let greed, let next):
                var count = 0
                let room = min(most, text.count - at)
                let wanted = greed == .lazy ? least : room
                while count < min(wanted, room), set.contains(text[at + count]) { count += 1 }
                guard count >= least else { return nil }
                if greed == .possessive {
                    (step, at) = (next, at + count)
                    continue
                }
                return greed == .greedy
                    ? backwards(next, text, at, count, least) : forwards(next, text, at, count, room, set)
            }
        }
    }

    private func backwards(_ next: Int, _ text: [Unicode.Scalar], _ at: Int, _ count: Int, _ least: Int) -> Int? {
        for taken in stride(from: count, through: least, by: -1) {
            if let end = run(next, text, at + taken) { return end }
        }
        return nil
    }

    private func forwards(
        _ next: Int, _ text: [Unicode.Scalar], _ at: Int, _ count: Int, _ room: Int, _ set: ScalarSet
    ) -> Int? {
        var taken = count
        while true {
            if let end = run(next, text, at + taken) { return end }
            guard taken < room, set.contains(text[at + taken]) else { return nil }
            taken += 1
        }
    }
}

/// Some scalars: what stands between [ and ], or one letter.
struct ScalarSet: Sendable {
    enum Item: Sendable {
        case range(ClosedRange<UInt32>)
        case categories(UInt32, negated: Bool)
        case whiteSpace(negated: Bool)
    }
    private let items: [Item]
    private let negated: Bool
    private let ascii: [Bool]

    init(_ items: [Item], negated: Bool = false) {
        (self.items, self.negated) = (items, negated)
        ascii = (UInt8(0)..<128).map { Self.holds(items, Unicode.Scalar($0)) != negated }
    }

    func contains(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value < 128 ? ascii[Int(scalar.value)] : Self.holds(items, scalar) != negated
    }

    private static func holds(_ items: [Item], _ scalar: Unicode.Scalar) -> Bool {
        items.contains { item in
            switch item {
            case .range(let range): return range.contains(scalar.value)
            case .whiteSpace(let negated): return isWhiteSpace(scalar) != negated
            case .categories(let wanted, let negated):
                return (wanted & Categories.bit(scalar.properties.generalCategory) != 0) != negated
            }
        }
    }
}

/// Unicode's general categories as bits.
enum Categories {
    private static let names: [(String, Unicode.GeneralCategory)] = [
        ("Lu", .uppercaseLetter), ("Ll", .lowercaseLetter), ("Lt", .titlecaseLetter), ("Lm", .modifierLetter),
        ("Lo", .otherLetter), ("Mn", .nonspacingMark), ("Mc", .spacingMark), ("Me", .enclosingMark),
        ("Nd", .decimalNumber), ("Nl", .letterNumber), ("No", .otherNumber), ("Pc", .connectorPunctuation),
        ("Pd", .dashPunctuation), ("Ps", .openPunctuation), ("Pe", .closePunctuation), ("Pi", .initialPunctuation),
        ("Pf", .finalPunctuation), ("Po", .otherPunctuation), ("Sm", .mathSymbol), ("Sc", .currencySymbol),
        ("Sk", .modifierSymbol), ("So", .otherSymbol), ("Zs", .spaceSeparator), ("Zl", .lineSeparator),
        ("Zp", .paragraphSeparator), ("Cc", .control), ("Cf", .format), ("Cs", .surrogate), ("Co", .privateUse),
        ("Cn", .unassigned),
    ]
    private static let bits: [Unicode.GeneralCategory: UInt32] = Dictionary(
        uniqueKeysWithValues: names.enumerated().map { ($1.1, UInt32(1) << UInt32($0)) })

    static func bit(_ category: Unicode.GeneralCategory) -> UInt32 { bits[category] ?? 0 }

    /// Bits of a name such as L or Nd; 0 for no category.
    static func named(_ name: String) -> UInt32 {
        names.filter { $0.0 == name || (name.count == 1 && $0.0.hasPrefix(name)) }.reduce(0) { $0 | bit($1.1) }
    }
}
