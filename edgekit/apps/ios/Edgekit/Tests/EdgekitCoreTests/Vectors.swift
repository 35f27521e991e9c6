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

    static func core(_ name: String) throws -> URL { try folder().appendingPathComponent("core/\(name)") }

    /// Cases of a file of core/.
    static func cases(_ name: String) throws -> [JSON] { try readJSON(core("\(name).json"))["cases"].array ?? [] }

    /// Names in a folder of core/.
    static func names(_ name: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: core(name).path).sorted()
    }

    /// Bundles by name.
    static func bundles() throws -> [URL] {
        let place = try folder().appendingPathComponent("bundles")
        let names = (try? FileManager.default.contentsOfDirectory(atPath: place.path)) ?? []
        return names.filter { !$0.hasPrefix(".") }.sorted().map(place.appendingPathComponent)
    }
}

extension JSON {
    /// Numbers with null for minus infinity.
    var floats: [Float] { (array ?? []).map { $0.double.map(Float.init) ?? -.infinity } }
}
