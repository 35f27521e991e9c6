import EdgekitCore
import EdgekitLlama
import Foundation
import XCTest

/// Whole answers in llama.cpp: the same ids as in Python. tests/apps/swift/vectors.py made the bundles.
final class AnswerTests: XCTestCase {
    func testEveryBundlesSelfTest() async throws {
        guard let path = ProcessInfo.processInfo.environment["EDGEKIT_VECTORS"] else {
            throw XCTSkip("EDGEKIT_VECTORS names no folder of vectors; make test-swift makes one")
        }
        let place = URL(fileURLWithPath: path).appendingPathComponent("gguf")
        let names = try FileManager.default.contentsOfDirectory(atPath: place.path).filter { !$0.hasPrefix(".") }
        XCTAssertFalse(names.isEmpty)
        for name in names.sorted() {
            let model = try await VisionModel(bundle: place.appendingPathComponent(name), runtime: .llama)
            let report = try await model.selfTest()
            XCTAssertEqual(report.failures + report.rows.flatMap(\.ties), [], name)
            XCTAssertGreaterThan(report.rows.first { $0.kind == "answers" }?.checked ?? 0, 1, name)
            print(name, "in llama.cpp:", report.rows.map { "\($0.kind) \($0.checked)" }.joined(separator: ", "))
            model.close()
        }
    }
}
