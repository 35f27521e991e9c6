import Foundation
import XCTest

@testable import EdgekitCore

/// A server in memory, whose downloads of weights can be broken off.
private final class FakeServer: Fetcher, @unchecked Sendable {
    struct Broken: Error {}
    var files: [String: [UInt8]] = [:]
    var breaksAfter: Int?
    var ranges = true
    var asked: [(String, Int)] = []

    func fetch(_ url: URL, from start: Int, begin: (Bool) throws -> Void, piece: ([UInt8]) throws -> Void) async throws {
        asked.append((url.lastPathComponent, start))
        guard let whole = files[url.lastPathComponent] else { throw EdgekitError("404", code: "download") }
        try begin(ranges && start > 0)
        var (rest, given) = (whole[(ranges ? start : 0)...], 0)
        while !rest.isEmpty {
            if let limit = breaksAfter, given >= limit, url.lastPathComponent != "model.json" { throw Broken() }
            let part = rest.prefix(10)
            try piece(Array(part))
            given += part.count
            rest = rest.dropFirst(part.count)
        }
    }
}

final class StoreTests: XCTestCase {
    private var root: URL!
    private let server = FakeServer()
    private let address = URL(string: "http://host/app/model.json")!
    private let weights = (0..<100).map { UInt8($0) }

    override func setUp() {
        root = FileManager.default.temporaryDirectory.appendingPathComponent("edgekit-\(UUID().uuidString)")
        serve(weights)
    }

    override func tearDown() { try? FileManager.default.removeItem(at: root) }

    private func serve(_ weights: [UInt8], bytes: Int? = nil) {
        let sum = SHA256Sum.of(self.weights)
        let model = """
            {"format": 1, "files": [{"path": "onnx/a.onnx", "url": "../onnx/a.onnx", "sha256": "\(sum)", "bytes": \(bytes ?? 100), "for": "model"}]}
            """
        server.files = ["model.json": Array(model.utf8), "a.onnx": weights]
    }

    func testABundleIsFetchedOnce() async throws {
        let store = try ModelStore(root: root, fetcher: server)
        let seen = Seen()
        let folder = try await store.bundle(at: address) { seen.add($0.doneBytes) }
        XCTAssertEqual(try readBytes(folder.appendingPathComponent("onnx/a.onnx")), weights)
        XCTAssertEqual(seen.values.last, 100)
        XCTAssertEqual(seen.values, seen.values.sorted())
        _ = try await store.bundle(at: address)
        XCTAssertEqual(server.asked.filter { $0.0 == "a.onnx" }.count, 1)
    }

    func testTheAppsOwnModelFileSaysWhatIsDownloaded() async throws {
        let text = String(decoding: server.files["model.json"]!, as: UTF8.self)
        let own = root.appendingPathComponent("model.json")
        try FileManager.default.createDirectory(at: root, withIntermediateDirectories: true)
        try Data(text.replacingOccurrences(of: "../onnx", with: "http://elsewhere/onnx").utf8).write(to: own)
        let folder = try await ModelStore(root: root, fetcher: server).bundle(at: own)
        XCTAssertEqual(try readBytes(folder.appendingPathComponent("onnx/a.onnx")), weights)
        XCTAssertEqual(server.asked.map(\.0), ["a.onnx"])  // no server is asked for the hashes
    }

    func testABrokenDownloadGoesOnWhereItStopped() async throws {
        let store = try ModelStore(root: root, fetcher: server)
        server.breaksAfter = 30
        await assertThrows { _ = try await store.bundle(at: self.address) }
        server.breaksAfter = nil
        let folder = try await store.bundle(at: address)
        XCTAssertEqual(server.asked.filter { $0.0 == "a.onnx" }.map(\.1), [0, 30])
        XCTAssertEqual(try readBytes(folder.appendingPathComponent("onnx/a.onnx")), weights)
    }

    func testAServerWithoutRangesStartsAnew() async throws {
        let store = try ModelStore(root: root, fetcher: server)
        server.breaksAfter = 30
        await assertThrows { _ = try await store.bundle(at: self.address) }
        (server.breaksAfter, server.ranges) = (nil, false)
        let folder = try await store.bundle(at: address)
        XCTAssertEqual(server.asked.filter { $0.0 == "a.onnx" }.map(\.1), [0, 30])
        XCTAssertEqual(try readBytes(folder.appendingPathComponent("onnx/a.onnx")), weights)
    }

    func testOneFlippedBitIsRefused() async throws {
        var wrong = weights
        wrong[50] ^= 1
        serve(wrong)
        let store = try ModelStore(root: root, fetcher: server)
        await assertThrows { _ = try await store.bundle(at: self.address) }
        let left = try FileManager.default.contentsOfDirectory(atPath: root.appendingPathComponent("files").path)
        XCTAssertEqual(left, [])  // a damaged part would be damaged for ever
        serve(weights)
        _ = try await store.bundle(at: address)
    }

    func testALongerFileAndOneThatHasNoRoomAreRefused() async throws {
        serve(weights + [1])
        await assertThrows { _ = try await ModelStore(root: self.root, fetcher: self.server).bundle(at: self.address) }
        serve(weights, bytes: 1 << 60)
        do {
            _ = try await ModelStore(root: root, fetcher: server).bundle(at: address)
            XCTFail("no room")
        } catch let error as EdgekitError { XCTAssertEqual(error.code, "space") }
    }

    func testAnotherBundlesFilesAreRemoved() async throws {
        let store = try ModelStore(root: root, fetcher: server)
        let folder = try await store.bundle(at: address)
        try store.removeAll(but: folder)
        XCTAssertEqual(try readBytes(folder.appendingPathComponent("onnx/a.onnx")), weights)
        try store.removeAll()
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: root.appendingPathComponent("files").path), [])
    }

    /// Over a real server, which EDGEKIT_SERVER names: tests/apps/swift/server.py gives 30,000 bytes and breaks off.
    func testARealServerThatBreaksOff() async throws {
        guard let server = ProcessInfo.processInfo.environment["EDGEKIT_SERVER"].flatMap(URL.init) else {
            throw XCTSkip("EDGEKIT_SERVER names no server; make test-swift starts one")
        }
        let store = try ModelStore(root: root)
        let model = server.appendingPathComponent("app/model.json")
        await assertThrows { _ = try await store.bundle(at: model) }
        let part = try FileManager.default.contentsOfDirectory(atPath: root.appendingPathComponent("files").path)
        XCTAssertEqual(part.count, 1)
        let folder = try await store.bundle(at: model)
        XCTAssertEqual(try readBytes(folder.appendingPathComponent("weights.bin")).count, 100_000)
        await assertThrows { _ = try await store.bundle(at: server.appendingPathComponent("none/model.json")) }
    }

    private func assertThrows(_ body: () async throws -> Void, line: UInt = #line) async {
        do {
            try await body()
            XCTFail("nothing was thrown", line: line)
        } catch {}
    }
}

private final class Seen: @unchecked Sendable {
    private let lock = NSLock()
    private var own: [Int] = []
    var values: [Int] { lock.withLock { own } }
    func add(_ value: Int) { lock.withLock { own.append(value) } }
}
