import Foundation

/// A runtime that an adapter module offers, such as `.onnx` of EdgekitONNX.
public struct Runtime: Sendable {
    public let name: String
    /// Targets of bundles that it runs.
    public let targets: Set<String>
    let open: @Sendable (ModelBundle, Int) async throws -> any Engine

    /// - Parameters:
    ///   - open: From a bundle and a number of threads to its engine.
    public init(
        _ name: String, targets: Set<String>, open: @escaping @Sendable (ModelBundle, Int) async throws -> any Engine
    ) {
        (self.name, self.targets, self.open) = (name, targets, open)
    }
}

/// A bundle that answers questions on pictures: one answer at a time, off the main thread.
///
///     let model = try await VisionModel(bundle: folder, runtime: .onnx)
///     for try await event in model.answer("What is it?", picture, maxTokens: 32) { }
///
/// An answer is cancelled by cancelling the task that reads its stream.
public final class VisionModel: @unchecked Sendable {
    public let bundle: ModelBundle
    public let runtime: String
    public let processor: Processor
    private let queue = DispatchQueue(label: "edgekit.model", qos: .userInitiated)
    // All below is touched on the queue only.
    private var engine: (any Engine)?
    private var generator: Generator?
    private var held = Held()
    private var owner: ObjectIdentifier?

    /// Load a bundle.
    ///
    /// - Parameters:
    ///   - bundle: Its folder, with every file that model.json lists for the model and its text.
    ///   - threads: Of the runtime.
    public init(bundle folder: URL, runtime: Runtime, threads: Int = 1) async throws {
        let loaded = try await Task.detached(priority: .userInitiated) {
            let bundle = try ModelBundle(folder: folder)
            guard runtime.targets.contains(bundle.target) else {
                throw EdgekitError(
                    "A bundle of target \(bundle.target) cannot run in \(runtime.name).",
                    why: "It runs \(runtime.targets.sorted().joined(separator: ", ")).", code: "unsupported")
            }
            return Loaded(bundle: bundle, processor: try Processor(bundle), engine: try await runtime.open(bundle, threads))
        }.value
        (bundle, processor, engine) = (loaded.bundle, loaded.processor, loaded.engine)
        self.runtime = runtime.name
        generator = Generator(loaded.engine, loaded.processor, loaded.bundle)
    }

    private struct Loaded: @unchecked Sendable {
        let bundle: ModelBundle
        let processor: Processor
        let engine: any Engine
    }

    /// The answer to one question, from an empty cache.
    public func answer(
        _ question: String, _ picture: Picture? = nil, maxTokens: Int = 128
    ) -> AsyncThrowingStream<Event, any Error> {
        let message = Message.question(question, images: picture == nil ? 0 : 1)
        return answer([message], picture.map { [$0] } ?? [], Options(maxTokens: maxTokens))
    }

    /// The answer to a whole conversation, from an empty cache.
    ///
    /// - Parameters:
    ///   - pictures: In the order of the image parts.
    public func answer(
        _ messages: [Message], _ pictures: [Picture], _ options: Options
    ) -> AsyncThrowingStream<Event, any Error> {
        stream(nil) { generator, held, emit in
            held = Held()
            return try generator.answer(messages, pictures, options, &held, emit: emit)
        }
    }

    /// A conversation of several turns whose cache is kept from turn to turn.
    public func chat(system: String? = nil, options: Options = Options()) -> Chat {
        Chat(self, system: system, options: options)
    }

    /// Free the runtime; answers that come after it fail.
    public func close() {
        queue.async { (self.engine, self.generator, self.held) = (nil, nil, Held()) }
    }

    typealias Work = (Generator, inout Held, @escaping (Event?) throws -> Void) throws -> Answer

    /// Events of work that has the engine for itself.
    ///
    /// - Parameters:
    ///   - asker: Whose cache it may go on with; another one's is forgotten.
    func stream(_ asker: Chat?, _ work: @escaping @Sendable Work) -> AsyncThrowingStream<Event, any Error> {
        AsyncThrowingStream { continuation in
            let stop = Flag()
            continuation.onTermination = { _ in stop.set() }
            queue.async {
                do {
                    let answer = try self.run(asker, work) { event in
                        if stop.isSet { throw CancellationError() }
                        if let event { continuation.yield(event) }
                    }
                    continuation.yield(.done(answer))
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
        }
    }

    private func run(_ asker: Chat?, _ work: Work, _ emit: @escaping (Event?) throws -> Void) throws -> Answer {
        guard let generator else { throw EdgekitError("The model is closed.", code: "closed") }
        let id = asker.map(ObjectIdentifier.init)
        if id == nil || owner != id { held = Held() }
        owner = id
        return try work(generator, &held, emit)
    }
}

/// Set once, from any thread.
final class Flag: @unchecked Sendable {
    private let lock = NSLock()
    private var value = false

    var isSet: Bool { lock.withLock { value } }
    func set() { lock.withLock { value = true } }
}

/// A conversation. What of it is in the cache already stays there, and only the rest is prefilled; pictures in the cache
/// are not encoded again.
public final class Chat: @unchecked Sendable {
    private let model: VisionModel
    private let options: Options
    private let lock = NSLock()
    private var said: [Message]
    private var seen: [Picture] = []

    init(_ model: VisionModel, system: String?, options: Options) {
        (self.model, self.options) = (model, options)
        said = system.map { [Message(.system, [.text($0)])] } ?? []
    }

    /// All turns so far.
    public var messages: [Message] { lock.withLock { said } }

    /// The answer to the user's next turn; one that fails or is cancelled leaves the conversation as it was.
    ///
    /// - Parameters:
    ///   - pictures: New ones; they stand before the text.
    public func say(_ text: String, _ pictures: [Picture] = []) -> AsyncThrowingStream<Event, any Error> {
        model.stream(self) { generator, held, emit in
            let (messages, images) = self.lock.withLock {
                (self.said + [Message.question(text, images: pictures.count)], self.seen + pictures)
            }
            let answer = try generator.answer(messages, images, self.options, &held, emit: emit)
            self.lock.withLock {
                self.said = messages + [Message(.assistant, [.text(answer.text)])]
                self.seen = images
            }
            return answer
        }
    }
}
