/// A pattern as a tree.
indirect enum PatternTree {
    case set(ScalarSet)
    case sequence([PatternTree])
    case either([PatternTree])
    case look(PatternTree, wanted: Bool)
    case many(PatternTree, least: Int, most: Int, Pattern.Greed)
}

/// From a pattern's text to its tree.
struct PatternReader {
    private let source: [Unicode.Scalar]
    private var at = 0
    private var folds = false

    init(_ source: String) { self.source = source.scalars }

    private func refuse(_ what: String) -> EdgekitError {
        EdgekitError(
            "The tokenizer's pattern \(source.text.debugDescription) is not supported.",
            why: "It holds \(what), at character \(at).",
            fix: "Run this bundle where the tokenizers library is, with edgekit run.", code: "unsupported")
    }

    mutating func document() throws -> PatternTree {
        let tree = try alternatives()
        guard at == source.count else { throw refuse("an unmatched )") }
        return tree
    }

    private mutating func take(_ text: String) -> Bool {
        let wanted = text.scalars
        guard source[at...].starts(with: wanted) else { return false }
        at += wanted.count
        return true
    }

    private mutating func alternatives() throws -> PatternTree {
        var ways: [[PatternTree]] = [[]]
        while at < source.count, source[at] != ")" {
            if take("|") {
                ways.append([])
            } else {
                ways[ways.count - 1].append(try quantified(try atom()))
            }
        }
        return ways.count == 1 ? .sequence(ways[0]) : .either(ways.map(PatternTree.sequence))
    }

    private mutating func atom() throws -> PatternTree {
        let scalar = source[at]
        at += 1
        switch scalar {
        case "(": return try group()
        case "[": return .set(try bracket())
        case "\\": return .set(ScalarSet(try escape()))
        case ".": return .set(ScalarSet([.range(10...10)], negated: true))
        case "^", "$", "*", "+", "?", "{": throw refuse("\(scalar) outside of a class")
        default: return .set(ScalarSet(try literal(scalar)))
        }
    }

    /// A letter, and in (?i: its other cases: by Unicode's simple folding the long s and the Kelvin sign are some.
    private func literal(_ scalar: Unicode.Scalar) throws -> [ScalarSet.Item] {
        let value = scalar.value
        guard folds else { return [.range(value...value)] }
        guard value < 128 else { throw refuse("a letter beyond ASCII in (?i:") }
        guard scalar.properties.isAlphabetic else { return [.range(value...value)] }
        let more: [UInt32] = [UInt32(0x73): [0x17F], 0x6B: [0x212A]][value | 0x20] ?? []
        return ([value | 0x20, value & ~0x20] + more).map { .range($0...$0) }
    }

    private mutating func group() throws -> PatternTree {
        let before = folds
        var look: Bool?
        if take("?i:") {
            folds = true
        } else if take("?=") {
            look = true
        } else if take("?!") {
            look = false
        } else if !take("?:"), at < source.count, source[at] == "?" {
            throw refuse("(" + Array(source[at..<min(at + 3, source.count)]).text)
        }
        let inner = try alternatives()
        folds = before
        guard take(")") else { throw refuse("a ( without its )") }
        return look.map { .look(inner, wanted: $0) } ?? inner
    }

    private mutating func bracket() throws -> ScalarSet {
        if folds { throw refuse("a class in (?i:") }
        let negated = take("^")
        var items: [ScalarSet.Item] = []
        var first = true
        while at < source.count {
            let scalar = source[at]
            at += 1
            if scalar == "]", !first { return ScalarSet(items, negated: negated) }
            first = false
            if scalar == "[" || scalar == "]" { throw refuse("a class in a class") }
            if scalar == "&", at < source.count, source[at] == "&" { throw refuse("&&") }
            let own = scalar == "\\" ? try escape() : [.range(scalar.value...scalar.value)]
            items += try range(own)
        }
        throw refuse("a [ without its ]")
    }

    /// What began as one item of a class, and may be the start of a range.
    private mutating func range(_ first: [ScalarSet.Item]) throws -> [ScalarSet.Item] {
        guard at + 1 < source.count, source[at] == "-", source[at + 1] != "]" else { return first }
        guard first.count == 1, case .range(let low) = first[0] else { throw refuse("a range from a class") }
        at += 1
        let scalar = source[at]
        at += 1
        let last = scalar == "\\" ? try escape() : [.range(scalar.value...scalar.value)]
        guard last.count == 1, case .range(let high) = last[0], low.lowerBound <= high.upperBound else {
            throw refuse("a range without an end")
        }
        return [.range(low.lowerBound...high.upperBound)]
    }

    private mutating func escape() throws -> [ScalarSet.Item] {
        guard at < source.count else { throw refuse("a \\ at its end") }
        let scalar = source[at]
        at += 1
        let plain: [Unicode.Scalar: UInt32] = ["n": 10, "r": 13, "t": 9, "f": 12, "v": 11]
        if let value = plain[scalar] { return [.range(value...value)] }
        switch scalar {
        case "p", "P": return [try property(scalar == "P")]
        case "s", "S": return [.whiteSpace(negated: scalar == "S")]
        case "d", "D": return [.categories(Categories.named("Nd"), negated: scalar == "D")]
        case "u", "x": return [try code(scalar == "u" ? 4 : 2)]
        default:
            if scalar.value < 128, scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) {
                throw refuse("\\\(scalar)")
            }
            return try literal(scalar)
        }
    }

    private mutating func code(_ digits: Int) throws -> ScalarSet.Item {
        let end = min(at + digits, source.count)
        guard end == at + digits, let value = UInt32(Array(source[at..<end]).text, radix: 16) else {
            throw refuse("a \\u or \\x without its digits")
        }
        at = end
        return .range(value...value)
    }

    private mutating func property(_ negated: Bool) throws -> ScalarSet.Item {
        guard take("{"), let end = source[at...].firstIndex(of: "}") else { throw refuse("\\p without a name") }
        var name = Array(source[at..<end]).text
        at = end + 1
        let caret = name.hasPrefix("^")
        if caret { name.removeFirst() }
        let found = Categories.named(name)
        guard found != 0 else { throw refuse("\\p{\(name)}") }
        return .categories(found, negated: negated != caret)
    }

    private mutating func quantified(_ tree: PatternTree) throws -> PatternTree {
        guard at < source.count, let (least, most) = try bounds() else { return tree }
        let greed: Pattern.Greed = take("+") ? .possessive : take("?") ? .lazy : .greedy
        if case .set = tree { return .many(tree, least: least, most: most, greed) }
        guard (least, most) == (0, 1), greed == .greedy else { throw refuse("a repeated group") }
        return .either([tree, .sequence([])])
    }

    private mutating func bounds() throws -> (Int, Int)? {
        if take("*") { return (0, .max) }
        if take("+") { return (1, .max) }
        if take("?") { return (0, 1) }
        guard take("{") else { return nil }
        guard let end = source[at...].firstIndex(of: "}") else { throw refuse("a { without its }") }
        let parts = source[at..<end].split(separator: ",", omittingEmptySubsequences: false).map { Array($0).text }
        at = end + 1
        guard let least = Int(parts[0]), parts.count < 3 else { throw refuse("a {} of another kind") }
        guard parts.count == 2 else { return (least, least) }
        guard let most = parts[1].isEmpty ? .max : Int(parts[1]), most >= least else { throw refuse("a {} of another kind") }
        return (least, most)
    }
}

/// From a tree to steps, the last ones first.
struct PatternBuilder {
    private(set) var steps: [Pattern.Step] = []

    mutating func add(_ step: Pattern.Step) -> Int {
        steps.append(step)
        return steps.count - 1
    }

    mutating func add(_ tree: PatternTree, before next: Int) -> Int {
        switch tree {
        case .set(let set): return add(.one(set, next))
        case .sequence(let parts): return parts.reversed().reduce(next) { add($1, before: $0) }
        case .either(let ways):
            let starts = ways.map { add($0, before: next) }
            return add(.either(starts))
        case .look(let inner, let wanted):
            let start = add(inner, before: add(.end))
            return add(.look(start: start, wanted: wanted, next))
        case .many(let inner, let least, let most, let greed):
            guard case .set(let set) = inner else { preconditionFailure("only sets are repeated") }
            return add(.many(set, least: least, most: most, greed, next))
        }
    }
}
