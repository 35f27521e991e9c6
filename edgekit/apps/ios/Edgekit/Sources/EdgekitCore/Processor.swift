import Foundation

/// A prompt after preprocessing.
public struct Prepared: Sendable {
    public var ids: [Int]
    /// Of each picture.
    public var pixels: [Pixels]
    public var positions: Positions

    /// What is left of a conversation when its first tokens and pictures are in the cache.
    func tail(_ start: Int, _ image: Int) -> Prepared {
        Prepared(
            ids: Array(ids[start...]), pixels: Array(pixels.dropFirst(image)),
            positions: positions.map { Array($0[start...]) })
    }
}

/// Prompts and pictures to model inputs: tokenizer, prompt pieces, image parameters.
public struct Processor: Sendable {
    public let family: any Family
    public let tokenizer: Tokenizer
    public let pieces: PromptPieces
    public let params: Preprocessing

    public init(_ bundle: ModelBundle) throws {
        family = try EdgekitCore.family(named: bundle.family)
        tokenizer = try Tokenizer(readBytes(bundle.path(bundle.tokenizer)))
        pieces = try PromptPieces(readJSON(bundle.path(ModelBundle.prompt)))
        params = bundle.preprocessing
    }

    /// The rendered prompt with each picture's place filled.
    public func expand(_ prompt: String, _ grids: [[Int]]) throws -> [(text: String, times: Int)] {
        let parts = split(prompt.scalars, family.place.scalars)
        guard parts.count == grids.count + 1 else {
            throw EdgekitError(
                "The prompt does not have one image part for each of its \(grids.count) pictures.",
                why: "\(family.place) stands there \(parts.count - 1) times; a literal one in a question counts too.",
                fix: "Leave it out of the question.", code: "prompt")
        }
        var found: [(text: String, times: Int)] = [(parts[0], 1)]
        for (grid, after) in zip(grids, parts.dropFirst()) { found += try family.filling(grid, params) + [(after, 1)] }
        return found
    }

    private func split(_ text: [Unicode.Scalar], _ place: [Unicode.Scalar]) -> [String] {
        var (parts, own, at): ([String], [Unicode.Scalar], Int) = ([], [], 0)
        while at < text.count {
            if text[at...].starts(with: place) {
                parts.append(own.text)
                own = []
                at += place.count
            } else {
                own.append(text[at])
                at += 1
            }
        }
        return parts + [own.text]
    }

    /// Token ids, pixels and positions of one prompt.
    ///
    /// - Parameters:
    ///   - pictures: In the order of the image parts.
    public func prepare(_ messages: [Message], _ pictures: [Picture]) throws -> Prepared {
        let pixels = try pictures.map { try family.preprocess($0, params) }
        let prompt = try pieces.render(messages)
        return try prepare(prompt, pixels)
    }

    func prepare(_ prompt: String, _ pixels: [Pixels]) throws -> Prepared {
        let grids = pixels.map(\.grid)
        let text = try expand(prompt, grids).map { String(repeating: $0.text, count: $0.times) }.joined()
        let ids = try pieces.around(tokenizer.encode(text), text)
        return Prepared(ids: ids, pixels: pixels, positions: try family.positions(ids, grids, params))
    }

    /// Text of generated tokens, special tokens left out, without the space that opens an answer.
    public func decode(_ ids: [Int]) -> String { stripStart(tokenizer.decode(ids)) }
}
