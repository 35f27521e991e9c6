import Foundation

/// How tokens are chosen: temperature, top-k, top-p, in the order and by the definitions of transformers. Draws come
/// from a generator of this library, so a seed gives other tokens than in Python.
public struct Sampling: Sendable {
    /// 0 is greedy.
    public let temperature: Double
    /// Keep the smallest set of tokens that holds this share, in (0, 1].
    public let topP: Double
    /// Keep so many tokens, and those as likely as the last of them; 0 for all.
    public let topK: Int
    public let seed: UInt64?

    public static let greedy = try! Sampling()

    public init(temperature: Double = 0, topP: Double = 1, topK: Int = 0, seed: UInt64? = nil) throws {
        guard temperature.isFinite, temperature >= 0, topP > 0, topP <= 1, topK >= 0 else {
            throw EdgekitError("Sampling needs temperature >= 0, topP in (0, 1] and topK >= 0.", code: "settings")
        }
        (self.temperature, self.topP, self.topK, self.seed) = (temperature, topP, topK, seed)
    }

    /// The chance of each token to be drawn; its sum is 1.
    func shares(_ logits: ArraySlice<Float>) -> [Double] {
        var values = logits.map { Double($0) / temperature }
        if topK > 0, topK < values.count {
            let least = values.sorted(by: >)[topK - 1]
            for place in values.indices where values[place] < least { values[place] = -.infinity }
        }
        let most = values.max() ?? 0
        var chances = values.map { exp($0 - most) }
        normalise(&chances)
        guard topP < 1 else { return chances }
        let order = chances.indices.sorted { chances[$0] == chances[$1] ? $0 < $1 : chances[$0] > chances[$1] }
        // A token stays while the share of those before it is below topP, so one always stays.
        var before = 0.0
        for place in order {
            let own = chances[place]
            if before >= topP { chances[place] = 0 }
            before += own
        }
        normalise(&chances)
        return chances
    }

    private func normalise(_ chances: inout [Double]) {
        let total = chances.reduce(0, +)
        for place in chances.indices { chances[place] /= total }
    }
}

/// Chooses an answer's tokens from logits (V,).
struct Chooser {
    private let sampling: Sampling
    private let rules: Rules
    private let drawable: Int
    private var random: SplitMix

    init(_ sampling: Sampling, _ rules: Rules, drawable: Int) {
        (self.sampling, self.rules, self.drawable) = (sampling, rules, drawable)
        random = SplitMix(state: sampling.seed ?? UInt64.random(in: .min ... .max))
    }

    /// - Parameters:
    ///   - ids: All tokens before, prompt and answer.
    mutating func choose(_ given: [Float], _ ids: [Int]) throws -> Int {
        let best = try greedy(given)  // refuses those that are no numbers, as the model gave them
        if rules.isEmpty, sampling.temperature == 0 { return best }
        var logits = given
        rules.apply(&logits, ids)
        // The first token is taken where the rules leave none, as transformers does.
        if sampling.temperature == 0 { return argmax(logits) }
        _ = try greedy(logits)
        return draw(sampling.shares(logits[..<min(drawable, logits.count)]))
    }

    private mutating func draw(_ chances: [Double]) -> Int {
        let wanted = Double(random.next() >> 11) * 0x1p-53
        var sum = 0.0
        for (token, chance) in chances.enumerated() where chance > 0 {
            sum += chance
            if wanted < sum { return token }
        }
        return chances.lastIndex { $0 > 0 } ?? 0
    }
}

/// The most likely token; the lowest id among equals.
func greedy(_ logits: [Float]) throws -> Int {
    let token = argmax(logits)
    guard logits[token].isFinite else {
        throw EdgekitError(
            "The model's logits are not finite.",
            why: "Its weights hold NaN, or a value left the range of its precision (float16 ends at 65,504).",
            fix: "Compare the bundle with its checkpoint: edgekit verify BUNDLE; or export it in fp32.", code: "logits")
    }
    return token
}

/// Of NaN and numbers the NaN, as NumPy's argmax.
func argmax(_ logits: [Float]) -> Int {
    var (best, most) = (0, -Float.infinity)
    for (token, value) in logits.enumerated() {
        if value.isNaN { return token }
        if value > most { (best, most) = (token, value) }
    }
    return best
}

/// Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }
}
