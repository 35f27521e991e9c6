/// Turns tokens into text piece by piece.
///
/// A piece is held back while it ends in an unfinished character or in what may become a stop string, so that the
/// pieces joined are the answer's text and nothing ever has to be taken back.
struct TextStream {
    private let decode: ([Int]) -> String
    private let stops: [[UInt8]]
    private var ids: [Int] = []
    private var shown = 0
    private var bytes: [UInt8] = []
    private(set) var stopped = false
    private static let unfinished = Array("\u{FFFD}".utf8)

    /// - Parameters:
    ///   - decode: Tokens to text, white space at the end kept.
    ///   - stops: Texts that end the answer and are no part of it.
    init(_ stops: [String], _ decode: @escaping ([Int]) -> String) {
        self.decode = decode
        self.stops = stops.filter { !$0.isEmpty }.map { Array($0.utf8) }
    }

    var text: String { String(decoding: bytes, as: UTF8.self) }

    /// Add a token; the text that is certain now and was not before, often empty.
    mutating func push(_ token: Int) -> String {
        ids.append(token)
        bytes = Array(decode(ids).utf8)
        if let first = stops.compactMap({ place(of: $0) }).min() {
            stopped = true
            bytes.removeLast(bytes.count - first)
            return upto(first)
        }
        var certain = bytes.count
        while certain >= 3, bytes[certain - 3..<certain].elementsEqual(Self.unfinished) { certain -= 3 }
        return upto(certain - maybeStop(certain))
    }

    /// What was held back, now that no token follows.
    mutating func finish() -> String { upto(bytes.count) }

    private mutating func upto(_ end: Int) -> String {
        guard end > shown else { return "" }
        defer { shown = end }
        return String(decoding: bytes[shown..<end], as: UTF8.self)
    }

    private func place(of stop: [UInt8]) -> Int? {
        guard stop.count <= bytes.count else { return nil }
        return (0...bytes.count - stop.count).first { bytes[$0...].starts(with: stop) }
    }

    /// Length of the longest end of the text that a stop string begins with.
    private func maybeStop(_ end: Int) -> Int {
        let longest = min((stops.map(\.count).max() ?? 0) - 1, end)
        guard longest > 0 else { return 0 }
        return (1...longest).reversed().first { size in
            stops.contains { $0.count > size && bytes[end - size..<end].elementsEqual($0[..<size]) }
        } ?? 0
    }
}
