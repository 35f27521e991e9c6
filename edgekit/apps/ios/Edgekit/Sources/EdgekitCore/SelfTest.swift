import Foundation

/// What a self-test found: checks by kind, and what differs.
public struct SelfTestReport: Sendable, Equatable {
    public struct Row: Sendable, Equatable {
        /// strings, pictures, conversations, answers or chat.
        public let kind: String
        public var checked = 0
        /// One line each: what, and how it differs.
        public var failures: [String] = []
        /// Answers that parted where the best two logits are less than `near` apart: two correct runtimes may choose otherwise.
        public var ties: [String] = []
        /// Not checked, and why.
        public var skipped: [String] = []
    }
    public var rows: [Row] = []
    public static let near = 0.02

    /// Nothing differs, and of strings, pictures and conversations there was something to compare.
    public var passed: Bool {
        rows.allSatisfy(\.failures.isEmpty) && rows.filter { $0.checked > 0 }.map(\.kind).starts(with: ["strings", "pictures", "conversations"])
    }
    public var failures: [String] { rows.flatMap { row in row.failures.map { "\(row.kind): \($0)" } } }
}

/// Compares what this device makes of a bundle's golden vectors with what Python made of them at export.
struct SelfTest {
    private let bundle: ModelBundle
    private let processor: Processor
    private let golden: JSON
    private var pictures: [String: Picture] = [:]
    private(set) var report = SelfTestReport()

    init(_ bundle: ModelBundle, _ processor: Processor) throws {
        (self.bundle, self.processor) = (bundle, processor)
        golden = try readJSON(bundle.path(ModelBundle.golden))
        guard golden["format"].int == 1 else { throw damaged("\(ModelBundle.golden) is of another format than 1.") }
    }

    /// All but the answers, which take a runtime.
    mutating func checkTexts() {
        checkStrings()
        checkPictures()
        checkConversations()
    }

    private mutating func checkStrings() {
        var row = SelfTestReport.Row(kind: "strings")
        for entry in golden["strings"].array ?? [] {
            guard let text = entry["text"].string, let ids = entry["ids"].ints else { continue }
            row.checked += 1
            let found = processor.tokenizer.encode(text)
            if found != ids { row.failures.append("\(text.debugDescription) is \(found), not \(ids)") }
            let (back, wanted) = (processor.tokenizer.decode(ids), entry["decoded"].string ?? text)
            if !back.isExactly(wanted) {
                row.failures.append("\(ids) is \(back.debugDescription), not \(wanted.debugDescription)")
            }
        }
        report.rows.append(row)
    }

    private mutating func checkPictures() {
        var row = SelfTestReport.Row(kind: "pictures")
        for entry in golden["pictures"].array ?? [] {
            let name = entry["name"].string ?? ""
            do {
                guard let picture = try read(entry) else {
                    row.skipped.append("\(name): this system has no decoder here, and no raw pixels are given")
                    continue
                }
                row.checked += 1
                pictures[name] = picture
                let sum = SHA256Sum.of(picture.rgb)
                if sum != entry["rgb_sha256"].string { row.failures.append("\(name): decoded to other pixels") }
                if let why = compare(picture, entry["pixels"]) { row.failures.append("\(name): \(why)") }
            } catch {
                row.failures.append("\(name): \(error)")
            }
        }
        report.rows.append(row)
    }

    private func read(_ entry: JSON) throws -> Picture? {
        let folder = bundle.folder.appendingPathComponent("golden")
        #if canImport(ImageIO)
            if let file = entry["file"].string, ModelBundle.isInside(file) {
                return try Picture(data: Data(contentsOf: folder.appendingPathComponent(file)))
            }
        #endif
        guard let raw = entry["raw"].string, ModelBundle.isInside(raw) else { return nil }
        let bytes = try readBytes(folder.appendingPathComponent(raw))
        return try Picture(width: entry["width"].int ?? 0, height: entry["height"].int ?? 0, rgb: bytes)
    }

    private func compare(_ picture: Picture, _ wanted: JSON) -> String? {
        do {
            let found = try processor.family.preprocess(picture, processor.params)
            if wanted["refused"].string != nil { return "it should be refused" }
            let shape = [found.count] + found.shape
            if shape != wanted["shape"].ints { return "pixels have shape \(shape)" }
            if found.grid != wanted["grid"].ints { return "the grid is \(found.grid)" }
            if Self.sum(found.values) == wanted["sha256"].string { return nil }
            for sample in wanted["samples"].array ?? [] {
                guard let place = sample[0].int, let value = sample[1].double, found.values.indices.contains(place) else { continue }
                if found.values[place] != Float(value) { return "pixel \(place) is \(found.values[place]), not \(value)" }
            }
            return "pixels differ"
        } catch {
            return wanted["refused"].string == nil ? "\(error)" : nil
        }
    }

    private static func sum<T>(_ values: [T]) -> String {
        var sum = SHA256Sum()
        values.withUnsafeBytes { sum.update($0) }
        return sum.finish()
    }

    private mutating func checkConversations() {
        var row = SelfTestReport.Row(kind: "conversations")
        for (number, entry) in (golden["conversations"].array ?? []).enumerated() {
            guard let (messages, images) = talk(entry) else {
                row.skipped.append("\(number): a picture of it could not be read")
                continue
            }
            row.checked += 1
            do {
                let prepared = try processor.prepare(messages, images)
                if entry["refused"].string != nil { row.failures.append("\(number): it should be refused") }
                if let why = try compare(messages, prepared, entry) { row.failures.append("\(number): \(why)") }
            } catch {
                if entry["refused"].string == nil { row.failures.append("\(number): \(error)") }
            }
        }
        report.rows.append(row)
    }

    private func compare(_ messages: [Message], _ prepared: Prepared, _ entry: JSON) throws -> String? {
        let prompt = try processor.pieces.render(messages)
        if let wanted = entry["prompt"].string, !prompt.isExactly(wanted) {
            return "the prompt is \(prompt.debugDescription), not \(wanted.debugDescription)"
        }
        let ids = unfolded(entry["ids"])
        if prepared.ids != ids { return "\(prepared.ids.count) ids, first other one at \(firstOther(prepared.ids, ids))" }
        let flat = prepared.positions.flatMap { $0.map(Int64.init) }
        if Self.sum(flat) != entry["positions"]["sha256"].string { return "positions differ" }
        let next = (prepared.positions.compactMap { $0.max() }.max() ?? -1) + 1
        return next == entry["positions"]["next"].int ? nil : "the next position is \(next)"
    }

    /// Messages and pictures of a golden conversation; nil where a picture could not be read here.
    private func talk(_ entry: JSON) -> ([Message], [Picture])? {
        let names = (entry["pictures"].array ?? []).compactMap(\.string)
        let images = names.compactMap { pictures[$0] }
        guard images.count == names.count else { return nil }
        let messages = (entry["messages"].array ?? []).compactMap { message -> Message? in
            guard let role = message["role"].string.flatMap(Message.Role.init) else { return nil }
            let parts = message["content"].string.map { [Part.text($0)] }
                ?? (message["content"].array ?? []).map { $0["type"].string == "image" ? Part.image : .text($0["text"].string ?? "") }
            return Message(role, parts)
        }
        return (messages, images)
    }

    /// Whole answers with the same ids.
    mutating func checkAnswers(_ generator: Generator, _ emit: (Event?) throws -> Void) throws {
        let answers = golden["answers"]
        var options = Options(maxTokens: answers["max_new_tokens"].int ?? 16)
        options.followsModel = false
        var row = SelfTestReport.Row(kind: "answers")
        for entry in answers["single"].array ?? [] {
            let number = entry["conversation"].int ?? -1
            guard let (messages, images) = talk(golden["conversations"][number]) else {
                row.skipped.append("\(number): a picture of it could not be read")
                continue
            }
            row.checked += 1
            var held = Held()
            let found = try generator.answer(messages, images, options, &held, emit: emit)
            _ = isSame(found, entry, "\(number)", &row)
        }
        if row.checked + row.skipped.count == 0 { row.skipped.append(answers["why"].string ?? "the bundle has none") }
        report.rows.append(row)
        try checkChat(generator, options, answers["chat"].array ?? [], emit)
    }

    private mutating func checkChat(
        _ generator: Generator, _ options: Options, _ turns: [JSON], _ emit: (Event?) throws -> Void
    ) throws {
        var row = SelfTestReport.Row(kind: "chat")
        var (messages, images, held): ([Message], [Picture], Held) = ([], [], Held())
        for (number, turn) in turns.enumerated() {
            let names = (turn["pictures"].array ?? []).compactMap(\.string)
            let new = names.compactMap { pictures[$0] }
            guard new.count == names.count else {
                row.skipped.append("\(number): a picture of it could not be read")
                break
            }
            messages.append(Message.question(turn["text"].string ?? "", images: new.count))
            images += new
            row.checked += 1
            let found = try generator.answer(messages, images, options, &held, emit: emit)
            // What follows a near tie is another conversation.
            if !isSame(found, turn["answer"], "\(number)", &row), row.failures.isEmpty { break }
            if found.timings.cachedTokens != turn["cached"].int {
                row.failures.append("\(number): \(found.timings.cachedTokens) tokens were kept, not \(turn["cached"].int ?? -1)")
            }
            messages.append(Message(.assistant, [.text(found.text)]))
        }
        report.rows.append(row)
    }

    /// Whether an answer is the one that was wanted; what differs goes into the row.
    private func isSame(_ found: Answer, _ entry: JSON, _ name: String, _ row: inout SelfTestReport.Row) -> Bool {
        guard let why = compare(found, entry) else { return true }
        let parted = found.ids != unfolded(entry["ids"])
        if parted, let gap = entry["gap"].double, gap < SelfTestReport.near {
            row.ties.append("\(name): \(why)")
        } else {
            row.failures.append("\(name): \(why)")
        }
        return false
    }

    private func compare(_ found: Answer, _ entry: JSON) -> String? {
        let wanted = unfolded(entry["ids"])
        if found.ids != wanted {
            let gap = entry["gap"].double.map { ", where the best two logits are \($0) apart at the closest" } ?? ""
            return "the answer is \(found.ids), not \(wanted)\(gap)"
        }
        if let text = entry["text"].string, !found.text.isExactly(text) {
            return "the text is \(found.text.debugDescription), not \(text.debugDescription)"
        }
        return found.finish.rawValue == entry["finish"].string ? nil : "it ended by \(found.finish.rawValue)"
    }
}

/// Ids with runs as pairs of id and count.
func unfolded(_ json: JSON) -> [Int] {
    (json.array ?? []).flatMap { one -> [Int] in
        if let id = one.int { return [id] }
        return Array(repeating: one[0].int ?? -1, count: max(0, one[1].int ?? 0))
    }
}

private func firstOther(_ one: [Int], _ other: [Int]) -> Int { zip(one, other).prefix { $0 == $1 }.count }

extension VisionModel {
    /// Whether this device makes of the bundle's golden vectors what Python made of them at export.
    ///
    /// - Parameters:
    ///   - answers: Whether whole answers are asked for too.
    public func selfTest(answers: Bool = true) async throws -> SelfTestReport {
        let box = Box<SelfTestReport>()
        let stream = stream(nil) { generator, held, emit in
            held = Held()
            var test = try SelfTest(self.bundle, self.processor)
            test.checkTexts()
            try emit(nil)
            if answers { try test.checkAnswers(generator) { _ in try emit(nil) } }
            box.value = test.report
            return Answer(text: "", ids: [], finish: .eos, timings: Timings())
        }
        for try await _ in stream {}
        guard let report = box.value else { throw CancellationError() }
        return report
    }
}

private final class Box<Value>: @unchecked Sendable {
    var value: Value?
}
