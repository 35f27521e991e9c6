/// A JSON value whose strings are bytes. Foundation's parser gives keys as strings, which compare by canonical
/// equivalence: a vocabulary with both spellings of "é" would lose a token.
public enum JSON: Sendable {
    case null, bool(Bool), number(Double), string([UInt8]), array([JSON])
    case object([(key: [UInt8], value: JSON)])

    public init(parsing bytes: [UInt8], source: String) throws {
        var reader = JSONReader(bytes: bytes, source: source)
        self = try bytes.withUnsafeBufferPointer { try reader.document($0) }
    }

    /// An entry of an object; null where it is not there. Of a key that stands twice the last one counts.
    public subscript(_ key: String) -> JSON {
        guard case .object(let entries) = self else { return .null }
        return entries.last { $0.key.elementsEqual(key.utf8) }?.value ?? .null
    }

    public subscript(_ place: Int) -> JSON {
        guard case .array(let items) = self, items.indices.contains(place) else { return .null }
        return items[place]
    }

    public var isNull: Bool { if case .null = self { return true } else { return false } }
    public var bytes: [UInt8]? { if case .string(let value) = self { return value } else { return nil } }
    public var string: String? { bytes.map { String(decoding: $0, as: UTF8.self) } }
    public var double: Double? { if case .number(let value) = self { return value } else { return nil } }
    public var int: Int? { double.flatMap { Int(exactly: $0) } }
    public var bool: Bool? { if case .bool(let value) = self { return value } else { return nil } }
    public var array: [JSON]? { if case .array(let value) = self { return value } else { return nil } }
    public var object: [(key: [UInt8], value: JSON)]? {
        if case .object(let value) = self { return value } else { return nil }
    }
    /// Whole numbers of an array; nil where something else is among them.
    public var ints: [Int]? {
        guard let array else { return nil }
        let found = array.compactMap(\.int)
        return found.count == array.count ? found : nil
    }
    public var doubles: [Double]? {
        guard let array else { return nil }
        let found = array.compactMap(\.double)
        return found.count == array.count ? found : nil
    }
}

private struct JSONReader {
    let bytes: [UInt8]
    let source: String
    var at = 0
    static let deepest = 64

    init(bytes: [UInt8], source: String) { (self.bytes, self.source) = (bytes, source) }

    func fail(_ why: String) -> EdgekitError { damaged("\(source) is not valid JSON.", "At byte \(at): \(why).") }

    mutating func document(_ given: UnsafeBufferPointer<UInt8>) throws -> JSON {
        let value = try self.value(given, 0)
        skip(given)
        guard at == given.count else { throw fail("more follows") }
        return value
    }

    mutating func skip(_ given: UnsafeBufferPointer<UInt8>) {
        while at < given.count, [0x20, 0x0A, 0x0D, 0x09].contains(given[at]) { at += 1 }
    }

    mutating func value(_ given: UnsafeBufferPointer<UInt8>, _ depth: Int) throws -> JSON {
        guard depth < Self.deepest else { throw fail("it is nested too deep") }
        skip(given)
        guard at < given.count else { throw fail("it ends too early") }
        switch given[at] {
        case UInt8(ascii: "{"): return try object(given, depth)
        case UInt8(ascii: "["): return try array(given, depth)
        case UInt8(ascii: "\""): return .string(try string(given))
        case UInt8(ascii: "t"): return try word(given, "true", .bool(true))
        case UInt8(ascii: "f"): return try word(given, "false", .bool(false))
        case UInt8(ascii: "n"): return try word(given, "null", .null)
        default: return .number(try number(given))
        }
    }

    mutating func word(_ given: UnsafeBufferPointer<UInt8>, _ word: String, _ value: JSON) throws -> JSON {
        guard at + word.utf8.count <= given.count, given[at..<at + word.utf8.count].elementsEqual(word.utf8) else {
            throw fail("no value")
        }
        at += word.utf8.count
        return value
    }

    mutating func next(_ given: UnsafeBufferPointer<UInt8>, _ wanted: Unicode.Scalar) -> Bool {
        skip(given)
        guard at < given.count, given[at] == UInt8(ascii: wanted) else { return false }
        at += 1
        return true
    }

    mutating func object(_ given: UnsafeBufferPointer<UInt8>, _ depth: Int) throws -> JSON {
        at += 1
        var entries: [(key: [UInt8], value: JSON)] = []
        if next(given, "}") { return .object(entries) }
        repeat {
            skip(given)
            guard at < given.count, given[at] == UInt8(ascii: "\"") else { throw fail("no key") }
            let key = try string(given)
            guard next(given, ":") else { throw fail("no colon") }
            entries.append((key, try value(given, depth + 1)))
        } while next(given, ",")
        guard next(given, "}") else { throw fail("an object without its end") }
        return .object(entries)
    }

    mutating func array(_ given: UnsafeBufferPointer<UInt8>, _ depth: Int) throws -> JSON {
        at += 1
        var items: [JSON] = []
        if next(given, "]") { return .array(items) }
        repeat { items.append(try value(given, depth + 1)) } while next(given, ",")
        guard next(given, "]") else { throw fail("an array without its end") }
        return .array(items)
    }

    mutating func number(_ given: UnsafeBufferPointer<UInt8>) throws -> Double {
        let start = at
        while at < given.count, "+-.0123456789eE".utf8.contains(given[at]) { at += 1 }
        let text = String(decoding: given[start..<at], as: UTF8.self)
        guard let value = Double(text), value.isFinite, given[start] != UInt8(ascii: "+") else { throw fail("no number") }
        return value
    }

    mutating func string(_ given: UnsafeBufferPointer<UInt8>) throws -> [UInt8] {
        at += 1
        var found: [UInt8] = []
        while at < given.count {
            let byte = given[at]
            at += 1
            if byte == UInt8(ascii: "\"") { return found }
            if byte < 0x20 { throw fail("a control character in a string") }
            if byte == UInt8(ascii: "\\") { try escape(given, &found) } else { found.append(byte) }
        }
        throw fail("a string without its end")
    }

    mutating func escape(_ given: UnsafeBufferPointer<UInt8>, _ found: inout [UInt8]) throws {
        guard at < given.count else { throw fail("a string without its end") }
        let letter = Unicode.Scalar(given[at])
        at += 1
        let plain: [Unicode.Scalar: UInt8] = [
            "\"": 0x22, "\\": 0x5C, "/": 0x2F, "b": 0x08, "f": 0x0C, "n": 0x0A, "r": 0x0D, "t": 0x09,
        ]
        if let byte = plain[letter] { return found.append(byte) }
        guard letter == "u" else { throw fail("an unknown escape") }
        var code = try hex(given)
        if (0xD800..<0xDC00).contains(code), at + 1 < given.count, given[at] == 0x5C, given[at + 1] == 0x75 {
            let before = at
            at += 2
            let low = try hex(given)
            if (0xDC00..<0xE000).contains(low) {
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            } else {
                at = before
            }
        }
        found.append(contentsOf: UTF8.encode(Unicode.Scalar(code) ?? "\u{FFFD}") ?? UTF8.encode("\u{FFFD}")!)
    }

    mutating func hex(_ given: UnsafeBufferPointer<UInt8>) throws -> UInt32 {
        guard at + 4 <= given.count,
            let code = UInt32(String(decoding: given[at..<at + 4], as: UTF8.self), radix: 16),
            given[at] != UInt8(ascii: "+")
        else { throw fail("an unknown escape") }
        at += 4
        return code
    }
}
