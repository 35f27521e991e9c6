import EdgekitCore
import EdgekitONNX
import Foundation
import XCTest

/// Whole answers in ONNX Runtime: the same ids as in Python. tests/apps/swift/vectors.py made the bundles.
final class AnswerTests: XCTestCase {
    private func vectors(_ name: String) throws -> [URL] {
        guard let path = ProcessInfo.processInfo.environment["EDGEKIT_VECTORS"] else {
            throw XCTSkip("EDGEKIT_VECTORS names no folder of vectors; make test-swift makes one")
        }
        let place = URL(fileURLWithPath: path).appendingPathComponent(name)
        return try FileManager.default.contentsOfDirectory(atPath: place.path)
            .filter { !$0.hasPrefix(".") }.sorted().map(place.appendingPathComponent)
    }

    private func model(_ name: String) async throws -> VisionModel {
        guard let folder = try vectors("bundles").first(where: { $0.lastPathComponent == name }) else {
            throw XCTSkip("there is no bundle \(name)")
        }
        return try await VisionModel(bundle: folder, runtime: .onnx)
    }

    private func last(_ stream: AsyncThrowingStream<Event, any Error>) async throws -> (Answer, String) {
        var (text, answer): (String, Answer?) = ("", nil)
        for try await event in stream {
            switch event {
            case .text(let piece): text += piece
            case .token: break
            case .done(let found): answer = found
            }
        }
        return (try XCTUnwrap(answer), text)
    }

    func testEveryBundlesSelfTest() async throws {
        for folder in try vectors("bundles") {
            let model = try await VisionModel(bundle: folder, runtime: .onnx)
            let report = try await model.selfTest()
            XCTAssertEqual(report.failures + report.rows.flatMap(\.ties), [], folder.lastPathComponent)
            XCTAssertTrue(report.passed)
            let answered = report.rows.first { $0.kind == "answers" }?.checked ?? 0
            XCTAssertGreaterThan(answered, 1, folder.lastPathComponent)
            print(folder.lastPathComponent, report.rows.map { "\($0.kind) \($0.checked)" }.joined(separator: ", "))
        }
    }

    func testAnAnswerMayPartAtANearTieAndNowhereElse() async throws {
        // nil: the same ids, written as runs.
        for (other, gap, ties, passes) in [([1, 2], 0.01, 1, true), ([1, 2], 0.5, 0, false), (nil, 0.5, 0, true)] {
            let copy = try copyOfDemo()
            defer { try? FileManager.default.removeItem(at: copy) }
            let path = copy.appendingPathComponent("golden/golden.json")
            var golden = try XCTUnwrap(try JSONSerialization.jsonObject(with: Data(contentsOf: path)) as? [String: Any])
            var answers = try XCTUnwrap(golden["answers"] as? [String: Any])
            var single = try XCTUnwrap(answers["single"] as? [[String: Any]])
            let runs = try XCTUnwrap(single[0]["ids"] as? [Int]).map { [$0, 1] }
            single[0]["ids"] = other ?? runs
            single[0]["gap"] = gap
            answers["single"] = single
            golden["answers"] = answers
            try FileManager.default.removeItem(at: path)
            try JSONSerialization.data(withJSONObject: golden).write(to: path)
            let report = try await VisionModel(bundle: copy, runtime: .onnx).selfTest()
            XCTAssertEqual(report.rows.flatMap(\.ties).count, ties)
            XCTAssertEqual(report.passed, passes)
            XCTAssertEqual(report.failures.count, passes ? 0 : 1)
        }
    }

    private func copyOfDemo() throws -> URL {
        let folder = try XCTUnwrap(try vectors("bundles").first { $0.lastPathComponent == "demo-fp32" })
        let copy = FileManager.default.temporaryDirectory.appendingPathComponent("edgekit-\(UUID().uuidString)")
        try FileManager.default.copyItem(at: folder, to: copy)
        return copy
    }

    func testQuestionsHaveTheSameIds() async throws {
        for file in try vectors("questions") {
            let model = try await model(file.deletingPathExtension().lastPathComponent)
            let questions = try JSON(parsing: [UInt8](Data(contentsOf: file)), source: file.lastPathComponent).array ?? []
            XCTAssertGreaterThanOrEqual(questions.count, 30)
            for one in questions {
                let picture = try Picture(width: one["width"].int!, height: one["height"].int!, rgb: bytes(one["rgb"].bytes!))
                let (found, text) = try await last(model.answer([message(one["messages"][0])], [picture], Options(maxTokens: 8)))
                XCTAssertEqual(found.ids, one["ids"].ints, "\(file.lastPathComponent)")
                XCTAssertEqual(found.text, one["text"].string)
                XCTAssertEqual(text.trimmingCharacters(in: .whitespaces), found.text)
            }
            print(file.lastPathComponent, questions.count, "questions with the same ids")
        }
    }

    private func message(_ json: JSON) -> Message {
        Message(.user, (json["content"].array ?? []).map { $0["type"].string == "image" ? .image : .text($0["text"].string ?? "") })
    }

    private func bytes(_ text: [UInt8]) -> [UInt8] {
        func digit(_ byte: UInt8) -> UInt8 { byte < 0x40 ? byte - 0x30 : byte - 0x57 }
        return stride(from: 0, to: text.count, by: 2).map { digit(text[$0]) << 4 | digit(text[$0 + 1]) }
    }

    func testAnAnswerIsCancelledAndTheNextOneIsWhole() async throws {
        let model = try await model("smolvlm")
        let whole = try await last(model.answer("What is it?", maxTokens: 24)).0
        let task = Task { () -> Int in
            var tokens = 0
            for try await event in model.answer("What is it?", maxTokens: 100_000) {
                if case .token = event { tokens += 1 }
                if tokens == 3 { break }
            }
            return tokens
        }
        let tokens = try await task.value
        XCTAssertEqual(tokens, 3)
        let again = try await last(model.answer("What is it?", maxTokens: 24)).0
        XCTAssertEqual(again.ids, whole.ids)
    }

    func testAChatGoesOnFromItsCacheUnlessAnotherAnswerCameBetween() async throws {
        let model = try await model("demo-fp32")
        let picture = try Picture(width: 64, height: 64, rgb: [UInt8](repeating: 200, count: 64 * 64 * 3))
        let chat = model.chat(options: Options(maxTokens: 4))
        let first = try await last(chat.say("Is there a circle?", [picture])).0
        XCTAssertEqual(first.timings.cachedTokens, 0)
        let second = try await last(chat.say("Are you sure?")).0
        XCTAssertGreaterThan(second.timings.cachedTokens, 10)
        let messages = chat.messages
        _ = try await last(model.answer("What?", picture, maxTokens: 2))
        let third = try await last(chat.say("And now?")).0
        XCTAssertEqual(third.timings.cachedTokens, 0)
        XCTAssertEqual(messages.count, 4)
        let anew = try await last(model.answer(Array(chat.messages.dropLast()), [picture], Options(maxTokens: 4))).0
        XCTAssertEqual(third.ids, anew.ids)
    }

    /// What the app's Bench tab shares; tests/apps/swift/run has `edgekit bench --import` read it.
    func testFiguresForBench() async throws {
        let model = try await model("demo-fp32")
        var report = PhoneReport(bundle: String(repeating: "0", count: 64), device: "iPhone0,0", os: "Linux")
        (report.app, report.peakMemoryBytes, report.selfTest) = ("tests", 1 << 20, try await model.selfTest())
        for _ in 0..<3 { report.answers.append(try await last(model.answer("Is there a circle?", maxTokens: 4)).0) }
        let folder = try XCTUnwrap(ProcessInfo.processInfo.environment["EDGEKIT_VECTORS"])
        try report.json(of: model).write(to: URL(fileURLWithPath: folder).appendingPathComponent("phone.json"))
    }

    func testBadInputIsSaid() async throws {
        let model = try await model("demo-fp32")
        do {
            _ = try await last(model.answer("Is <image> a picture?", nil, maxTokens: 2))
            XCTFail("a literal place of a picture")
        } catch let error as EdgekitError { XCTAssertEqual(error.code, "prompt") }
        do {
            _ = try await last(model.answer([.question("What?", images: 0)], [], Options(contextTokens: 3)))
            XCTFail("no room")
        } catch let error as EdgekitError { XCTAssertTrue(error.what.contains("3 fit")) }
        model.close()
        do {
            _ = try await last(model.answer("What?", maxTokens: 2))
            XCTFail("closed")
        } catch let error as EdgekitError { XCTAssertEqual(error.code, "closed") }
    }

    func testADamagedGraphIsRefused() async throws {
        let copy = try copyOfDemo()
        defer { try? FileManager.default.removeItem(at: copy) }
        let graph = copy.appendingPathComponent("onnx/embed_tokens.onnx")
        try FileManager.default.removeItem(at: graph)
        try Data("nothing".utf8).write(to: graph)
        do {
            _ = try await VisionModel(bundle: copy, runtime: .onnx)
            XCTFail("a damaged graph was loaded")
        } catch let error as EdgekitError { XCTAssertEqual(error.code, "runtime") }
    }
}
