import COnnxRuntime
import EdgekitCore

/// A decoder's cache: buffers that the graph appends to in place, or tensors handed on from run to run.
///
/// Where the bundle says so, keys and values stand in buffers with room to grow, given as past and as present alike: a
/// step then writes one row for each layer. States of convolutions have one size always, and are handed on.
final class KeyValueCache {
    private static let first = 256  // tokens of the first buffers; they double from there
    private let inPlace: Bool
    private let past: [ModelBundle.Tensor]
    private let present: [String]
    private var values: [OrtTensor] = []
    private var rows = 0
    private(set) var length = 0

    init(_ decoder: ModelBundle.Component, inPlace: Bool) throws {
        self.inPlace = inPlace
        past = decoder.inputs.filter { $0.name.hasPrefix("past_") }
        present = decoder.outputs.map(\.name).filter { $0.hasPrefix("present") }
        guard past.count == present.count else {
            throw EdgekitError("The decoder takes \(past.count) cache tensors and gives \(present.count).", code: "damaged")
        }
        try clear()
    }

    /// Whether a tensor has one size always.
    private func isState(_ tensor: ModelBundle.Tensor) -> Bool { !tensor.shape.dropFirst().contains(nil) }

    private var hasStates: Bool { past.contains(where: isState) }

    private func shape(_ tensor: ModelBundle.Tensor, _ rows: Int) -> [Int] { [1] + tensor.shape.dropFirst().map { $0 ?? rows } }

    /// Forget all tokens; buffers keep their size.
    func clear() throws {
        length = 0
        if !inPlace {
            values = try past.map { try OrtTensor.zeros(shape($0, 0)) }
        } else if !values.isEmpty {
            for (place, tensor) in past.enumerated() where isState(tensor) { values[place] = try OrtTensor.zeros(shape(tensor, 0)) }
        }
    }

    /// Forget the tokens from `length` on; how many are kept: 0 where states cannot go back.
    func cut(_ length: Int) throws -> Int {
        if hasStates { return 0 }
        if !inPlace {
            values = try zip(past, values).map { tensor, value in
                try copied(tensor, value, from: self.length, rows: length, kept: length)
            }
        }
        self.length = length
        return length
    }

    /// Append tokens: the graph's outputs but the cache.
    ///
    /// - Parameters:
    ///   - inputs: The decoder's but the mask and the cache.
    func run(_ graph: OrtGraph, _ inputs: [(String, OrtTensor)], tokens: Int) throws -> OrtTensor {
        let total = length + tokens
        if inPlace { try grow(total) }
        let mask = try OrtTensor([Int64](repeating: 1, count: total), [1, total], ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
        let given = inputs + [("attention_mask", mask)] + Array(zip(past.map(\.name), values))
        let kept: [OrtTensor?] = zip(past, values).map { inPlace && !isState($0) ? $1 : nil }
        let found = try graph.run(given, [("logits", nil)] + Array(zip(present, kept)), "text_decoder")
        values = Array(found.dropFirst())
        length = total
        return found[0]
    }

    /// Make room for so many tokens.
    private func grow(_ total: Int) throws {
        if total <= rows { return }
        let wanted = max(Self.first, 2 * rows, total)
        if values.isEmpty {
            values = try past.map { try OrtTensor.zeros(shape($0, wanted)) }
        } else {
            values = try zip(past, values).map { tensor, value in
                isState(tensor) ? value : try copied(tensor, value, from: rows, rows: wanted, kept: length)
            }
        }
        rows = wanted
    }

    /// A tensor (1, H, rows, D) with the first rows of another one, (1, H, from, D).
    private func copied(
        _ tensor: ModelBundle.Tensor, _ old: OrtTensor, from: Int, rows: Int, kept: Int
    ) throws -> OrtTensor {
        let sizes = shape(tensor, rows)
        guard sizes.count == 4 else { throw EdgekitError("A cache tensor has \(sizes.count) axes, not 4.", code: "damaged") }
        let new = try OrtTensor.zeros(sizes)
        if kept == 0 || rows == 0 { return new }
        let (to, given, width) = (try new.floats(), try old.floats(), sizes[3])
        for head in 0..<sizes[1] {
            for at in 0..<kept * width { to[head * rows * width + at] = given[head * from * width + at] }
        }
        return new
    }
}
