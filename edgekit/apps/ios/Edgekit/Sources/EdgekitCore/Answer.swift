/// What ended an answer.
public enum Finish: String, Sendable { case eos, stop, length }

/// Seconds and tokens of one answer.
public struct Timings: Sendable, Equatable {
    public var preprocess = 0.0
    public var imageEncode = 0.0
    public var prefill = 0.0
    /// Choosing the first token from the prompt's logits.
    public var firstToken = 0.0
    /// Each later token: one decode step and its choice.
    public var steps: [Double] = []
    /// Tokens that were prefilled.
    public var promptTokens = 0
    /// Tokens of a conversation that were in the cache before.
    public var cachedTokens = 0

    public var timeToFirstToken: Double { preprocess + imageEncode + prefill + firstToken }
    /// Of decoding; nil for an answer of one token.
    public var tokensPerSecond: Double? {
        let total = steps.reduce(0, +)
        return total > 0 ? Double(steps.count) / total : nil
    }
}

/// One answer.
public struct Answer: Sendable {
    /// Without special tokens and white space at both ends.
    public let text: String
    /// The end token included, where it came.
    public let ids: [Int]
    public let finish: Finish
    public let timings: Timings
}

/// What an answer's stream gives.
public enum Event: Sendable {
    /// New text, of whole characters.
    case text(String)
    case token(Int)
    /// The last one.
    case done(Answer)
}

/// How an answer is made.
public struct Options: Sendable {
    /// At least 1.
    public var maxTokens: Int
    public var sampling: Sampling
    /// Texts that end an answer and are no part of it.
    public var stops: [String]
    /// Whether the model's own generation settings are followed; else greedy is the plain best token.
    public var followsModel: Bool
    /// Prompt and answer together; longer prompts are refused before any work. The cache's own end counts too.
    public var contextTokens: Int

    public init(
        maxTokens: Int = 128, sampling: Sampling = .greedy, stops: [String] = [], followsModel: Bool = true,
        contextTokens: Int = 8192
    ) {
        self.maxTokens = maxTokens
        self.sampling = sampling
        self.stops = stops
        self.followsModel = followsModel
        self.contextTokens = contextTokens
    }
}

/// What is in an engine's cache.
struct Held {
    var ids: [Int] = []
    /// So many of them are the last prompt; the answer follows.
    var prompt = 0
    /// Pictures, all of them in the prompt.
    var images = 0
}
