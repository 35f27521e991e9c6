import COnnxRuntime
import EdgekitCore

extension Runtime {
    /// ONNX Runtime on the CPU.
    public static let onnx = Runtime("ONNX Runtime", targets: ["onnx"]) { bundle, threads in
        try ModuleEngine(bundle, OnnxModules(bundle, threads: threads))
    }
}

/// A bundle's graphs in ONNX Runtime.
final class OnnxModules: Modules {
    private let bundle: ModelBundle
    private let graphs: [String: OrtGraph]
    private let takes: Set<String>
    private let cache: KeyValueCache
    let room: Int? = nil

    init(_ bundle: ModelBundle, threads: Int) throws {
        self.bundle = bundle
        graphs = try bundle.components.mapValues { try OrtGraph(bundle.path($0.file), threads: threads) }
        let decoder = try bundle.component("text_decoder")
        takes = Set(decoder.inputs.map(\.name))
        cache = try KeyValueCache(decoder, inPlace: bundle.appendsInPlace)
    }

    private func run(_ component: String, _ input: String, _ tensor: OrtTensor) throws -> [OrtTensor] {
        let outputs = try bundle.component(component).outputs.map { ($0.name, OrtTensor?.none) }
        return try graph(component).run([(input, tensor)], outputs, component)
    }

    private func graph(_ component: String) throws -> OrtGraph {
        guard let found = graphs[component] else { throw EdgekitError("There is no component \(component).", code: "damaged") }
        return found
    }

    func encode(_ component: String, _ values: [Float], shape: [Int], isTiles: Bool) throws -> [[Float]] {
        // Tiles stand in a batch of prompts, patches do not.
        let tensor = try OrtTensor(values, isTiles ? [1] + shape : shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
        return try run(component, "pixel_values", tensor).map { Array(try $0.floats()) }
    }

    func embed(_ ids: [Int]) throws -> [Float] {
        let tensor = try OrtTensor(ids.map(Int64.init), [1, ids.count], ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
        let found = try run("token_embedding", "input_ids", tensor)
        return Array(try found[0].floats())
    }

    func decode(_ embeds: [Float], _ tokens: Int, _ positions: Positions, _ deepstack: [Float]?) throws -> [Float] {
        let (axes, width) = (positions.count > 1 ? [positions.count] : [], embeds.count / tokens)
        var inputs = [("inputs_embeds", try OrtTensor(embeds, [1, tokens, width], ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT))]
        if takes.contains("position_ids") {
            let flat = positions.flatMap { $0.map(Int64.init) }
            inputs.append(("position_ids", try OrtTensor(flat, axes + [1, tokens], ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)))
        }
        if let deepstack {
            let shape = [bundle.deepstack, 1, tokens, width]
            inputs.append(("deepstack_embeds", try OrtTensor(deepstack, shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)))
        }
        let logits = try cache.run(graph("text_decoder"), inputs, tokens: tokens)
        return Array(try logits.floats().suffix(bundle.vocabSize))
    }

    func reset() { try? cache.clear() }

    func rewind(_ length: Int) -> Int { (try? cache.cut(length)) ?? 0 }
}
