import XCTest

@testable import EdgekitCore

/// Every bundle's golden vectors: strings, pixels, prompts, ids, positions. Answers take a runtime: EdgekitONNX.
final class GoldenTests: XCTestCase {
    func testEveryBundlesTextsAndPictures() throws {
        let bundles = try Vectors.bundles()
        XCTAssertFalse(bundles.isEmpty)
        for folder in bundles {
            let bundle = try ModelBundle(folder: folder)
            var test = try SelfTest(bundle, Processor(bundle))
            test.checkTexts()
            XCTAssertEqual(test.report.failures, [], folder.lastPathComponent)
            for row in test.report.rows { XCTAssertGreaterThan(row.checked, 5, "\(folder.lastPathComponent) \(row.kind)") }
        }
    }

    func testAChangedVectorIsFound() throws {
        let folder = try XCTUnwrap(try Vectors.bundles().first)
        let copy = FileManager.default.temporaryDirectory.appendingPathComponent("edgekit-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: copy) }
        try FileManager.default.copyItem(at: folder, to: copy)
        let path = copy.appendingPathComponent(ModelBundle.golden)
        var text = try String(contentsOf: path, encoding: .utf8)
        let place = text.range(of: #""ids":["#)!
        text.replaceSubrange(place, with: #""ids":[1,"#)
        try FileManager.default.removeItem(at: path)
        try text.write(to: path, atomically: true, encoding: .utf8)
        let bundle = try ModelBundle(folder: copy)
        var test = try SelfTest(bundle, Processor(bundle))
        test.checkTexts()
        XCTAssertFalse(test.report.passed)
    }
}
