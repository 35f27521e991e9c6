import Foundation
import XCTest

@testable import EdgekitCore
@testable import EdgekitONNX

/// A cache gives what a prefill from nothing gives, however it was filled: token by token beyond its first buffers, and
/// again behind a cut.
final class CacheTests: XCTestCase {
    private static let first = 100
    private static let cut = 150
    private static let asked = 300  // more than the first buffers hold

    func testStepsAndCutsAreAsOnePrefill() throws {
        guard let path = ProcessInfo.processInfo.environment["EDGEKIT_VECTORS"] else {
            throw XCTSkip("EDGEKIT_VECTORS names no folder of vectors; make test-swift makes one")
        }
        let place = URL(fileURLWithPath: path).appendingPathComponent("bundles")
        var (kept, anew) = (0, 0)
        for name in try FileManager.default.contentsOfDirectory(atPath: place.path).sorted() where !name.hasPrefix(".") {
            let bundle = try ModelBundle(folder: place.appendingPathComponent(name))
            // Dynamic int8 rounds all tokens of a call by one scale, so there other calls give other numbers.
            guard let bar: Float = ["fp32": 1e-3, "fp16": 2e-2][bundle.precision] else { continue }
            let prompt = try long(Processor(bundle))
            let whole = try ModuleEngine(bundle, OnnxModules(bundle, threads: 1)).prefill(prompt, nil)

            // Another engine: buffers that were once large enough would not have to grow.
            let engine = try ModuleEngine(bundle, OnnxModules(bundle, threads: 1))
            var logits = try engine.prefill(part(prompt, 0..<Self.first), nil)
            for id in prompt.ids[Self.first...] { logits = try engine.step(id) }
            assertClose(logits, whole, bar, "\(name): token by token")

            let length = engine.rewind(Self.cut)
            if length == 0 {
                anew += 1
                continue
            }
            kept += 1
            XCTAssertEqual(length, Self.cut)
            assertClose(try engine.prefill(prompt.tail(Self.cut, 0), nil), whole, bar, "\(name): behind a cut")
        }
        XCTAssertGreaterThan(kept, 2)
        print("caches:", kept, "cut,", anew, "with states that cannot go back")
    }

    private func long(_ processor: Processor) throws -> Prepared {
        let text = (0..<Self.asked).map { "word \($0)" }.joined(separator: " ")
        let prompt = try processor.prepare([.question(text, images: 0)], [])
        XCTAssertGreaterThan(prompt.ids.count, Self.asked)
        return part(prompt, 0..<Self.asked)
    }

    private func part(_ prompt: Prepared, _ places: Range<Int>) -> Prepared {
        Prepared(ids: Array(prompt.ids[places]), pixels: [], positions: prompt.positions.map { Array($0[places]) })
    }

    private func assertClose(_ found: [Float], _ wanted: [Float], _ bar: Float, _ what: String) {
        let scale = wanted.map(abs).max() ?? 1
        let gap = zip(found, wanted).map { abs($0 - $1) }.max() ?? .infinity
        XCTAssertLessThan(gap, bar * max(scale, 1), what)
    }
}
