import Foundation

/// A model's own generation settings at work on one answer: what transformers does to the logits before the best is
/// taken, in its order. Names and meanings are those of edgekit/checkpoint/generation.py.
struct Rules {
    typealias Step = (_ logits: inout [Float], _ ids: [Int]) -> Void
    private var steps: [Step] = []
    let stops: [String]

    var isEmpty: Bool { steps.isEmpty }

    /// - Parameters:
    ///   - given: `generation` of model.json; null for none.
    ///   - prompt: Its tokens, those of pictures included.
    ///   - limit: Longest answer.
    ///   - ends: Tokens that end an answer.
    init(_ given: JSON, prompt: [Int], limit: Int, ends: Set<Int>) {
        stops = given["stop_strings"].string.map { [$0] } ?? (given["stop_strings"].array ?? []).compactMap(\.string)
        let last = prompt.count + limit - 1
        addBiases(given["sequence_bias"])
        addPenalties(given, prompt)
        addRuns(given, prompt)
        addWords(given["bad_words_ids"], ends)
        if let least = given["min_length"].int, least > 0 {
            steps.append { if $1.count < least { Self.hide(&$0, ends) } }
        }
        if let least = given["min_new_tokens"].int, least > 0 {
            steps.append { if $1.count - prompt.count < least { Self.hide(&$0, ends) } }
        }
        if let first = given["forced_bos_token_id"].int { steps.append { if $1.count == 1 { Self.only(&$0, [first]) } } }
        let forced = Self.ids(given["forced_eos_token_id"])
        if !forced.isEmpty { steps.append { if $1.count == last { Self.only(&$0, forced) } } }
        addDecay(given["exponential_decay_length_penalty"], prompt.count, ends)
        let never = Self.ids(given["suppress_tokens"])
        if !never.isEmpty { steps.append { logits, _ in Self.hide(&logits, never) } }
        let first = Self.ids(given["begin_suppress_tokens"])
        let begin = prompt.count > 1 || given["forced_bos_token_id"].isNull ? prompt.count : prompt.count + 1
        if !first.isEmpty { steps.append { if $1.count == begin { Self.hide(&$0, first) } } }
    }

    /// - Parameters:
    ///   - ids: All tokens before, prompt and answer.
    func apply(_ logits: inout [Float], _ ids: [Int]) {
        for step in steps { step(&logits, ids) }
    }

    private mutating func addPenalties(_ given: JSON, _ prompt: [Int]) {
        if let penalty = given["encoder_repetition_penalty"].double, penalty != 1 {
            steps.append { logits, _ in penalise(&logits, prompt, 1 / penalty) }
        }
        if let penalty = given["repetition_penalty"].double, penalty != 1 {
            steps.append { penalise(&$0, $1, penalty) }
        }
    }

    private mutating func addRuns(_ given: JSON, _ prompt: [Int]) {
        if let size = given["no_repeat_ngram_size"].int, size > 0 {
            steps.append { Self.noRepeat(&$0, size, $1, $1) }
        }
        if let size = given["encoder_no_repeat_ngram_size"].int, size > 0 {
            steps.append { Self.noRepeat(&$0, size, prompt, $1) }
        }
    }

    private mutating func addBiases(_ given: JSON) {
        let biases = (given.array ?? []).compactMap { pair in
            pair[1].double.flatMap { value in pair[0].ints.map { (word: $0, value: Float(value)) } }
        }
        if !biases.isEmpty { steps.append { Self.bias(&$0, biases, $1) } }
    }

    private mutating func addWords(_ given: JSON, _ ends: Set<Int>) {
        let words = (given.array ?? []).compactMap(\.ints).filter { $0.count > 1 || !ends.contains($0.first ?? -1) }
        if !words.isEmpty { steps.append { Self.bias(&$0, words.map { (word: $0, value: -Float.infinity) }, $1) } }
    }

    private mutating func addDecay(_ given: JSON, _ prompt: Int, _ ends: Set<Int>) {
        guard let start = given[0].int, let factor = given[1].double else { return }
        steps.append { logits, ids in
            guard ids.count > prompt + start else { return }
            let more = Float(pow(factor, Double(ids.count - prompt - start)) - 1)
            for end in ends where end < logits.count && logits[end].isFinite { logits[end] += abs(logits[end]) * more }
        }
    }

    private static func bias(_ logits: inout [Float], _ biases: [(word: [Int], value: Float)], _ ids: [Int]) {
        var sums: [Int: Float] = [:]
        for (word, value) in biases {
            guard let last = word.last, last < logits.count, word.count - 1 <= ids.count,
                ids.suffix(word.count - 1).elementsEqual(word.dropLast())
            else { continue }
            sums[last, default: 0] += value
        }
        for (token, value) in sums { logits[token] += value }
    }

    /// Without the tokens that would end a run of `size` tokens that stands in `text` already.
    private static func noRepeat(_ logits: inout [Float], _ size: Int, _ text: [Int], _ ids: [Int]) {
        guard ids.count >= size, text.count >= size else { return }
        let last = ids.suffix(size - 1)
        for start in 0...text.count - size where text[start..<start + size - 1].elementsEqual(last) {
            hide(&logits, [text[start + size - 1]])
        }
    }

    private static func hide(_ logits: inout [Float], _ tokens: some Sequence<Int>) {
        for token in tokens where token < logits.count { logits[token] = -.infinity }
    }

    private static func only(_ logits: inout [Float], _ tokens: [Int]) {
        logits = [Float](repeating: -.infinity, count: logits.count)
        for token in tokens where token < logits.count { logits[token] = 0 }
    }

    private static func ids(_ json: JSON) -> [Int] { json.int.map { [$0] } ?? json.ints ?? [] }
}

/// Logits of the tokens in `ids` divided by the penalty, negative ones multiplied.
func penalise(_ logits: inout [Float], _ ids: [Int], _ penalty: Double) {
    let factor = Float(penalty)
    for id in Set(ids) where id < logits.count {
        logits[id] = logits[id] < 0 ? logits[id] * factor : logits[id] / factor
    }
}
