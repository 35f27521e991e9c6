import Foundation
import XCTest

@testable import EdgekitCore

/// What Python made for these tests: tests/apps/swift/vectors.py; EDGEKIT_VECTORS names the folder.
enum Vectors {
    static func folder() throws -> URL {
        guard let path = ProcessInfo.processInfo.environment["EDGEKIT_VECTORS"] else {
            throw XCTSkip("EDGEKIT_VECTORS names no folder of vectors; make test-swift makes one")
        }
        return URL(fileURLWithPath: path)
    }

    static func core() throws -> JSON { try readJSON(folder().appendingPathComponent("core.json")) }

    /// Bundles by name.
    static func bundles() throws -> [URL] {
        let place = try folder().appendingPathComponent("bundles")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: place.path)) ?? []
        return names.filter { !$0.hasPrefix(".") }.sorted().map(place.appendingPathComponent)
    }
}

/// Bytes of hexadecimal text.
func bytes(hex text: [UInt8]) -> [UInt8] {
    func digit(_ byte: UInt8) -> UInt8 { byte < 0x40 ? byte - 0x30 : byte - 0x57 }
    return stride(from: 0, to: text.count, by: 2).map { digit(text[$0]) << 4 | digit(text[$0 + 1]) }
}

extension JSON {
    /// Numbers with null for minus infinity.
    var floats: [Float] { (array ?? []).map { $0.double.map(Float.init) ?? -.infinity } }
}
