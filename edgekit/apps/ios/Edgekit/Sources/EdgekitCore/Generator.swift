import Foundation

/// The one decoding loop over any engine: one answer, and the turns of a chat over a kept cache.
final class Generator {
    private let engine: any Engine
    private let processor: Processor
    private let bundle: ModelBundle

    init(_ engine: any Engine, _ processor: Processor, _ bundle: ModelBundle) {
        (self.engine, self.processor, self.bundle) = (engine, processor, bundle)
    }

    /// Answer one prompt.
    ///
    /// - Parameters:
    ///   - messages, pictures: The whole conversation.
    ///   - held: What the engine's cache holds; nothing on the way in, should this throw.
    ///   - emit: Told each event but the last, and nil between the parts of the work; throws to end it.
    func answer(
        _ messages: [Message], _ pictures: [Picture], _ options: Options, _ held: inout Held,
        emit: (Event?) throws -> Void
    ) throws -> Answer {
        guard options.maxTokens > 0 else { throw EdgekitError("An answer has at least 1 token.", code: "settings") }
        let before = held
        held = Held()  // an answer that breaks off leaves a cache that cannot be trusted
        var (timings, clock) = (Timings(), Lap())
        let whole = try processor.prepare(messages, pictures)
        let limit = try bounded(whole.ids.count, options)
        let kept = keep(whole, before)
        let new = kept > 0 ? whole.tail(kept, before.images) : whole
        timings.preprocess = clock.lap()
        try emit(nil)
        let features = new.pixels.isEmpty ? nil : try engine.encode(new.pixels)
        timings.imageEncode = clock.lap()
        try emit(nil)
        var logits = try engine.prefill(new, features)
        timings.prefill = clock.lap()
        (timings.promptTokens, timings.cachedTokens) = (whole.ids.count - kept, kept)

        let settings = options.followsModel ? bundle.generation : .null
        let rules = Rules(settings, prompt: whole.ids, limit: options.maxTokens, ends: bundle.ends)
        var chooser = Chooser(options.sampling, rules, drawable: bundle.drawable)
        var stream = TextStream(options.stops + rules.stops, processor.decode)
        var tokens: [Int] = []
        while true {
            tokens.append(try chooser.choose(logits, whole.ids + tokens))
            if tokens.count > 1 { timings.steps.append(clock.lap()) } else { timings.firstToken = clock.lap() }
            try emit(.token(tokens[tokens.count - 1]))
            var piece = stream.push(tokens[tokens.count - 1])
            let finish = finish(tokens, stream, limit)
            if finish != nil { piece += stream.finish() }
            if !piece.isEmpty { try emit(.text(piece)) }
            try emit(nil)
            if let finish {
                // The last token was chosen, and never fed.
                held = Held(ids: whole.ids + tokens.dropLast(), prompt: whole.ids.count, images: pictures.count)
                return Answer(text: strip(stream.text), ids: tokens, finish: finish, timings: timings)
            }
            _ = clock.lap()  // showing text is no part of a token's time
            logits = try engine.step(tokens[tokens.count - 1])
        }
    }

    private func finish(_ tokens: [Int], _ stream: TextStream, _ limit: Int) -> Finish? {
        if bundle.ends.contains(tokens[tokens.count - 1]) { return .eos }
        if stream.stopped { return .stop }
        return tokens.count >= limit ? .length : nil
    }

    /// Longest answer that fits behind a prompt; a prompt that is too long is refused before any work.
    private func bounded(_ prompt: Int, _ options: Options) throws -> Int {
        let room = min(engine.room ?? .max, options.contextTokens)
        guard prompt <= room else {
            throw EdgekitError(
                "The prompt has \(prompt) tokens, and \(room) fit.",
                fix: "Ask with fewer or smaller pictures, or begin a new conversation.", code: "prompt")
        }
        return min(options.maxTokens, room - prompt + 1)  // an answer's last token is never fed
    }

    /// Rewind the cache to what it shares with a prompt; how many tokens that are.
    private func keep(_ prepared: Prepared, _ held: Held) -> Int {
        // At least one token is fed, or there would be no logits.
        var shared = zip(held.ids, prepared.ids.dropLast()).prefix { $0 == $1 }.count
        // Pictures are kept whole and all, or the conversation is prefilled anew. An image token in an answer is none.
        if held.images > 0 {
            let behind = shared < held.prompt && held.ids[shared..<held.prompt].contains(bundle.imageToken)
            if behind || prepared.pixels.count < held.images { shared = 0 }
        }
        if shared > 0, engine.rewind(shared) == shared { return shared }
        engine.reset()
        return 0
    }
}

/// Seconds from lap to lap.
struct Lap {
    private var last = DispatchTime.now().uptimeNanoseconds

    mutating func lap() -> Double {
        let now = DispatchTime.now().uptimeNanoseconds
        defer { last = now }
        return Double(now - last) / 1e9
    }
}
