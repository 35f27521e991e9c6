/// Bytes as a key. Swift's strings compare by canonical equivalence, so "é" and "e\u{301}" would be one token.
struct ByteString: Hashable, Sendable {
    let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }
    init(_ text: String) { bytes = Array(text.utf8) }

    func hash(into hasher: inout Hasher) {
        bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
    }

    var text: String { String(decoding: bytes, as: UTF8.self) }
}

extension Array where Element == Unicode.Scalar {
    /// The scalars as UTF-8.
    var utf8: [UInt8] { flatMap { UTF8.encode($0).map(Array<UInt8>.init) ?? [] } }
    /// As text; nothing is normalised.
    var text: String {
        var found = String.UnicodeScalarView()
        found.append(contentsOf: self)
        return String(found)
    }
}

extension String {
    var scalars: [Unicode.Scalar] { Array(unicodeScalars) }
    /// Equal to the last byte, which `==` does not ask for.
    func isExactly(_ other: String) -> Bool { utf8.elementsEqual(other.utf8) }
}
